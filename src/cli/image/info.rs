//! `idmapfs image info`: what an image is, or what else a file looks like.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::super::fault::{Exit, Fault};
use super::super::form::{Form, json};
use crate::id::{Disk, Id, Kind};
use crate::mount::{ImageOptions, keep_nothing};
use crate::source::image::{
    About, Device, Image, ImageError, Survey, device, in_directory, locate, read, survey,
};
use crate::text::{coded, shown};

/// How long the files of an image are looked at.
const LOOKING: Duration = Duration::from_secs(10);

/// What is known of a file; in JSON, bytes of paths that are not UTF-8, and backslashes,
/// are `\xNN`.
#[derive(Debug, Serialize)]
struct Info {
    version: u32,
    file: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Found {
    Image(Box<Facts>),
    /// Why it cannot be mounted, and the way out.
    Problem {
        problem: String,
    },
}

/// What is known of an image.
#[derive(Debug, Serialize)]
struct Facts {
    format: &'static str,
    features: Vec<String>,
    codecs: Vec<String>,
    block_size: u64,
    bytes: u64,
    files: Option<u64>,
    label: Option<String>,
    uuid: Option<String>,
    acls: bool,
    notes: Vec<String>,
    /// Ranges, first and last.
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
    /// Whether the ids are those of all files.
    complete: bool,
}

/// Prints what a file is; returns the exit status.
///
/// # Errors
/// It is no image that can be mounted: what it is instead, and what to do.
pub(super) fn info(
    file: &Path,
    options: &ImageOptions,
    form: Form,
    out: &mut dyn Write,
) -> Result<u8, Fault> {
    let found = facts(file, options);
    match (found, form) {
        (Ok(facts), Form::Text) => Fault::printing(text(&facts, out)).map(|()| 0),
        (Err(problem), Form::Text) => Err(Fault::usage(problem)),
        (found, Form::Json) => {
            let code = if found.is_ok() { 0 } else { Exit::Usage.code() };
            let found = found.map_or_else(
                |problem| Found::Problem { problem },
                |facts| Found::Image(Box::new(facts)),
            );
            let info = Info { version: 1, file: coded(file), found };
            Fault::printing(json(&info, out)).map(|()| code)
        }
    }
}

fn facts(file: &Path, options: &ImageOptions) -> Result<Facts, String> {
    if file.is_dir() {
        return Err(directory(file));
    }
    let opened = || -> Result<(Arc<Device>, Arc<dyn Image>), ImageError> {
        let device = device(file, options)?;
        keep_nothing();
        let device = Arc::new(locate(device, options)?);
        let image = read(&device)?;
        Ok((device, image))
    };
    let (device, image) = opened().map_err(|error| error.to_string())?;
    let About { format, features, codecs, block, used, files, label, uuid, acl, notes } =
        image.about().clone();
    let Survey { owners, all } = survey(&*image, LOOKING);
    if !device.is_unchanged() {
        return Err(format!("{}: it has changed meanwhile", shown(file)));
    }
    Ok(Facts {
        format,
        features,
        codecs,
        block_size: block,
        bytes: used,
        files,
        label,
        uuid: uuid.map(hyphenated),
        acls: acl,
        notes,
        uids: ranges(owners.iter().filter_map(|owner| owner.uid)),
        gids: ranges(owners.iter().filter_map(|owner| owner.gid)),
        complete: all,
    })
}

/// Says what a directory is to be done with.
fn directory(path: &Path) -> String {
    let (what, way) = in_directory(path).unwrap_or(("a directory", "idmapfs mounts it as it is"));
    format!("{}: {what}: {way}", shown(path))
}

/// Writes a UUID as everybody does.
fn hyphenated(uuid: [u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in uuid.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Puts ids into ranges, first and last.
fn ranges<K: Kind>(ids: impl Iterator<Item = Id<K, Disk>>) -> Vec<(u32, u32)> {
    let mut all: Vec<u32> = ids.map(Id::raw).collect();
    all.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for id in all {
        match ranges.last_mut() {
            Some((_, last)) if id <= last.saturating_add(1) => *last = id,
            _ => ranges.push((id, id)),
        }
    }
    ranges
}

fn text(facts: &Facts, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |word: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "{:<12}{}", format!("{word}:"), shown(value)),
    };
    let list = |ranges: &[(u32, u32)]| {
        let one = |(first, last): &(u32, u32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let all = ranges.iter().map(one).collect::<Vec<_>>().join(", ");
        if facts.complete { all } else { all + " (not all files could be looked at)" }
    };
    line("format", facts.format)?;
    line("features", &facts.features.join(", "))?;
    line("codec", &facts.codecs.join(", "))?;
    line("block size", &facts.block_size.to_string())?;
    line("bytes", &facts.bytes.to_string())?;
    line("files", &facts.files.map_or(String::new(), |files| files.to_string()))?;
    line("label", facts.label.as_deref().unwrap_or_default())?;
    line("UUID", facts.uuid.as_deref().unwrap_or_default())?;
    line("ACLs", if facts.acls { "kept" } else { "not kept" })?;
    line("uids", &list(&facts.uids))?;
    line("gids", &list(&facts.gids))?;
    facts.notes.iter().try_for_each(|note| line("note", note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_put_into_ranges() {
        let id = |raw| Id::<crate::id::User, Disk>::new(raw).unwrap();
        let ids = [7, 0, 1, 2, 65534, 8].map(id);
        assert_eq!(ranges(ids.into_iter()), [(0, 2), (7, 8), (65534, 65534)]);
        let uuid = hyphenated([0xab; 16]);
        assert_eq!(uuid, "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn what_is_no_image_is_said_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let options = ImageOptions::default();
        let said = |path: &Path| facts(path, &options).unwrap_err();
        assert!(said(dir.path()).ends_with("a directory: idmapfs mounts it as it is"));
        let manifest = dir.path().join("manifest.json");
        std::fs::write(&manifest, r#"[{"Layers":["1/layer.tar"]}]"#).unwrap();
        assert!(said(dir.path()).contains("an image that docker saved"));
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        assert!(said(&empty).contains("is empty; make an image first: "));
        std::fs::write(dir.path().join("oci-layout"), "{}").unwrap();
        assert!(said(dir.path()).contains("an OCI image layout: unpack it"));
        let mut out = Vec::new();
        let file = dir.path().join("oci-layout");
        assert_eq!(info(&file, &options, Form::Json, &mut out), Ok(1));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(value["problem"].as_str().unwrap().contains("a text"), "{value}");
        assert!(info(&file, &options, Form::Text, &mut out).is_err());
    }
}
