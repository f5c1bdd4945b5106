//! Where the database of a source is: which directory, which name in it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::DbError;
use crate::attr::Name;
use crate::source::owners::InodeId;
use crate::source::{Key, Source};
use crate::sys::fsid;
use crate::sys::id_map::IdMap;

/// Where the databases of root of the host are.
const OF_ROOT: &str = "/var/lib/idmapfs/owners";

/// What an ordinary user has below `$XDG_STATE_HOME`.
const OF_USER: &str = "idmapfs/owners";

/// Returns the directory of the databases where none is named: root's on the host,
/// else one of the user's home. `None` if the environment names no home.
pub fn default_dir() -> Option<PathBuf> {
    // Root of a user namespace has a home on the host, and no say in /var.
    let whole = IdMap::read("self", "uid").ok().is_some_and(|map| {
        map.lines().iter().any(|line| line.inside == 0 && line.outside == 0 && line.count > 1)
    });
    if whole && geteuid().is_root() {
        return Some(OF_ROOT.into());
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Some(state?.join(OF_USER))
}

/// The place of a database.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The directory, without symbolic links.
    pub dir: PathBuf,
    /// The database.
    pub file: PathBuf,
    /// The directory in the source below, should it be reachable there.
    pub hides: Option<InodeId>,
    /// The directories on the way to it from the root of the source.
    pub above: Vec<InodeId>,
}

impl Place {
    /// Finds the place for a source, and makes the directory if need be.
    pub fn find(dir: &Path, source: &Path, below: &dyn Source) -> Result<Self, DbError> {
        let at = |why| DbError::Dir { dir: dir.to_owned(), why };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
        let dir = dir.canonicalize().map_err(at)?;
        let about = dir.metadata().map_err(at)?;
        if about.uid() != geteuid().as_raw() || about.mode() & 0o077 != 0 {
            return Err(DbError::Open(dir));
        }
        let root = File::open(source).map_err(|why| source_fault(source, why))?;
        let (_, found) = below
            .root()
            .map_err(|error| source_fault(source, io::Error::from_raw_os_error(error.errno().0)))?;
        let file = dir.join(name(&names(&root, source)?, &found.key, source, &dir)?);
        let root = root.metadata().map_err(|why| source_fault(source, why))?;
        let (hides, above) = hidden((&dir, &about), (source, &root), below);
        Ok(Self { dir, file, hides, above })
    }
}

fn source_fault(source: &Path, why: io::Error) -> DbError {
    DbError::Source { source_dir: source.to_owned(), why }
}

/// Returns what the file system of a source may be called: by its UUID, and by what
/// statfs(2) says, which is all that an older kernel tells.
fn names(root: &File, source: &Path) -> Result<Vec<String>, DbError> {
    let fd = root.as_fd();
    let id = fsid::id(fd).map_err(|errno| source_fault(source, errno.into()))?;
    let names: Vec<String> = fsid::uuid(fd).into_iter().chain(id).collect();
    Ok(if names.is_empty() { vec!["0".to_owned()] } else { names })
}

/// Returns the name of the database: the first that is there, else the first.
fn name(names: &[String], root: &Key, source: &Path, dir: &Path) -> Result<OsString, DbError> {
    if root.generation == 0 {
        return Err(DbError::Alike(source.to_owned()));
    }
    let mut all = names
        .iter()
        .map(|called| OsString::from(format!("{called}-{}-{:016x}.db", root.ino, root.generation)));
    let there = all.clone().find(|name| dir.join(name).symlink_metadata().is_ok());
    there.or_else(|| all.next()).ok_or_else(|| DbError::Alike(source.to_owned()))
}

/// Returns which directory is not to be shown through the source, and those on the way to
/// it, should it be below the source.
fn hidden(
    (dir, about): (&Path, &Metadata),
    (source, root): (&Path, &Metadata),
    below: &dyn Source,
) -> (Option<InodeId>, Vec<InodeId>) {
    let mut way = way(dir, source, below).unwrap_or_default();
    let last = way.pop();
    // On the same device a number is one file, whatever path or mount leads there.
    let here = (about.dev() == root.dev()).then_some((0, about.ino()));
    (here.or(last), way)
}

/// Returns the directories from the source down to one below it, which comes last.
fn way(dir: &Path, source: &Path, below: &dyn Source) -> Option<Vec<InodeId>> {
    let (mut node, _) = below.root().ok()?;
    let mut way = Vec::new();
    for name in dir.strip_prefix(source.canonicalize().ok()?).ok()? {
        let (next, found) = below.reach(&node, Name::new(name).ok()?).ok()?;
        way.push((found.key.volume, found.key.ino));
        node = next;
    }
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_found_again_by_whatever_name_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let root = Key { volume: 0, ino: 2, generation: 0xab };
        let names = ["uuid".to_owned(), "id".to_owned()];
        let named = |names: &[String], root: &Key| name(names, root, Path::new("/s"), dir.path());
        assert_eq!(named(&names, &root).unwrap(), "uuid-2-00000000000000ab.db");
        std::fs::write(dir.path().join("id-2-00000000000000ab.db"), "").unwrap();
        assert_eq!(named(&names, &root).unwrap(), "id-2-00000000000000ab.db");
        assert_eq!(named(&names[..1], &root).unwrap(), "uuid-2-00000000000000ab.db");
        let alike = Key { generation: 0, ..root };
        assert!(named(&names, &alike).unwrap_err().to_string().contains("owners=xattr"));
    }
}
