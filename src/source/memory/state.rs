//! What the memory source holds: inodes, their numbers, their holders.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Options;
use super::data::{BLOCK, Data, Space};
use crate::acl::{Acl, Capability};
use crate::attr::{Attr, FileKind, Mode, Time};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Ids};
use crate::source::local::Table;
use crate::source::{FileHandle, Found, Key, Statfs};

/// What tells an inode from every other one, for ever.
pub(super) type Serial = u64;

/// The number of the first inode of every volume, as on tmpfs.
const FIRST_NUMBER: u64 = 1;

/// Offsets 1 and 2 of a listing follow `.` and `..`.
const FIRST_COOKIE: u64 = 3;

pub(super) const IMMUTABLE: u32 = 0x10;
pub(super) const NOATIME: u32 = 0x80;

/// What an inode contains.
#[derive(Debug)]
pub(super) enum Body {
    File(Data),
    Dir(Names),
    Symlink(OsString),
    Special(FileKind, u64),
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub(super) struct DirName {
    pub(super) name: OsString,
    pub(super) serial: Serial,
    /// The number of the directory that a grafted one covers.
    pub(super) covered: Option<u64>,
}

/// The entries of a directory, in an order that changes do not disturb.
#[derive(Debug)]
pub(super) struct Names {
    /// The directory that this one is in; itself for a root.
    pub(super) parent: Serial,
    cookies: HashMap<OsString, u64>,
    entries: BTreeMap<u64, DirName>,
    next: u64,
}

impl Names {
    pub(super) fn new(parent: Serial) -> Self {
        let (cookies, entries) = Default::default();
        Self { parent, cookies, entries, next: FIRST_COOKIE }
    }

    pub(super) fn get(&self, name: &OsStr) -> Option<&DirName> {
        self.entries.get(self.cookies.get(name)?)
    }

    /// Adds an entry, or changes what is there in its place.
    pub(super) fn set(&mut self, entry: DirName) -> Option<DirName> {
        let fresh = self.next;
        let cookie = *self.cookies.entry(entry.name.clone()).or_insert(fresh);
        if cookie == fresh {
            self.next = fresh.saturating_add(1);
        }
        self.entries.insert(cookie, entry)
    }

    pub(super) fn remove(&mut self, name: &OsStr) -> Option<DirName> {
        self.entries.remove(&self.cookies.remove(name)?)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entries after an offset, with their own offsets.
    pub(super) fn after(&self, offset: u64) -> impl Iterator<Item = (u64, &DirName)> {
        let from = offset.saturating_add(1).max(FIRST_COOKIE);
        self.entries.range(from..).map(|(&cookie, entry)| (cookie, entry))
    }
}

/// A file of any kind.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) volume: u64,
    pub(super) ino: u64,
    pub(super) owner: Ids<Disk>,
    pub(super) mode: Mode,
    pub(super) nlink: u32,
    pub(super) atime: Time,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) btime: Time,
    pub(super) access: Option<Acl<Disk>>,
    pub(super) default: Option<Acl<Disk>>,
    pub(super) capability: Option<Capability<Disk>>,
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
    pub(super) flags: u32,
    pub(super) project: u32,
    pub(super) body: Body,
    pub(super) locks: Table,
    /// How many nodes, open files and the like keep it alive.
    holders: usize,
}

impl Inode {
    pub(super) fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::Regular,
            Body::Dir(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    pub(super) fn names(&self) -> Result<&Names> {
        match &self.body {
            Body::Dir(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) | Body::Special(..) => Err(os(libc::ENOTDIR)),
        }
    }

    pub(super) fn names_mut(&mut self) -> Result<&mut Names> {
        match &mut self.body {
            Body::Dir(names) => Ok(names),
            Body::File(_) | Body::Symlink(_) | Body::Special(..) => Err(os(libc::ENOTDIR)),
        }
    }

    pub(super) fn data(&self) -> Result<&Data> {
        match &self.body {
            Body::File(data) => Ok(data),
            Body::Dir(_) => Err(os(libc::EISDIR)),
            Body::Symlink(_) | Body::Special(..) => Err(Error::Invalid),
        }
    }

    pub(super) fn data_mut(&mut self) -> Result<&mut Data> {
        match &mut self.body {
            Body::File(data) => Ok(data),
            Body::Dir(_) => Err(os(libc::EISDIR)),
            Body::Symlink(_) | Body::Special(..) => Err(Error::Invalid),
        }
    }

    pub(super) fn attr(&self) -> Attr<Disk> {
        let (size, blocks, rdev) = match &self.body {
            Body::File(data) => (data.size(), data.blocks().saturating_mul(BLOCK / 512), 0),
            Body::Dir(_) => (BLOCK, 0, 0),
            Body::Symlink(target) => (target.len() as u64, 0, 0),
            Body::Special(_, rdev) => (0, 0, *rdev),
        };
        Attr {
            ino: self.ino,
            kind: self.kind(),
            mode: self.mode,
            nlink: self.nlink,
            owner: self.owner.into(),
            rdev,
            size,
            blocks,
            blksize: 4096,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: Some(self.btime),
            locked: self.flags & IMMUTABLE != 0,
            encrypted: false,
        }
    }
}

/// The inode numbers of a volume.
#[derive(Debug)]
struct Volume {
    next: u64,
    free: Vec<u64>,
}

/// Everything behind the one lock of the source.
#[derive(Debug)]
pub(super) struct State {
    pub(super) options: Options,
    pub(super) space: Space,
    pub(super) root: Serial,
    inodes: HashMap<Serial, Inode>,
    volumes: HashMap<u64, Volume>,
    next_serial: Serial,
    next_owner: u64,
    clock: Time,
    /// How many nodes, open files and the like there are, and may be.
    opened: usize,
    pub(super) limit: usize,
}

/// Returns an error number as an error.
pub(super) const fn os(errno: i32) -> Error {
    Error::Os(Errno(errno))
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let mut state = Self {
            options,
            space: Space { total: options.blocks, used: 0 },
            root: 0,
            inodes: HashMap::new(),
            volumes: HashMap::new(),
            next_serial: 1,
            next_owner: 0,
            clock: Time::default(),
            opened: 0,
            limit: usize::MAX,
        };
        state.root = state.add_root(0, options.root);
        state
    }

    /// Adds a directory that is in no other, and the first one of its volume.
    pub(super) fn add_root(&mut self, volume: u64, owner: Ids<Disk>) -> Serial {
        let parent = self.next_serial;
        self.add(volume, owner, Mode::new(0o755), Body::Dir(Names::new(parent)))
    }

    /// Adds an inode; a directory has the two links that it gives itself.
    pub(super) fn add(&mut self, volume: u64, owner: Ids<Disk>, mode: Mode, body: Body) -> Serial {
        let serial = self.next_serial;
        self.next_serial = serial.saturating_add(1);
        let now = self.now();
        let nlink = if matches!(body, Body::Dir(_)) { 2 } else { 1 };
        let inode = Inode {
            volume,
            ino: self.take_number(volume),
            owner,
            mode,
            nlink,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            access: None,
            default: None,
            capability: None,
            xattrs: BTreeMap::new(),
            flags: 0,
            project: 0,
            body,
            locks: Table::default(),
            holders: 0,
        };
        self.inodes.insert(serial, inode);
        serial
    }

    /// Takes an inode number that is free: the one freed last, if any.
    pub(super) fn take_number(&mut self, volume: u64) -> u64 {
        let new = || Volume { next: FIRST_NUMBER, free: Vec::new() };
        let volume = self.volumes.entry(volume).or_insert_with(new);
        volume.free.pop().unwrap_or_else(|| {
            let number = volume.next;
            volume.next = number.saturating_add(1);
            number
        })
    }

    pub(super) fn inode(&self, serial: Serial) -> Result<&Inode> {
        self.inodes.get(&serial).ok_or(Error::Stale)
    }

    pub(super) fn inode_mut(&mut self, serial: Serial) -> Result<&mut Inode> {
        self.inodes.get_mut(&serial).ok_or(Error::Stale)
    }

    /// Returns an inode to be changed, unless it is immutable.
    pub(super) fn changing(&mut self, serial: Serial) -> Result<&mut Inode> {
        let inode = self.inode_mut(serial)?;
        if inode.flags & IMMUTABLE != 0 { Err(os(libc::EPERM)) } else { Ok(inode) }
    }

    /// Returns the contents of a file to be changed, and the space for them.
    pub(super) fn contents(&mut self, serial: Serial) -> Result<(&mut Data, &mut Space)> {
        let inode = self.inodes.get_mut(&serial).ok_or(Error::Stale)?;
        Ok((inode.data_mut()?, &mut self.space))
    }

    pub(super) fn found(&self, serial: Serial) -> Result<Found> {
        let inode = self.inode(serial)?;
        let key = Key { volume: inode.volume, ino: inode.ino, generation: serial };
        let handle = self.options.handles.then(|| handle_of(serial));
        Ok(Found { key, handle, attr: inode.attr() })
    }

    pub(super) fn by_handle(&self, handle: &FileHandle) -> Result<Serial> {
        let bytes = handle.bytes.as_ref().try_into().map_err(|_| Error::Stale)?;
        let serial = Serial::from_ne_bytes(bytes);
        self.inode(serial).map(|_| serial)
    }

    pub(super) fn by_number(&self, volume: u64, ino: u64) -> Result<Serial> {
        let is_it = |inode: &Inode| (inode.volume, inode.ino) == (volume, ino) && inode.nlink > 0;
        let found = self.inodes.iter().find(|(_, inode)| is_it(inode));
        found.map(|(serial, _)| *serial).ok_or(Error::Stale)
    }

    /// Returns the time, later than any returned before.
    pub(super) fn now(&mut self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let sec = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let read = Time { sec, nsec: since.subsec_nanos() };
        let next = match self.clock {
            Time { sec, nsec: 999_999_999 } => Time { sec: sec.saturating_add(1), nsec: 0 },
            Time { sec, nsec } => Time { sec, nsec: nsec.saturating_add(1) },
        };
        self.clock = read.max(next);
        self.clock
    }

    /// Notes that the attributes of an inode have changed.
    pub(super) fn touch(&mut self, serial: Serial) -> Result<()> {
        let now = self.now();
        self.inode_mut(serial)?.ctime = now;
        Ok(())
    }

    /// Notes that the contents of an inode have changed.
    pub(super) fn modified(&mut self, serial: Serial) -> Result<()> {
        let now = self.now();
        let inode = self.inode_mut(serial)?;
        inode.mtime = now;
        inode.ctime = now;
        Ok(())
    }

    /// Returns an owner of locks that there was not before.
    pub(super) fn new_owner(&mut self) -> u64 {
        self.next_owner = self.next_owner.saturating_add(1);
        self.next_owner
    }

    /// Sees that one thing more may be opened: `EMFILE`.
    pub(super) fn room(&self) -> Result<()> {
        if self.opened >= self.limit { Err(os(libc::EMFILE)) } else { Ok(()) }
    }

    pub(super) fn opened(&self) -> usize {
        self.opened
    }

    pub(super) fn hold(&mut self, serial: Serial) -> Result<()> {
        let inode = self.inode_mut(serial)?;
        inode.holders = inode.holders.saturating_add(1);
        self.opened = self.opened.saturating_add(1);
        Ok(())
    }

    pub(super) fn release(&mut self, serial: Serial) {
        self.opened = self.opened.saturating_sub(1);
        if let Some(inode) = self.inodes.get_mut(&serial) {
            inode.holders = inode.holders.saturating_sub(1);
        }
        self.reap(serial);
    }

    /// Takes one link of a file away, or all of a directory's.
    pub(super) fn unlinked(&mut self, serial: Serial) -> Result<()> {
        self.touch(serial)?;
        let inode = self.inode_mut(serial)?;
        let is_dir = inode.kind().is_dir();
        inode.nlink = if is_dir { 0 } else { inode.nlink.saturating_sub(1) };
        self.reap(serial);
        Ok(())
    }

    /// Forgets an inode that has neither names nor holders.
    fn reap(&mut self, serial: Serial) {
        let unused = |inode: &Inode| inode.nlink == 0 && inode.holders == 0;
        if !self.inodes.get(&serial).is_some_and(unused) {
            return;
        }
        if let Ok((data, space)) = self.contents(serial) {
            data.resize(0, space);
        }
        if let Some(inode) = self.inodes.remove(&serial)
            && self.options.reuse_numbers
            && let Some(volume) = self.volumes.get_mut(&inode.volume)
        {
            volume.free.push(inode.ino);
        }
    }

    pub(super) fn statfs(&self) -> Statfs {
        let files = self.inodes.len() as u64;
        Statfs {
            blocks: self.space.total,
            bfree: self.space.free(),
            bavail: self.space.free(),
            files: files.saturating_add(1 << 20),
            ffree: 1 << 20,
            bsize: 4096,
            namelen: 255,
            frsize: 4096,
        }
    }
}

fn handle_of(serial: Serial) -> FileHandle {
    FileHandle { kind: 1, bytes: Box::new(serial.to_ne_bytes()) }
}
