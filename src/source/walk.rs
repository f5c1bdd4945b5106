//! Every file of a source, in memory that does not grow with their number.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Dir, Found, Node, Source};
use crate::attr::Name;
use crate::error::{Error, Result};

/// How many names of a directory are held at once.
const BATCH: usize = 512;

/// A file on the way.
#[derive(Debug)]
pub struct Step {
    /// Its path below the root.
    pub path: PathBuf,
    /// The directory that it was found in.
    pub dir: Node,
    /// Its name there.
    pub name: OsString,
    /// The file.
    pub node: Node,
    /// What it is.
    pub found: Found,
}

/// A walk from the root down: a directory comes before what is in it. It holds two
/// descriptors for each level of depth, and passes a file with several names several
/// times.
#[derive(Debug)]
pub struct Walk<'a> {
    source: &'a dyn Source,
    /// A directory that was passed on, and is entered next.
    next: Option<Node>,
    levels: Vec<Level>,
    path: PathBuf,
}

/// A directory that is being listed.
#[derive(Debug)]
struct Level {
    node: Node,
    dir: Arc<dyn Dir>,
    names: VecDeque<OsString>,
    offset: u64,
    ended: bool,
}

impl<'a> Walk<'a> {
    /// Starts at the root, which is not passed itself.
    ///
    /// # Errors
    /// As [`Source::root`].
    pub fn new(source: &'a dyn Source) -> Result<Self> {
        let (root, _) = source.root()?;
        Ok(Self { source, next: Some(root), levels: Vec::new(), path: PathBuf::new() })
    }

    /// Leaves out what is in the directory that was passed last.
    pub fn pass_by(&mut self) {
        if self.next.take().is_some() {
            self.path.pop();
        }
    }

    /// Opens the directory that is entered next, if there is one.
    fn enter(&mut self) -> Result<()> {
        let Some(node) = self.next.take() else { return Ok(()) };
        let opened = self.source.opendir(&node);
        if opened.is_err() {
            self.path.pop();
        }
        let (names, offset, ended) = (VecDeque::new(), 0, false);
        self.levels.push(Level { node, dir: opened?, names, offset, ended });
        Ok(())
    }
}

impl Level {
    /// Returns the next name; `None` at the end.
    fn name(&mut self) -> Result<Option<OsString>> {
        if self.names.is_empty() && !self.ended {
            let Self { dir, names, offset, ended, .. } = self;
            *ended = true;
            dir.read(*offset, &mut |entry| {
                *offset = entry.next;
                if entry.name != "." && entry.name != ".." {
                    names.push_back(entry.name.to_owned());
                }
                if names.len() < BATCH {
                    return ControlFlow::Continue(());
                }
                *ended = false;
                ControlFlow::Break(())
            })?;
        }
        Ok(self.names.pop_front())
    }
}

impl Iterator for Walk<'_> {
    /// A file, or what could not be read and why: the walk goes on behind it.
    type Item = std::result::Result<Step, (PathBuf, Error)>;

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.path.clone();
        if let Err(error) = self.enter() {
            return Some(Err((place, error)));
        }
        loop {
            let level = self.levels.last_mut()?;
            let name = match level.name() {
                Ok(Some(name)) => name,
                Ok(None) => {
                    self.levels.pop();
                    self.path.pop();
                    continue;
                }
                Err(error) => {
                    self.levels.pop();
                    let path = self.path.clone();
                    self.path.pop();
                    return Some(Err((path, error)));
                }
            };
            let reached = Name::new(&name).and_then(|name| self.source.reach(&level.node, name));
            let path = self.path.join(&name);
            match reached {
                Ok((node, found)) => {
                    if found.attr.kind.is_dir() {
                        self.next = Some(node.clone());
                        self.path.push(&name);
                    }
                    return Some(Ok(Step { path, dir: level.node.clone(), name, node, found }));
                }
                // Gone again, or another file by now.
                Err(error) if error == Error::Stale || error.is(libc::ENOENT) => {}
                Err(error) => return Some(Err((path, error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::host::{Host, HostOptions};
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn a_walk_passes_every_file_once_and_directories_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut wanted = BTreeSet::new();
        for place in ["a", "a/b", "a/b/c", "d", "e"] {
            fs::create_dir(dir.path().join(place)).unwrap();
            wanted.insert(PathBuf::from(place));
        }
        for number in 0..1500 {
            let path = format!("{}/{number}", ["a/b", "d", "a/b/c"][number % 3]);
            fs::write(dir.path().join(&path), "").unwrap();
            wanted.insert(path.into());
        }
        std::os::unix::fs::symlink("/", dir.path().join("a/link")).unwrap();
        wanted.insert("a/link".into());
        let host = Host::open(dir.path(), &HostOptions::default()).unwrap();
        let mut passed = BTreeSet::new();
        for step in Walk::new(&host).unwrap() {
            let Step { path, name, .. } = step.unwrap();
            assert_eq!(path.file_name(), Some(name.as_os_str()));
            let above = path.parent().unwrap();
            assert!(above == std::path::Path::new("") || passed.contains(above), "{path:?}");
            assert!(passed.insert(path));
        }
        assert_eq!(passed, wanted);

        let mut walk = Walk::new(&host).unwrap();
        let mut top = BTreeSet::new();
        while let Some(step) = walk.next() {
            top.insert(step.unwrap().path);
            walk.pass_by();
        }
        assert_eq!(top, ["a", "d", "e"].map(PathBuf::from).into());
    }
}
