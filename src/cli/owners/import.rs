//! `idmapfs owners import`: from JSON the records of files that are there, from a tar
//! everything.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;

use super::super::fault::Fault;
use super::line::Line;
use super::{Opened, reach, unpack, warn};
use crate::attr::FileKind;
use crate::error::Error;
use crate::source::owners::{Record, real_mode};
use crate::source::{Change, Found, Node, Rights, Source as _};
use crate::text::{plain, shown};

/// The server's own doing.
const RIGHTS: Rights = Rights { keep_setid: true, reserve: false };

/// The longest line, in bytes: a path and some attributes of 64 KiB.
const LONGEST: u64 = 1 << 20;

/// What is at the start of a compressed file, and by what it is opened.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2")];

/// Takes records from a file; `false` if some could not be taken, which was said.
///
/// # Errors
/// If the file cannot be read, or nothing can be written any more.
pub(super) fn import(opened: &Opened, from: &Path) -> Result<bool, Fault> {
    let place = |why: io::Error| Fault::usage(format!("{}: {}", shown(from), plain(&why)));
    let mut file: Box<dyn Read> = if from == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(from).map_err(place)?)
    };
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(place)?;
    if let Some((_, by)) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(Fault::usage(format!("{}: is compressed", shown(from)))
            .hint(format!("{by} -dc FILE | idmapfs owners import DIR --from -")));
    }
    // A name in a tar may begin as JSON does.
    let is_tar = start.get(257..262) == Some(b"ustar");
    let is_json = start.iter().find(|byte| !byte.is_ascii_whitespace()).is_none_or(|b| *b == b'{');
    let all = BufReader::with_capacity(1 << 16, start.as_slice().chain(file));
    if is_tar {
        unpack::unpack(opened, from, all)
    } else if is_json {
        lines(opened, from, all)
    } else {
        Err(Fault::usage(format!("{}: neither a tar (ustar, pax, GNU) nor JSON", shown(from)))
            .hint("idmapfs owners export writes either"))
    }
}

fn lines(opened: &Opened, from: &Path, mut file: impl io::BufRead) -> Result<bool, Fault> {
    let mut all = true;
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        let read = file.by_ref().take(LONGEST).read_until(b'\n', &mut text);
        let at = format!("{}: line {number}", shown(from));
        let read = read.map_err(|why| Fault::usage(format!("{at}: {}", plain(&why))))?;
        if read == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        // A file that is no such list is noticed at once, not a line at a time.
        let line: Line =
            serde_json::from_slice(&text).map_err(|why| Fault::usage(format!("{at}: {why}")))?;
        let path = line.path();
        let what = line.record().and_then(|record| Ok((record, line.attributes()?)));
        let (record, attributes) =
            what.map_err(|why| Fault::usage(format!("{at}: {}: {why}", shown(&path))))?;
        let done = reach(&*opened.below, &path).map_err(|error| error.to_string());
        let done = done.and_then(|(mut node, mut found)| {
            if let Some(record) = &record {
                if stood_in(opened, &path, &found, record)? {
                    (node, found) = reach(&*opened.below, &path).map_err(|why| why.to_string())?;
                }
                put(opened, &node, &found, record)?;
            }
            for (name, value) in &attributes {
                let set = opened.store.set_attribute(
                    &*opened.below,
                    &node,
                    &found.key,
                    name,
                    Some(value),
                );
                set.map_err(|error| format!("{}: {error}", shown(name)))?;
            }
            Ok(())
        });
        if let Err(why) = done {
            all = false;
            warn(&format!("{at}: {}: {why}", shown(&path)));
        }
    }
    Ok(all)
}

/// Has a regular file stand for one that can have no record, if its record needs one;
/// reports whether there is one now.
fn stood_in(opened: &Opened, path: &Path, found: &Found, record: &Record) -> Result<bool, String> {
    let attr = &found.attr;
    let other = record.kind.is_some_and(|(kind, _)| kind != attr.kind);
    if opened.store.takes(attr.kind) || attr.owner.uid != Some(opened.own.uid) || other {
        return Ok(false);
    }
    let told = |error: Error| error.to_string();
    let (node, shown) = reach(opened.view.as_ref(), path).map_err(told)?;
    let (uid, gid) = (Some(record.owner.uid), Some(record.owner.gid));
    let mode = Some(record.mode).filter(|_| attr.kind != FileKind::Symlink);
    let owner = (shown.attr.owner.uid, shown.attr.owner.gid);
    if owner == (uid, gid) && mode.is_none_or(|mode| mode == shown.attr.mode) {
        return Ok(false);
    }
    let change = Change { uid, gid, mode, ..Change::default() };
    opened.view.setattr(&node, None, &change, RIGHTS).map_err(told)?;
    let now = reach(&*opened.below, path).map_err(told)?.1;
    Ok(opened.store.takes(now.attr.kind))
}

/// Gives a file that is there a record.
fn put(opened: &Opened, node: &Node, found: &Found, record: &Record) -> Result<(), String> {
    let (below, attr) = (&*opened.below, &found.attr);
    let told = |error: Error| error.to_string();
    if attr.owner.uid != Some(opened.own.uid) {
        let own = opened.own.uid.raw();
        return Err(format!("on disk it is not of user {own}: a record would not count"));
    }
    match record.kind {
        None => {}
        Some((kind, _)) if kind == attr.kind => {}
        // It stands for what it cannot be.
        Some((kind, _)) if attr.kind == FileKind::Regular && !kind.is_dir() => {}
        Some(_) => return Err("it is another kind of file".to_owned()),
    }
    if !opened.store.takes(attr.kind) {
        // It is already what the record says.
        return Ok(());
    }
    // What others may have left there must not count, and they must not be able to change
    // the file when the record begins to.
    forget_attributes(opened, node, found).map_err(told)?;
    if attr.kind != FileKind::Symlink {
        let mode = Some(real_mode(attr.kind, record.mode));
        let change = Change { mode, ..Change::default() };
        below.setattr(node, None, &change, RIGHTS).map_err(told)?;
        forget_attributes(opened, node, found).map_err(told)?;
    }
    opened.store.put(below, node, &found.key, record).map_err(told)
}

/// Removes what is kept of a file beside its record.
fn forget_attributes(opened: &Opened, node: &Node, found: &Found) -> Result<(), Error> {
    let (below, store, key) = (&*opened.below, &opened.store, &found.key);
    for name in store.attributes(below, node, key)? {
        store.set_attribute(below, node, key, &name, None)?;
    }
    Ok(())
}
