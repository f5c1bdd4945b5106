//! What is open: files, directories, and the locks of an owner.

use std::any::Any;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Held;
use super::data::end_of;
use super::state::{IMMUTABLE, NOATIME, Serial, State, os};
use crate::acl::Capability;
use crate::attr::{Attr, FileKind};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::source::rules;
use crate::source::{
    Dir, DirEntry, File, InodeFlags, InodeFlagsKind, Lock, LockKind, Locks, Place, Rights,
};

/// How many entries a listing takes under the lock at a time.
const BATCH: usize = 64;

/// An open regular file.
#[derive(Debug)]
pub(super) struct MemoryFile {
    pub(super) held: Held,
    /// The flags of open(2).
    pub(super) flags: i32,
}

/// Sees that a file may be opened so.
pub(super) fn may_open(state: &State, serial: Serial, flags: i32) -> Result<()> {
    let inode = state.inode(serial)?;
    rules::check_open(inode.kind())?;
    if flags & libc::O_ACCMODE != libc::O_RDONLY && inode.flags & IMMUTABLE != 0 {
        return Err(os(libc::EPERM));
    }
    Ok(())
}

impl MemoryFile {
    fn serial(&self) -> Serial {
        self.held.serial
    }

    fn readable(&self) -> Result<()> {
        let access = self.flags & libc::O_ACCMODE;
        if access == libc::O_WRONLY { Err(os(libc::EBADF)) } else { Ok(()) }
    }

    fn writable(&self) -> Result<()> {
        let access = self.flags & libc::O_ACCMODE;
        if access == libc::O_RDONLY { Err(os(libc::EBADF)) } else { Ok(()) }
    }

    /// Notes a read, as with the mount option `relatime`.
    fn accessed(&self, state: &mut State) -> Result<()> {
        let now = state.now();
        let inode = state.inode_mut(self.serial())?;
        let old = inode.atime <= inode.mtime || inode.atime <= inode.ctime;
        if old && self.flags & libc::O_NOATIME == 0 && inode.flags & NOATIME == 0 {
            inode.atime = now;
        }
        Ok(())
    }

    fn write_at(&self, state: &mut State, at: u64, data: &[u8], rights: Rights) -> Result<usize> {
        state.changing(self.serial())?;
        let (contents, space) = state.contents(self.serial())?;
        let done = contents.write(at, data, space)?;
        if done > 0 {
            state.inode_mut(self.serial())?.kill_privileges(rights);
            state.modified(self.serial())?;
        }
        Ok(done)
    }
}

impl File for MemoryFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.readable()?;
        self.held.with(|state| {
            let done = state.inode(self.serial())?.data()?.read(offset, buf);
            self.accessed(state)?;
            Ok(done)
        })
    }

    fn write(&self, place: Place, data: &[u8], rights: Rights) -> Result<usize> {
        self.writable()?;
        self.held.with(|state| {
            let at = match place {
                Place::At(offset) => offset,
                Place::End => state.inode(self.serial())?.data()?.size(),
            };
            self.write_at(state, at, data, rights)
        })
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64, rights: Rights) -> Result<()> {
        self.writable()?;
        if length == 0 {
            return Err(Error::Invalid);
        }
        let end = end_of(offset, length)?;
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        self.held.with(|state| {
            state.changing(self.serial())?;
            let (data, space) = state.contents(self.serial())?;
            match mode & !libc::FALLOC_FL_KEEP_SIZE {
                0 => data.allocate(offset, end, space)?,
                libc::FALLOC_FL_PUNCH_HOLE if keep_size => data.punch(offset, end, space),
                libc::FALLOC_FL_ZERO_RANGE => {
                    data.allocate(offset, end, space)?;
                    data.punch(offset, end, space);
                    data.allocate(offset, end, space)?;
                }
                _ => return Err(Error::Unsupported),
            }
            if !keep_size {
                data.extend(end);
            }
            state.inode_mut(self.serial())?.kill_privileges(rights);
            state.modified(self.serial())
        })
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        self.held.with(|state| {
            let data = state.inode(self.serial())?.data()?;
            let inside = u64::try_from(offset).ok().filter(|&at| at < data.size());
            let offset = inside.ok_or(os(libc::ENXIO))?;
            match whence {
                libc::SEEK_DATA => data.next_data(offset).ok_or(os(libc::ENXIO)),
                libc::SEEK_HOLE => Ok(data.next_hole(offset)),
                _ => Err(Error::Invalid),
            }
        })
    }

    fn copy_to(
        &self,
        offset: u64,
        to: &dyn File,
        to_offset: u64,
        length: u64,
        rights: Rights,
    ) -> Result<usize> {
        let to = to.as_any().downcast_ref::<Self>().ok_or(os(libc::EXDEV))?;
        if !Arc::ptr_eq(&self.held.shared, &to.held.shared) {
            return Err(os(libc::EXDEV));
        }
        self.readable()?;
        to.writable()?;
        self.held.with(|state| {
            let size = state.inode(self.serial())?.data()?.size();
            let length = length.min(size.saturating_sub(offset)).min(1 << 20);
            let ends = (end_of(offset, length)?, end_of(to_offset, length)?);
            if self.serial() == to.serial() && offset < ends.1 && to_offset < ends.0 {
                return Err(Error::Invalid);
            }
            let mut buf = vec![0; usize::try_from(length).unwrap_or(0)];
            state.inode(self.serial())?.data()?.read(offset, &mut buf);
            self.accessed(state)?;
            to.write_at(state, to_offset, &buf, rights)
        })
    }

    fn getattr(&self) -> Result<Attr<Disk>> {
        self.held.with(|state| state.inode(self.serial()).map(|inode| inode.attr()))
    }

    fn capability(&self) -> Result<Option<Capability<Disk>>> {
        self.held.with(|state| Ok(state.inode(self.serial())?.capability))
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.held.with(|state| state.inode_flags(self.serial(), kind))
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.held.with(|state| state.set_inode_flags(self.serial(), flags))
    }

    fn locks(&self) -> Result<Box<dyn Locks>> {
        let (held, owner) =
            Held::open(&self.held.shared, |state| Ok((self.serial(), state.new_owner())))?;
        let file = Self { held, flags: self.flags };
        Ok(Box::new(MemoryLocks { file, owner }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The range locks of one owner: an open file of its own.
#[derive(Debug)]
struct MemoryLocks {
    file: MemoryFile,
    owner: u64,
}

impl Locks for MemoryLocks {
    fn set(&self, lock: &Lock) -> Result<()> {
        match lock.kind {
            LockKind::Shared => self.file.readable()?,
            LockKind::Exclusive => self.file.writable()?,
            LockKind::None => {}
        }
        self.file
            .held
            .with(|state| state.inode_mut(self.file.serial())?.locks.set(self.owner, lock))
    }

    fn test(&self, lock: &Lock) -> Result<Option<Lock>> {
        self.file.held.with(|state| state.inode(self.file.serial())?.locks.test(self.owner, lock))
    }
}

impl Drop for MemoryLocks {
    fn drop(&mut self) {
        self.file.held.with(|state| {
            if let Ok(inode) = state.inode_mut(self.file.serial()) {
                inode.locks.drop_owner(self.owner);
            }
        });
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct MemoryDir {
    pub(super) held: Held,
}

/// A line of a listing, taken out from under the lock.
struct Line {
    name: OsString,
    ino: u64,
    kind: FileKind,
    next: u64,
}

impl Dir for MemoryDir {
    fn read(
        &self,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut offset = offset;
        loop {
            // Not under the lock: `each` may ask the source about the entry.
            let lines = self.held.with(|state| list(state, self.held.serial, offset))?;
            let Some(last) = lines.last() else {
                return Ok(());
            };
            offset = last.next;
            for Line { name, ino, kind, next } in &lines {
                let entry =
                    DirEntry { name, ino: *ino, kind: Some(*kind), next: *next, found: None };
                if each(entry).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn upcoming(&self, offset: u64) -> Vec<OsString> {
        let lines = self.held.with(|state| list(state, self.held.serial, offset));
        lines.unwrap_or_default().into_iter().map(|line| line.name).collect()
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn inode_flags(&self, kind: InodeFlagsKind) -> Result<InodeFlags> {
        self.held.with(|state| state.inode_flags(self.held.serial, kind))
    }

    fn set_inode_flags(&self, flags: &InodeFlags) -> Result<()> {
        self.held.with(|state| state.set_inode_flags(self.held.serial, flags))
    }
}

/// Lists some entries after an offset; none at the end.
fn list(state: &State, serial: Serial, offset: u64) -> Result<Vec<Line>> {
    let dir = state.inode(serial)?;
    let names = dir.names()?;
    if dir.nlink == 0 {
        return Err(os(libc::ENOENT));
    }
    let line = |name: OsString, ino, kind, next| Line { name, ino, kind, next };
    let parent = state.inode(names.parent)?.ino;
    let dots = [
        line(".".into(), dir.ino, FileKind::Directory, 1),
        line("..".into(), parent, FileKind::Directory, 2),
    ];
    let mut lines: Vec<Line> = dots.into_iter().filter(|line| line.next > offset).collect();
    for (next, entry) in names.after(offset).take(BATCH) {
        let inode = state.inode(entry.serial)?;
        let ino = entry.covered.unwrap_or(inode.ino);
        lines.push(line(entry.name.clone(), ino, inode.kind(), next));
    }
    Ok(lines)
}
