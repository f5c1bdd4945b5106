//! `idmapfs explain --mount`: what a live mount is, and why.

use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Serialize;

use super::{Answer, answer, root};
use crate::cli::fault::Fault;
use crate::cli::form::{Form, json};
use crate::cli::policy::{asker, spec};
use crate::cli::request::Live;
use crate::cli::settings::Settings;
use crate::control::{self, Bytes, ControlError, Facts, Said};
use crate::mount::{self, IdMapped, ImageOptions, Submounts};
use crate::policy::Spec;
use crate::source::image::Part;
use crate::sys::id_map::Line;
use crate::sys::mountinfo::{self, Mount};
use crate::text::{decoded, escape, plain, shown};

/// What is said of a live mount.
#[derive(Debug, Serialize)]
struct Explained {
    mount: Facts,
    /// The flags in the mount table; empty if it is not there to be seen.
    flags: String,
    /// Whether the kernel's engine would do the same.
    kernel: Said,
    /// What the path of the image leads to by now, if that is not what was mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_now: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    files: Option<Answer>,
}

/// Prints what a mount is, and how files of it are shown.
///
/// # Errors
/// Nothing of ours is mounted there, or its server cannot be asked; the policy is
/// not at hand, or a path does not lead to a file below the source.
pub fn explain(request: &Live, out: &mut dyn Write) -> Result<(), Fault> {
    let mount = facts(&request.target)?;
    // Before an image is opened, after which nothing else can be.
    let there = here(&mount);
    let covered = there.is_some() && mount.source.starts_with(&mount.target);
    let image_now = there.as_ref().and_then(|_| amiss(&mount));
    let flags = there.map(|there| there.flags).unwrap_or_default();
    let kernel = kernel(&mount, covered);
    let asker = request.caller.as_deref().map(asker).transpose()?;
    let files = if request.paths.is_empty() && asker.is_none() {
        None
    } else {
        let spec = policy(&mount, covered)?;
        let root = root(&mount.source, &image(&mount))?;
        // As they are called where the mount is seen, too.
        let tops = [mount.source.as_path(), mount.target.as_path()];
        Some(answer(&spec, (&tops, &root), &request.paths, asker.as_ref())?)
    };
    let explained = Explained { flags, kernel, image_now, mount, files };
    Fault::printing(match request.form {
        Form::Json => json(&explained, out),
        Form::Text => text(&explained, out).and_then(|()| match &explained.files {
            Some(files) => super::text(files, asker.as_ref(), out),
            None => Ok(()),
        }),
    })
}

/// Asks the server of a mount, or says of the kernel's what is known.
fn facts(target: &Path) -> Result<Facts, Fault> {
    match control::describe(target) {
        Err(ControlError::Kernel(point)) => match IdMapped::at(&point) {
            Ok(Some(there)) => Ok(of_kernel(&there)),
            Ok(None) => Err(ControlError::Unknown(point).into()),
            Err(error) => Err(Fault::mount(format!("mount table: {error}"))),
        },
        told => Ok(told?),
    }
}

/// What is said of a policy that the kernel does not tell.
const UNTOLD: &str = "not told by the kernel, which does since Linux 6.15";

fn of_kernel(there: &IdMapped) -> Facts {
    let words = |letter: char, lines: &[Line]| {
        let word = move |line: &Line| {
            format!("map={letter}:{}:{}:{}", line.inside, line.outside, line.count)
        };
        lines.iter().map(word).collect::<Vec<String>>()
    };
    let options =
        there.maps.as_ref().map(|[users, groups]| [words('u', users), words('g', groups)].concat());
    let none = ImageOptions::default();
    let policy = options.as_deref().and_then(|options| made(options, Path::new("/"), none).ok());
    let elsewhere = || format!("{}:{}", there.mount.source.display(), there.mount.root.display());
    let itself = || Said::new("the kernel", "as in the source");
    Facts {
        version: 1,
        pid: None,
        source: there.source().unwrap_or_else(|| elsewhere().into()),
        image: None,
        devices: Vec::new(),
        target: there.mount.point.clone(),
        device: Some(there.mount.device),
        engine: Said::new("kernel", "an idmapped mount, without a server"),
        beyond_kernel: None,
        policy: policy.map_or_else(|| UNTOLD.to_owned(), |spec| spec.describe()),
        options: options.unwrap_or_default(),
        cache: Said::new("the source's own", "there is nothing between"),
        data: Said::new("the source's own", "there is nothing between"),
        acl: Said::new("translated", "by the kernel, where the source has any"),
        permission: itself(),
        submounts: Said::new(
            "copied",
            "what was mounted below at the mount has a mount of its own",
        ),
        owners: Said::new("native", "those that files have in the source"),
        mounted: Said::new("directly", "every user may enter"),
        namespace: Said::default(),
        confined: Said::default(),
        user_namespace: "initial".to_owned(),
        threads: 0,
        clone_fd: false,
    }
}

fn made(options: &[String], source: &Path, image: ImageOptions) -> Result<Spec, Fault> {
    spec(&Settings { image, ..Settings::rewritten(options)? }, source)
}

/// Returns where the image is that a mount shows: whatever way its server found it.
fn image(mount: &Facts) -> ImageOptions {
    let part = mount.image.map(|Bytes { offset, size, .. }| Part { offset, size: Some(size) });
    let devices = mount.devices.iter().map(|path| decoded(path).into()).collect();
    ImageOptions { part: part.unwrap_or_default(), devices, ..ImageOptions::default() }
}

/// What is said of a source that is seen through its own mount alone.
const COVERED: &str =
    "it is covered by this mount, and its files cannot be seen as they are on disk";

/// Returns the mount as it is here: in another namespace its path may be something else's.
fn here(mount: &Facts) -> Option<Mount> {
    let there = mountinfo::mount_at(&mount.target).ok().flatten()?;
    mount.device.is_none_or(|device| there.device == device).then_some(there)
}

/// Says what the path of an image leads to, if that is not what was mounted.
fn amiss(mount: &Facts) -> Option<String> {
    let file = mount.image?.file;
    match std::fs::metadata(&mount.source) {
        Ok(found) if file.is_none_or(|file| file == (found.dev(), found.ino())) => None,
        Ok(_) => Some("is another file than the one that is mounted".to_owned()),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            Some("is gone; the mount shows it as it was mounted".to_owned())
        }
        Err(why) => Some(format!("cannot be seen: {}", plain(&why))),
    }
}

/// Checks that an image is still what was mounted.
///
/// # Errors
/// It is gone, or something else has its name.
fn is_there(mount: &Facts) -> Result<(), Fault> {
    let Some(what) = amiss(mount) else { return Ok(()) };
    let line = format!("source {}: {what}", shown(&mount.source));
    Err(Fault::usage(line).hint("files of it are explained once it is mounted again"))
}

/// Makes the policy of a mount again, of the options that it was made with.
///
/// # Errors
/// They no longer say what is in force, or the files that it is about cannot be seen.
fn policy(mount: &Facts, covered: bool) -> Result<Spec, Fault> {
    if covered {
        let source = shown(&mount.source);
        return Err(Fault::usage(format!("source {source}: {COVERED}")));
    }
    is_there(mount)?;
    if mount.policy == UNTOLD {
        return Err(Fault::usage(format!("the policy of that mount is {UNTOLD}")));
    }
    let spec = made(&mount.options, &mount.source, image(mount))?;
    if spec.describe() == mount.policy {
        return Ok(spec);
    }
    Err(Fault::usage("what the options of that mount say by now is not the policy in force")
        .hint("idmapfs reload puts it in force; idmapfs explain SOURCE PATH explains it before"))
}

/// Says whether the kernel's engine would do the same.
fn kernel(mount: &Facts, covered: bool) -> Said {
    if mount.engine.what == "kernel" {
        return Said::new("yes", "it does");
    }
    if let Some(why) = &mount.beyond_kernel {
        return Said::new("no", why);
    }
    if mount.image.is_some() || mount::is_image(&mount.source) {
        return Said::new("no", "it would have the kernel parse the image; root can ask for that");
    }
    if covered {
        return Said::new("unknown", "the source is covered by this mount");
    }
    let submounts = match mount.submounts.what.as_str() {
        "hide" => Submounts::Hide,
        _ => Submounts::Follow,
    };
    match mount::probe(&mount.source, submounts) {
        Ok(()) => Said::new("yes", "engine=kernel would do the same without a server"),
        Err(why) => Said::new("no", why.to_string()),
    }
}

fn text(explained: &Explained, out: &mut dyn Write) -> std::io::Result<()> {
    let Explained { mount, flags, kernel, image_now, .. } = explained;
    let mut line = |word: &str, what: &str| {
        let (word, what) = (format!("{word}:"), escape(what));
        writeln!(out, "  {word:<15} {what}")
    };
    let said = |said: &Said| match said.why.as_str() {
        "" => said.what.clone(),
        why => format!("{} ({why})", said.what),
    };
    line("mount point", &shown(&mount.target))?;
    line("source", &shown(&mount.source))?;
    if let Some(Bytes { offset, size, .. }) = mount.image {
        line("image", &format!("{size} bytes of it, from byte {offset} on"))?;
    }
    if let Some(what) = image_now {
        line("image by now", what)?;
    }
    if !mount.devices.is_empty() {
        line("devices", &mount.devices.join(", "))?;
    }
    line("engine", &said(&mount.engine))?;
    if mount.pid.is_some() {
        line("engine=kernel", &said(kernel))?;
    }
    line("policy", &mount.policy)?;
    if !flags.is_empty() {
        line("flags", flags)?;
    }
    line("cache", &said(&mount.cache))?;
    line("data", &said(&mount.data))?;
    line("ACLs", &said(&mount.acl))?;
    line("permission", &said(&mount.permission))?;
    line("submounts", &said(&mount.submounts))?;
    line("owners", &said(&mount.owners))?;
    line("mounted", &said(&mount.mounted))?;
    if let Some(pid) = mount.pid {
        let device = if mount.clone_fd { "a device each" } else { "one device" };
        line("server", &format!("process {pid}, {} threads with {device}", mount.threads))?;
        line("namespaces", &said(&mount.namespace))?;
        line("confined", &said(&mount.confined))?;
        line("user namespace", &mount.user_namespace)?;
    }
    Ok(())
}
