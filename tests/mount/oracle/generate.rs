//! Random operations: biased to names that exist and to ids that matter.

use super::acl;
use super::actor::CALLERS;
use super::ops::{Bytes, Op, SLOTS};
use crate::support::rng::Rng;

const NAMES: [&str; 22] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "la", "ld", "ln", "aa", "p", "s", "n", "x", "y",
    "z", "w", "in", "set",
];
const MODES: [u32; 18] = [
    0, 0o400, 0o600, 0o644, 0o664, 0o755, 0o777, 0o666, 0o4755, 0o2755, 0o6755, 0o2644, 0o1777,
    0o2775, 0o070, 0o007, 0o711, 0o2666,
];
/// View ids: mapped, single, unmapped, overflow, none; and a container's own.
const UIDS: [u32; 18] = [
    100_000, NONE, 100_001, 100_002, 100_001, 100_001, 100_002, 100_003, 3000, 0, 7777, 5000,
    65534, NONE, NONE, NONE, 1, 2,
];
const GIDS: [u32; 18] = [
    200_000, NONE, 200_002, 200_001, 200_001, 200_001, 200_002, 200_005, 4000, 0, 7777, 5000,
    65534, NONE, NONE, NONE, 1, 2,
];
const NONE: u32 = u32::MAX;
const LENGTHS: [i64; 8] = [0, 1, 100, 4095, 4096, 5000, 70_000, -1];
const XATTRS: [&str; 8] = [
    "user.a",
    "user.b",
    "trusted.t",
    "security.capability",
    "security.x",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "nonsense",
];
const TIMES: [(i64, i64); 7] = [
    (0, libc::UTIME_NOW),
    (0, libc::UTIME_OMIT),
    (1_000_000_000, 5),
    (0, 0),
    (-5, 0),
    (1_200_000_000, 999_999_999),
    (0, 1_000_000_000),
];

/// Where each of `CALLERS` gets far: chosen more often than other places.
const HOMES: [&[&str]; CALLERS.len()] = [
    &["alice", "alice/in", "pub", "team", "team/set", "def", "outgid"],
    &["bob", "team/set", "acl", "def", "pub", "tmp", "outuid"],
    &["one", "acl", "pub", "def", "tmp"],
    &["pub", "tmp", "def", "team/set", "acl"],
    &["pub", "alice", "alice/in", "bob", "team", "team/set", "one", "acl", "def", "outgid"],
    &["pub", "alice", "bob", "team", "acl", "def", "out"],
    &["pub", "def", "tmp", "out"],
    &["alice", "alice/in", "team", "pub", "outgid"],
    &["pub", "alice", "alice/in", "bob", "team", "team/set", "acl", "def", "tmp"],
    &["alice", "alice/in", "pub", "team", "team/set", "def"],
];

/// Makes operations; knows which paths exist and which slots are open.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    who: usize,
    dirs: Vec<String>,
    files: Vec<String>,
    open: [[bool; SLOTS]; CALLERS.len()],
}

impl Generator {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            who: 0,
            dirs: Vec::new(),
            files: Vec::new(),
            open: [[false; SLOTS]; CALLERS.len()],
        }
    }

    /// Tells what exists now.
    pub fn learn(&mut self, dirs: Vec<String>, files: Vec<String>) {
        self.dirs = dirs;
        self.files = files;
    }

    /// Tells what an operation did.
    pub fn note(&mut self, caller: usize, op: &Op, ok: bool) {
        match op {
            Op::Open { path, slot, .. } => {
                self.open[caller][*slot] = ok;
                if ok && !self.files.contains(path) && !self.dirs.contains(path) {
                    self.files.push(path.clone());
                }
            }
            Op::Close { slot } => self.open[caller][*slot] = false,
            Op::Mkdir { path, .. } if ok => self.dirs.push(path.clone()),
            Op::Mknod { path, .. } | Op::Symlink { path, .. } | Op::Link { to: path, .. } if ok => {
                self.files.push(path.clone());
            }
            _ => {}
        }
    }

    /// A caller and an operation for it.
    pub fn next(&mut self) -> (usize, Op) {
        let caller = self.rng.pick(&[0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 8, 8, 9]);
        self.who = caller;
        if self.dirs.len() + self.files.len() > 420 {
            return (self.rng.pick(&[4, 5, 5]), self.removal());
        }
        let slots: Vec<usize> = (0..SLOTS).filter(|&slot| self.open[caller][slot]).collect();
        if !slots.is_empty() && self.rng.chance(35) {
            return (caller, self.on_slot(&slots));
        }
        (caller, self.on_path())
    }

    fn removal(&mut self) -> Op {
        if self.rng.chance(30) {
            Op::Rmdir { path: self.dir() }
        } else {
            Op::Unlink { path: self.file() }
        }
    }

    /// The directory of this caller's choice, if it is its home time.
    fn home(&mut self) -> Option<&'static str> {
        let home = self.rng.pick(HOMES[self.who]);
        (self.rng.chance(65) && self.dirs.iter().any(|dir| dir == home)).then_some(home)
    }

    fn dir(&mut self) -> String {
        self.home().map_or_else(|| self.rng.pick(&self.dirs), str::to_owned)
    }

    fn file(&mut self) -> String {
        let Some(home) = self.home() else { return self.rng.pick(&self.files) };
        let below = |file: &&String| file.strip_prefix(home).is_some_and(|r| r.starts_with('/'));
        let files: Vec<&String> = self.files.iter().filter(below).collect();
        if files.is_empty() { self.rng.pick(&self.files) } else { self.rng.pick(&files).clone() }
    }

    /// A path that probably exists.
    fn path(&mut self) -> String {
        match self.rng.below(100) {
            0..60 => self.file(),
            60..90 => self.dir(),
            _ => self.new_path(),
        }
    }

    /// A name in an existing directory; it may exist.
    fn new_path(&mut self) -> String {
        let mut dir = self.dir();
        // Not deeper than three: deep trees make most operations fail alike.
        while dir.matches('/').count() > 2 {
            dir = self.dir();
        }
        let name = self.rng.pick(&NAMES);
        if dir == "." { name.to_owned() } else { format!("{dir}/{name}") }
    }

    fn mode(&mut self) -> u32 {
        self.rng.pick(&MODES)
    }

    fn slot(&mut self) -> usize {
        self.rng.below(SLOTS)
    }

    fn on_path(&mut self) -> Op {
        match self.rng.below(100) {
            0..14 => self.open(),
            14..19 => Op::Mkdir { path: self.new_path(), mode: self.mode() },
            19..24 => self.mknod(),
            24..27 => {
                let target = self.rng.pick(&NAMES).to_owned();
                Op::Symlink { target, path: self.new_path() }
            }
            27..31 => Op::Link { from: self.path(), to: self.new_path() },
            31..36 => Op::Unlink { path: self.file() },
            36..38 => Op::Rmdir { path: self.dir() },
            38..45 => self.rename(),
            45..51 => Op::Chmod { path: self.path(), mode: self.mode() },
            51..60 => Op::Chown {
                path: self.path(),
                uid: self.rng.pick(&UIDS),
                gid: self.rng.pick(&GIDS),
                follow: self.rng.chance(60),
            },
            60..64 => Op::Utimens {
                path: self.path(),
                atime: self.rng.pick(&TIMES),
                mtime: self.rng.pick(&TIMES),
                follow: self.rng.chance(70),
            },
            64..68 => self.access(),
            68..71 => Op::Stat { path: self.path() },
            71..73 => Op::Readlink { path: self.file() },
            73..75 => Op::Readdir { path: self.dir() },
            75..77 => Op::Truncate { path: self.file(), len: self.rng.pick(&LENGTHS) },
            77..87 => self.set_xattr(),
            87..92 => Op::GetXattr { path: self.path(), name: self.rng.pick(&XATTRS).to_owned() },
            92..94 => Op::ListXattr { path: self.path() },
            94..98 => {
                Op::RemoveXattr { path: self.path(), name: self.rng.pick(&XATTRS).to_owned() }
            }
            _ => Op::Umask { mask: self.rng.pick(&[0, 0o022, 0o022, 0o077, 0o777, 0o027]) },
        }
    }

    fn open(&mut self) -> Op {
        let path = if self.rng.chance(40) { self.new_path() } else { self.path() };
        // Never waits: a fifo without a peer must not stop the run.
        let mut flags = libc::O_NONBLOCK | self.rng.pick(&[libc::O_RDONLY, 1, 2, 2]);
        for (flag, percent) in [
            (libc::O_CREAT, 45),
            (libc::O_EXCL, 15),
            (libc::O_TRUNC, 20),
            (libc::O_APPEND, 15),
            (libc::O_NOFOLLOW, 10),
            (libc::O_DIRECTORY, 8),
            (libc::O_NOATIME, 5),
            (libc::O_PATH, 3),
        ] {
            flags |= if self.rng.chance(percent) { flag } else { 0 };
        }
        if self.rng.chance(2) {
            let flags = libc::O_TMPFILE | libc::O_RDWR;
            return Op::Open { path: self.dir(), flags, mode: self.mode(), slot: self.slot() };
        }
        Op::Open { path, flags, mode: self.mode(), slot: self.slot() }
    }

    fn mknod(&mut self) -> Op {
        let (kind, rdev) = self.rng.pick(&[
            (libc::S_IFREG, 0),
            (libc::S_IFREG, 0),
            (libc::S_IFIFO, 0),
            (libc::S_IFSOCK, 0),
            (libc::S_IFCHR, libc::makedev(1, 3)),
            (libc::S_IFBLK, libc::makedev(7, 250)),
            (libc::S_IFCHR, 0),
        ]);
        Op::Mknod { path: self.new_path(), mode: kind | self.mode(), rdev }
    }

    fn rename(&mut self) -> Op {
        let flags = self.rng.pick(&[
            0,
            0,
            0,
            libc::RENAME_NOREPLACE,
            libc::RENAME_EXCHANGE,
            libc::RENAME_WHITEOUT,
        ]);
        let to = if self.rng.chance(50) { self.new_path() } else { self.path() };
        Op::Rename { from: self.path(), to, flags }
    }

    fn access(&mut self) -> Op {
        let (mode, flags) = (self.rng.pick(&[0, 1, 2, 4, 6, 7]), self.rng.pick(&[0, 0x200, 0x100]));
        Op::Access { path: self.path(), mode, flags }
    }

    fn set_xattr(&mut self) -> Op {
        let name = self.rng.pick(&XATTRS);
        let value = match name {
            "security.capability" => self.capability(),
            "system.posix_acl_access" | "system.posix_acl_default" => self.list(),
            _ => vec![b'v'; self.rng.pick(&[0, 5, 5, 300, 3000])],
        };
        let flags = self.rng.pick(&[0, 0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE]);
        let path = self.path();
        Op::SetXattr { path, name: name.to_owned(), value: Bytes(value), flags }
    }

    fn capability(&mut self) -> Vec<u8> {
        let version = self.rng.pick(&[1, 2, 2, 2, 3, 3]);
        let mut value =
            acl::capability(version, self.rng.pick(&[0, 100_000, 100_001, 5000, 1, NONE]));
        if self.rng.chance(5) {
            value.truncate(7);
        }
        value
    }

    /// A POSIX ACL, mostly a valid one.
    fn list(&mut self) -> Vec<u8> {
        let named: Vec<acl::Entry> = (0..self.rng.pick(&[0, 0, 1, 2, 3]))
            .map(|_| {
                let perm = self.rng.pick(&[0, 4, 5, 6, 7]);
                if self.rng.chance(60) {
                    (acl::USER, perm, self.named_id(&UIDS))
                } else {
                    (acl::GROUP, perm, self.named_id(&GIDS))
                }
            })
            .collect();
        let (user, group, other) =
            (self.rng.pick(&[7, 6, 7]), self.rng.pick(&[7, 5, 0]), self.rng.pick(&[7, 5, 4, 0]));
        let mut value = acl::with(user, group, other, &named);
        match self.rng.below(40) {
            0 => value[0] = 1,
            1 => value.truncate(value.len() - 3),
            2 => value.clear(),
            3 => value.truncate(12),
            4 => value[4] = 0x40,
            5 => value[6] = 0x0f,
            _ => {}
        }
        value
    }

    /// An id for an entry: mostly one that a caller could name.
    fn named_id(&mut self, of: &[u32]) -> u32 {
        if self.rng.chance(12) {
            return self.rng.pick(&[NONE, NONE - 1, 5000, 0, 65534]);
        }
        let mapped: Vec<u32> =
            of.iter().copied().filter(|id| (2999..300_000).contains(id)).collect();
        let id = self.rng.pick(&mapped);
        if id == 65534 || id == 7777 || id == 5000 { of[0] } else { id }
    }

    fn on_slot(&mut self, open: &[usize]) -> Op {
        let slot = self.rng.pick(open);
        let off = self.rng.pick(&[0_u32, 10, 4096, 9000, 60_000]);
        let len = self.rng.pick(&[0_u16, 1, 100, 4096, 10_000]);
        let size = usize::from(len);
        match self.rng.below(100) {
            0..9 => Op::Close { slot },
            9..18 => Op::Read { slot, len: size },
            18..24 => Op::Pread { slot, off: off.into(), len: size },
            24..36 => Op::Write { slot, len: size },
            36..44 => Op::Pwrite { slot, off: off.into(), len: size },
            44..50 => Op::Ftruncate { slot, len: self.rng.pick(&LENGTHS) },
            50..58 => self.fallocate(slot, off.into(), len.into()),
            58..62 => Op::Fchmod { slot, mode: self.mode() },
            62..66 => Op::Fchown { slot, uid: self.rng.pick(&UIDS), gid: self.rng.pick(&GIDS) },
            66..72 => {
                let whence = self.rng.pick(&[0, 1, 2, libc::SEEK_DATA, libc::SEEK_HOLE]);
                Op::Lseek { slot, off: off.into(), whence }
            }
            72..77 => Op::CopyRange { from: slot, to: self.rng.pick(open), len: size },
            77..87 => self.lock(slot, len.into()),
            87..89 => {
                let kind = self.rng.pick(&[libc::LOCK_SH, libc::LOCK_EX, libc::LOCK_UN]);
                Op::Flock { slot, operation: kind | libc::LOCK_NB }
            }
            89..92 => Op::GetFlags { slot },
            92..95 => self.set_flags(slot),
            95..97 => Op::GetFsxattr { slot },
            _ => Op::Fsync { slot },
        }
    }

    fn fallocate(&mut self, slot: usize, off: i64, len: i64) -> Op {
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let mode = self.rng.pick(&[
            0,
            0,
            keep,
            keep | libc::FALLOC_FL_PUNCH_HOLE,
            keep | libc::FALLOC_FL_PUNCH_HOLE,
            libc::FALLOC_FL_ZERO_RANGE,
            keep | libc::FALLOC_FL_ZERO_RANGE,
            0x40,
        ]);
        Op::Fallocate { slot, mode, off, len }
    }

    fn lock(&mut self, slot: usize, len: i64) -> Op {
        let command = self.rng.pick(&[
            libc::F_SETLK,
            libc::F_SETLK,
            libc::F_GETLK,
            libc::F_OFD_SETLK,
            libc::F_OFD_GETLK,
        ]);
        let kind = self.rng.pick(&[libc::F_RDLCK, libc::F_WRLCK, libc::F_WRLCK, libc::F_UNLCK]);
        Op::Lock { slot, command, kind, start: self.rng.pick(&[0, 50, 1000]), len }
    }

    fn set_flags(&mut self, slot: usize) -> Op {
        // NODUMP, NOATIME mostly; IMMUTABLE, APPEND seldom, since they end a file's use.
        let flag = self.rng.pick(&[0x40, 0x40, 0x40, 0x80, 0x80, 0x10, 0x20]);
        if self.rng.chance(60) {
            Op::SetFlags { slot, set: flag, clear: 0 }
        } else {
            Op::SetFlags { slot, set: 0, clear: 0xf0 }
        }
    }
}
