//! Inodes, compact and extended: `struct erofs_inode_compact` and
//! `struct erofs_inode_extended` of fs/erofs/erofs_fs.h.

use super::bytes::{add, eio, u16_at, u32_at, u64_at};
use super::superblock::{IN_METABOX, Super};
use crate::attr::{Attr, FileKind, Mode, Time};
use crate::error::Result;
use crate::id::{Disk, Id, Owner};

/// The most bytes that an inode takes.
pub const LENGTH: usize = 64;

/// Where metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// On the device.
    Device,
    /// In the file that only has metadata.
    Metabox,
}

/// How the data of a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In one piece; `inline`: its last block is behind the inode.
    Flat {
        /// The first block; `None`: all of it is a hole.
        start: Option<u64>,
        /// Whether the last block is behind the inode.
        inline: bool,
    },
    /// Packed, with one index entry a cluster.
    Full,
    /// Packed, with index entries of two and four bytes.
    Compact,
    /// In chunks, with this format.
    Chunks(u16),
}

/// An inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: u64,
    /// What it is.
    pub kind: FileKind,
    /// Its size, in bytes.
    pub size: u64,
    /// How its data is laid out.
    pub layout: Layout,
    /// Where its metadata is.
    pub space: Space,
    /// Where its extended attributes begin in that space, in bytes, and how long they are.
    pub xattrs: (u64, usize),
    mode: u32,
    links: u32,
    owner: (u32, u32),
    modified: Time,
    /// First block, blocks, device number or chunk format, as the kind has it.
    what: u64,
}

/// What the two forms have in different places.
struct Form {
    length: u64,
    size: u64,
    links: u32,
    owner: (u32, u32),
    modified: Time,
    /// The upper bits of block numbers, where there are any.
    high: Option<u16>,
}

impl Inode {
    /// Returns in which space the inode of a number is, and where, in bytes.
    pub fn place(nid: u64, sup: &Super) -> Result<(Space, u64)> {
        if nid & IN_METABOX == 0 {
            let at = nid.checked_mul(32).ok_or_else(eio)?;
            return Ok((Space::Device, add(sup.inodes_at, at)?));
        }
        sup.metabox.ok_or_else(eio)?;
        (nid & !IN_METABOX).checked_mul(32).map(|at| (Space::Metabox, at)).ok_or_else(eio)
    }

    /// Parses the inode of a number: as many of [`LENGTH`] bytes as are there.
    pub fn parse(bytes: &[u8], nid: u64, sup: &Super) -> Result<Self> {
        let (space, at) = Self::place(nid, sup)?;
        let format = u16_at(bytes, 0)?;
        let mode = u32::from(u16_at(bytes, 4)?);
        let kind = FileKind::from_mode(mode).ok_or_else(eio)?;
        if format >> 5 != 0 {
            return Err(eio());
        }
        let form = if format & 1 == 1 {
            Form::extended(bytes)?
        } else {
            Form::compact(bytes, sup, format & 0x10 != 0 && !kind.is_dir())?
        };
        let high = form.high.map_or(0, |high| u64::from(high) << 32);
        let what = u64::from(u32_at(bytes, 16)?) | high;
        let none = if form.high.is_some() { (1 << 48) - 1 } else { u64::from(u32::MAX) };
        let layout = match (format >> 1) & 7 {
            0 => Layout::Flat { start: Some(what).filter(|what| *what != none), inline: false },
            1 => Layout::Full,
            2 => Layout::Flat { start: Some(what), inline: true },
            3 => Layout::Compact,
            4 => Layout::Chunks(u16_at(bytes, 16)?),
            _ => return Err(eio()),
        };
        let count = usize::from(u16_at(bytes, 2)?);
        let xattrs =
            count.checked_sub(1).map_or(0, |more| more.saturating_mul(4).saturating_add(12));
        Ok(Self {
            nid,
            kind,
            size: i64::try_from(form.size).map_err(|_| eio())?.cast_unsigned(),
            layout,
            space,
            xattrs: (add(at, form.length)?, xattrs),
            mode,
            links: form.links,
            owner: form.owner,
            modified: form.modified,
            what,
        })
    }

    /// Returns where what follows the extended attributes begins.
    pub fn end(&self) -> Result<u64> {
        let (at, length) = self.xattrs;
        add(at, u64::try_from(length).map_err(|_| eio())?)
    }

    /// Returns the attributes as the kernel shows them.
    pub fn attr(&self, sup: &Super) -> Result<Attr<Disk>> {
        let blocks = match self.layout {
            Layout::Full | Layout::Compact => self.what,
            Layout::Flat { .. } | Layout::Chunks(_) => self.size.div_ceil(sup.block()),
        };
        let (uid, gid) = self.owner;
        let device = u32::try_from(self.what & 0xffff_ffff).map_err(|_| eio())?;
        let rdev = match self.kind {
            FileKind::CharDevice | FileKind::BlockDevice => {
                libc::makedev((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00))
            }
            FileKind::Regular
            | FileKind::Directory
            | FileKind::Symlink
            | FileKind::Fifo
            | FileKind::Socket => 0,
        };
        Ok(Attr {
            ino: sup.ino(self.nid),
            kind: self.kind,
            mode: Mode::new(self.mode),
            nlink: self.links,
            owner: Owner { uid: Id::new(uid), gid: Id::new(gid) },
            rdev,
            size: self.size,
            blocks: blocks.checked_mul(sup.block() >> 9).ok_or_else(eio)?,
            blksize: u32::try_from(sup.block()).map_err(|_| eio())?,
            atime: self.modified,
            mtime: self.modified,
            ctime: self.modified,
            btime: None,
            locked: false,
            encrypted: false,
        })
    }
}

impl Form {
    fn compact(bytes: &[u8], sup: &Super, one_link: bool) -> Result<Self> {
        let shared = u16_at(bytes, 6)?;
        let (epoch, nsec) = sup.epoch;
        let sec = epoch.checked_add(i64::from(u32_at(bytes, 12)?)).ok_or_else(eio)?;
        Ok(Self {
            length: 32,
            size: u64::from(u32_at(bytes, 8)?),
            links: if one_link { 1 } else { u32::from(shared) },
            owner: (u32::from(u16_at(bytes, 24)?), u32::from(u16_at(bytes, 26)?)),
            modified: Time { sec, nsec: nanoseconds(nsec)? },
            high: one_link.then_some(shared),
        })
    }

    fn extended(bytes: &[u8]) -> Result<Self> {
        let nsec = nanoseconds(u32_at(bytes, 40)?)?;
        Ok(Self {
            length: 64,
            size: u64_at(bytes, 8)?,
            links: u32_at(bytes, 44)?,
            owner: (u32_at(bytes, 24)?, u32_at(bytes, 28)?),
            modified: Time { sec: u64_at(bytes, 32)?.cast_signed(), nsec },
            high: Some(u16_at(bytes, 6)?),
        })
    }
}

fn nanoseconds(nsec: u32) -> Result<u32> {
    Some(nsec).filter(|nsec| *nsec < 1_000_000_000).ok_or_else(eio)
}
