//! A look through a source for what rules decide about: bounded, beneath the
//! source, and without following a link.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::disk::{of, open_root, subject};
use crate::attr::Name;
use crate::error::Result;
use crate::policy::check::Matches;
use crate::source::{Node, Source};
use crate::sys::dirent;
use crate::sys::stat::stat;

/// The most names that are looked at.
pub const MOST: usize = 1_000_000;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// How many names.
    pub names: usize,
    /// Whether there may be more than are looked at.
    pub cut: bool,
    /// How many directories could not be entered: other mounts, not ours, or damaged.
    pub shut: usize,
}

/// Looks at up to `most` names below a directory, until all patterns are found.
/// What is hidden is not entered, nor are other mounts.
///
/// # Errors
/// As open(2) of the directory.
pub fn walk(source: &Path, matches: &mut Matches, most: usize) -> nix::Result<Walked> {
    let root = open_root(source)?;
    let state = matches.rules().root();
    if let Some(subject) = subject(&stat(root.as_fd(), OsStr::new(""))?) {
        matches.see(&state, &subject);
    }
    let mut walked = Walked::default();
    let mut todo = vec![(PathBuf::new(), state)];
    let mut buf = vec![0; 1 << 15];
    while let Some((path, state)) = todo.pop() {
        if matches.is_done() {
            break;
        }
        let Ok(dir) = open_dir(&root, &path) else {
            walked.shut = walked.shut.saturating_add(1);
            continue;
        };
        while let Ok(filled @ 1..) = dirent::read(dir.as_fd(), &mut buf) {
            let mut rest = buf.get(..filled).unwrap_or_default();
            while let Some((entry, length)) = dirent::first(rest) {
                rest = rest.get(length..).unwrap_or_default();
                let name = entry.name;
                if name == "." || name == ".." {
                    continue;
                }
                if walked.names >= most {
                    walked.cut = true;
                    return Ok(walked);
                }
                walked.names = walked.names.saturating_add(1);
                // One that is gone again is no matter.
                let found = stat(dir.as_fd(), name).ok();
                let Some(subject) = found.as_ref().and_then(subject) else { continue };
                let is_dir = subject.kind.is_dir();
                let below = matches.rules().step(&state, name.as_bytes(), is_dir);
                if !matches.see(&below, &subject) && is_dir {
                    todo.push((path.join(name), below));
                }
            }
        }
    }
    Ok(walked)
}

/// Does the same in an image.
///
/// # Errors
/// If its root cannot be read.
pub fn walk_in(source: &dyn Source, matches: &mut Matches, most: usize) -> Result<Walked> {
    let (root, found) = source.root()?;
    let state = matches.rules().root();
    matches.see(&state, &of(&found.attr));
    // In one that is damaged a directory may be below itself.
    let mut known = HashSet::from([found.key]);
    let mut walked = Walked::default();
    let mut todo = vec![(root, state)];
    while let Some((dir, state)) = todo.pop() {
        if matches.is_done() {
            break;
        }
        let Ok(names) = listed(source, &dir) else {
            walked.shut = walked.shut.saturating_add(1);
            continue;
        };
        for name in names {
            if walked.names >= most {
                walked.cut = true;
                return Ok(walked);
            }
            walked.names = walked.names.saturating_add(1);
            let reached = Name::new(&name).and_then(|name| source.reach(&dir, name));
            let Ok((node, found)) = reached else {
                walked.shut = walked.shut.saturating_add(1);
                continue;
            };
            let subject = of(&found.attr);
            let is_dir = subject.kind.is_dir();
            let below = matches.rules().step(&state, name.as_bytes(), is_dir);
            if !matches.see(&below, &subject) && is_dir {
                if known.insert(found.key) {
                    todo.push((node, below));
                } else {
                    walked.shut = walked.shut.saturating_add(1);
                }
            }
        }
    }
    Ok(walked)
}

fn listed(source: &dyn Source, dir: &Node) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    source.opendir(dir)?.read(0, &mut |entry| {
        if entry.name != "." && entry.name != ".." {
            names.push(entry.name.to_owned());
        }
        ControlFlow::Continue(())
    })?;
    Ok(names)
}

fn open_dir(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))
}
