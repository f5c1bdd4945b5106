//! What a file is on disk, and what is recorded of it.

use super::super::Record;
use super::{Inner, Kept};
use crate::attr::{Attr, FileKind, Mode};
use crate::error::Result;
use crate::id::{Disk, Ids};
use crate::source::{Found, Key, Node};

/// How a file on disk stands to records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has a record that counts.
    Recorded(Record),
    /// It can have one and has none.
    Bare,
    /// It can have one, but none would count: others may write it.
    Exposed,
    /// It is of a kind that can have none.
    Kindless,
    /// It is somebody else's.
    Foreign,
}

/// A file on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What it is there.
    pub attr: Attr<Disk>,
    /// How it stands to records.
    pub standing: Standing,
}

impl Seen {
    /// Returns what it is to callers.
    pub fn shown(&self) -> Attr<Disk> {
        let Standing::Recorded(Record { owner, mode, kind }) = self.standing else {
            return self.attr;
        };
        let mut attr = Attr { owner: owner.into(), mode, ..self.attr };
        if let (FileKind::Regular, Some((kind, rdev))) = (attr.kind, kind) {
            (attr.kind, attr.rdev) = stood_for(kind, rdev);
        }
        match attr.kind {
            FileKind::Regular | FileKind::Directory => {}
            FileKind::Symlink => attr.blocks = 0,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                (attr.size, attr.blocks) = (0, 0);
            }
        }
        attr
    }

    /// Returns what it is to callers as a record; `None` if its owner has no id here.
    pub fn record(&self) -> Option<Record> {
        match self.standing {
            Standing::Recorded(record) => Some(record),
            Standing::Bare | Standing::Exposed | Standing::Kindless | Standing::Foreign => {
                let owner = Ids { uid: self.attr.owner.uid?, gid: self.attr.owner.gid? };
                Some(Record { owner, mode: self.attr.mode, kind: None })
            }
        }
    }

    /// Reports whether what is kept of it counts.
    pub const fn counts(&self) -> bool {
        matches!(self.standing, Standing::Recorded(_) | Standing::Bare)
    }
}

/// Returns what a regular file stands for: never a directory.
const fn stood_for(kind: FileKind, rdev: u64) -> (FileKind, u64) {
    match kind {
        FileKind::Regular | FileKind::Directory => (FileKind::Regular, 0),
        FileKind::CharDevice | FileKind::BlockDevice => (kind, rdev),
        FileKind::Symlink | FileKind::Fifo | FileKind::Socket => (kind, 0),
    }
}

/// Reports whether a mode on disk lets others give a file records: who may write it,
/// but to a sticky directory its owner alone (xattr(7)).
pub const fn is_exposed(disk: FileKind, mode: Mode) -> bool {
    let sticky = disk.is_dir() && mode.has(Mode::STICKY);
    !sticky && !matches!(disk, FileKind::Symlink) && mode.has(0o022)
}

/// Returns the mode that a file has on disk: nothing for others, no set-id bit.
pub const fn real_mode(disk: FileKind, mode: Mode) -> Mode {
    let runs = disk.is_dir() || mode.has(Mode::EXECUTE);
    Mode::new(if runs { 0o700 } else { 0o600 })
}

impl Kept {
    /// Reports whether what is kept of a file of the source below counts.
    ///
    /// # Errors
    /// As [`Store::get`](super::super::Store::get).
    pub fn counts(&self, node: &Node, found: &Found) -> Result<bool> {
        Ok(self.inner.recorded(node, &found.key, found.attr)?.counts())
    }
}

impl Inner {
    /// Looks at a file.
    pub(super) fn look(&self, node: &Node, key: &Key) -> Result<Seen> {
        self.recorded(node, key, self.below.getattr(node)?)
    }

    /// Looks at what is recorded of a file.
    pub(super) fn recorded(&self, node: &Node, key: &Key, attr: Attr<Disk>) -> Result<Seen> {
        let standing = if attr.owner.uid != Some(self.own.uid) {
            Standing::Foreign
        } else if !self.store.takes(attr.kind) {
            Standing::Kindless
        } else if is_exposed(attr.kind, attr.mode) {
            Standing::Exposed
        } else {
            let record = self.store.get(&*self.below, node, key)?;
            record.map_or(Standing::Bare, Standing::Recorded)
        };
        Ok(Seen { attr, standing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Time;

    fn seen(kind: FileKind, recorded: Option<(FileKind, u64)>) -> Seen {
        let record =
            Record { owner: Ids::new(5, 6).unwrap(), mode: Mode::new(0o4711), kind: recorded };
        let attr = Attr {
            ino: 1,
            kind,
            mode: Mode::new(0o700),
            nlink: 1,
            owner: Ids::new(1, 1).unwrap().into(),
            rdev: 0,
            size: 7,
            blocks: 8,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            locked: false,
            encrypted: false,
        };
        Seen { attr, standing: Standing::Recorded(record) }
    }

    #[test]
    fn only_a_regular_file_stands_for_others() {
        use FileKind::{CharDevice, Directory, Fifo, Regular, Symlink};
        for (disk, recorded, kind, rdev, size) in [
            (Regular, None, Regular, 0, 7),
            (Regular, Some((Regular, 9)), Regular, 0, 7),
            (Regular, Some((Directory, 0)), Regular, 0, 7),
            (Regular, Some((Symlink, 9)), Symlink, 0, 7),
            (Regular, Some((Fifo, 9)), Fifo, 0, 0),
            (Regular, Some((CharDevice, 9)), CharDevice, 9, 0),
            (Directory, Some((Directory, 0)), Directory, 0, 7),
            (Directory, Some((Fifo, 0)), Directory, 0, 7),
        ] {
            let shown = seen(disk, recorded).shown();
            assert_eq!((shown.kind, shown.rdev, shown.size), (kind, rdev, size), "{recorded:?}");
            assert_eq!(shown.owner, Ids::new(5, 6).unwrap().into());
            assert_eq!(shown.mode, Mode::new(0o4711));
        }
    }

    #[test]
    fn who_may_write_a_file_may_give_it_records() {
        use FileKind::{Directory, Regular, Symlink};
        for (kind, mode, exposed) in [
            (Regular, 0o755, false),
            (Regular, 0o775, true),
            (Regular, 0o757, true),
            (Regular, 0o1777, true),
            (Directory, 0o2755, false),
            (Directory, 0o2775, true),
            (Directory, 0o777, true),
            (Directory, 0o1777, false),
            (Symlink, 0o777, false),
        ] {
            assert_eq!(is_exposed(kind, Mode::new(mode)), exposed, "{kind:?} {mode:o}");
        }
    }

    #[test]
    fn modes_on_disk_give_nobody_anything() {
        for (kind, mode, expected) in [
            (FileKind::Regular, 0o7777, 0o700),
            (FileKind::Regular, 0o6666, 0o600),
            (FileKind::Regular, 0, 0o600),
            (FileKind::Regular, 0o001, 0o700),
            (FileKind::Directory, 0, 0o700),
            (FileKind::Directory, 0o3777, 0o700),
        ] {
            assert_eq!(real_mode(kind, Mode::new(mode)), Mode::new(expected), "{kind:?} {mode:o}");
        }
    }
}
