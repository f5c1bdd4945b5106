//! The superblock: `struct erofs_super_block` of fs/erofs/erofs_fs.h.

use super::bytes::{eio, slice, u8_at, u16_at, u32_at, u64_at};
use crate::error::Result;

/// Where it is, in bytes; blocks may be smaller and larger than that.
pub const AT: u64 = 1024;

/// How many bytes have fields that are read here.
pub const LENGTH: usize = 144;

const MAGIC: u32 = 0xe0f5_e1e2;

/// The bit of a file's number that says that its inode is in the metabox.
pub const IN_METABOX: u64 = 1 << 63;

const SB_CHKSUM: u32 = 0x1;
const SHARED_IN_METABOX: u32 = 0x8;
const PLAIN_PREFIXES: u32 = 0x10;

const LZ4_0PADDING: u32 = 0x1;
const COMPR_CFGS: u32 = 0x2;
const DEVICE_TABLE: u32 = 0x8;
const BITS_48: u32 = 0x80;
const METABOX: u32 = 0x100;
/// All bits of features without which an image cannot be read.
const KNOWN: u32 = 0x1ff;

/// What dump.erofs calls the features; bits that stand for two things are the older one.
const COMPAT_NAMES: [(u32, &str); 6] = [
    (SB_CHKSUM, "sb_csum"),
    (0x2, "mtime"),
    (0x4, "xattr_filter"),
    (SHARED_IN_METABOX, "shared_ea_in_metabox"),
    (PLAIN_PREFIXES, "plain_xattr_pfx"),
    (0x20, "ishare_xattrs"),
];
const INCOMPAT_NAMES: [(u32, &str); 9] = [
    (LZ4_0PADDING, "lz4_0padding"),
    (COMPR_CFGS, "compr_cfgs"),
    (0x4, "chunked_file"),
    (DEVICE_TABLE, "device_table"),
    (0x10, "ztailpacking"),
    (0x20, "fragments"),
    (0x40, "xattr_prefixes"),
    (BITS_48, "48bit"),
    (METABOX, "metabox"),
];

/// What the bits of available algorithms stand for.
const ALGORITHMS: [&str; 4] = ["lz4", "lzma", "deflate", "zstd"];

/// Why there is no superblock that can be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is damaged.
    Damaged(String),
    /// It has a feature that is not understood.
    Refused(String),
    /// Its data is not where it is said to be: what it has, and the way out.
    Devices(String, String),
}

/// A superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Super {
    /// The size of a block, as a power of two: 9 to 16.
    pub block_bits: u32,
    /// The number of the root directory.
    pub root: u64,
    /// How many files there are.
    pub files: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// What times of compact inodes are counted from, and their nanoseconds.
    pub epoch: (i64, u32),
    /// Where inodes are counted from, in bytes.
    pub inodes_at: u64,
    /// Where shared extended attributes are counted from, in bytes.
    pub shared_at: u64,
    /// How many prefixes of names of extended attributes there are, and where, in bytes.
    pub prefixes: (u8, u64),
    /// The file that tails of other files are in.
    pub packed: Option<u64>,
    /// The file that inodes are in.
    pub metabox: Option<u64>,
    /// How many further files it has data in, and where what it says of them is, in bytes.
    pub devices: (u16, u64),
    /// The name of the volume.
    pub label: Option<String>,
    /// The UUID of the volume.
    pub uuid: [u8; 16],
    /// Bits of the algorithms that files may be packed by.
    algorithms: u16,
    compat: u32,
    incompat: u32,
}

impl Super {
    /// Parses a superblock.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, Bad> {
        let short = |_| Bad::Damaged("it ends within the superblock".to_owned());
        if u32_at(bytes, 0).map_err(short)? != MAGIC {
            return Err(Bad::Damaged("no superblock".to_owned()));
        }
        // Before anything that such a feature might have moved.
        let incompat = u32_at(bytes, 80).map_err(short)?;
        if incompat & !KNOWN != 0 {
            return Err(Bad::Refused(format!("features {:#x}", incompat & !KNOWN)));
        }
        let parsed = Self::fields(bytes, incompat).map_err(short)?;
        if !(9..=16).contains(&parsed.block_bits) {
            return Err(Bad::Damaged(format!("blocks of 2^{} bytes", parsed.block_bits)));
        }
        if u8_at(bytes, 90).map_err(short)? != 0 {
            return Err(Bad::Refused("directory blocks of another size".to_owned()));
        }
        let unknown = parsed.algorithms.checked_shr(4).unwrap_or(0);
        if unknown != 0 {
            return Err(Bad::Refused(format!("compression algorithms {:#x}", unknown << 4)));
        }
        let own = [parsed.packed, parsed.metabox];
        if own.into_iter().flatten().any(|nid| nid & IN_METABOX != 0) {
            return Err(Bad::Damaged("the metabox is in the metabox".to_owned()));
        }
        Ok(parsed)
    }

    fn fields(bytes: &[u8], incompat: u32) -> Result<Self> {
        let has = |bit| incompat & bit != 0;
        let block_bits = u32::from(u8_at(bytes, 12)?);
        let in_bytes =
            |block: u32| u64::from(block).checked_shl(block_bits.min(16)).ok_or_else(eio);
        let low = u64::from(u32_at(bytes, 36)?);
        let short = u16_at(bytes, 14)?;
        let (root, blocks) = match u64_at(bytes, 112)? {
            long if has(BITS_48) && long != 0 => (long, low | (u64::from(short) << 32)),
            _ => (u64::from(short), low),
        };
        let label = slice(bytes, 64, 16)?.split(|byte| *byte == 0).next().unwrap_or_default();
        let label = String::from_utf8_lossy(label).into_owned();
        // Before there were others, it was lz4 and not said.
        let algorithms = if has(COMPR_CFGS) { u16_at(bytes, 84)? } else { 1 };
        Ok(Self {
            block_bits,
            root,
            files: u64_at(bytes, 16)?,
            blocks,
            epoch: (u64_at(bytes, 24)?.cast_signed(), u32_at(bytes, 32)?),
            inodes_at: in_bytes(u32_at(bytes, 40)?)?,
            shared_at: in_bytes(u32_at(bytes, 44)?)?,
            prefixes: (u8_at(bytes, 91)?, u64::from(u32_at(bytes, 92)?) << 2),
            packed: Some(u64_at(bytes, 96)?).filter(|nid| *nid != 0),
            metabox: if has(METABOX) { Some(u64_at(bytes, 128)?) } else { None },
            devices: if has(DEVICE_TABLE) {
                (u16_at(bytes, 86)?, u64::from(u16_at(bytes, 88)?) << 7)
            } else {
                (0, 0)
            },
            label: Some(label).filter(|label| !label.is_empty()),
            uuid: slice(bytes, 48, 16)?.try_into().map_err(|_| eio())?,
            algorithms,
            compat: u32_at(bytes, 8)?,
            incompat,
        })
    }

    /// Returns the size of a block, in bytes.
    pub const fn block(&self) -> u64 {
        1 << self.block_bits
    }

    /// Returns the upper part of a number of blocks, where it counts.
    pub const fn long(&self, high: u64) -> u64 {
        if self.incompat & BITS_48 != 0 { high } else { 0 }
    }

    /// Reports whether files may be packed by an algorithm, by its number.
    pub fn may_use(&self, algorithm: u8) -> bool {
        u16::from(algorithm) < 4 && self.algorithms & (1 << algorithm) != 0
    }

    /// Reports whether packed pieces begin with zeros that belong to none of them.
    pub const fn is_padded(&self) -> bool {
        self.incompat & LZ4_0PADDING != 0
    }

    /// Reports whether shared extended attributes are in the metabox.
    pub const fn shared_in_metabox(&self) -> bool {
        self.compat & SHARED_IN_METABOX != 0
    }

    /// Reports whether prefixes of names are on the device, whatever else there is.
    pub const fn plain_prefixes(&self) -> bool {
        self.compat & PLAIN_PREFIXES != 0
    }

    /// Returns how many bytes the checksum is of, from the superblock on; `None` if there
    /// is no checksum.
    pub fn sum_length(&self) -> Option<u64> {
        let block = self.block();
        let rest = block.checked_sub(AT).filter(|rest| *rest > 0).unwrap_or(block);
        (self.compat & SB_CHKSUM != 0).then_some(rest)
    }

    /// Returns the inode number that the kernel shows for a file: that of one in the
    /// metabox is kept small, see `erofs_nid_to_ino64` of fs/erofs/internal.h.
    pub const fn ino(&self, nid: u64) -> u64 {
        if self.metabox.is_none() {
            return nid;
        }
        ((nid << 1) & !0xffff_ffff) | (nid & 0x7fff_ffff) | ((nid >> 63) << 31)
    }

    /// Returns the number of the inode that the kernel shows by this one.
    pub const fn nid(&self, ino: u64) -> u64 {
        if self.metabox.is_none() {
            return ino;
        }
        ((ino & !0xffff_ffff) >> 1) | (ino & 0x7fff_ffff) | ((ino >> 31 & 1) << 63)
    }

    /// Returns the names of its features.
    pub fn features(&self) -> Vec<String> {
        let compat = COMPAT_NAMES.iter().filter(|(bit, _)| self.compat & bit != 0);
        let incompat = INCOMPAT_NAMES.iter().filter(|(bit, _)| self.incompat & bit != 0);
        compat.chain(incompat).map(|(_, name)| (*name).to_owned()).collect()
    }

    /// Returns the names of the algorithms that files may be packed by.
    pub fn codecs(&self) -> Vec<String> {
        if self.incompat & (LZ4_0PADDING | COMPR_CFGS) == 0 {
            return Vec::new();
        }
        let used = (0..).zip(ALGORITHMS).filter(|(number, _)| self.may_use(*number));
        used.map(|(_, name)| name.to_owned()).collect()
    }
}

/// Reports whether the bytes that [`Super::sum_length`] told of have the sum that is in
/// them: CRC-32C without the last inversion, the sum itself taken as 0.
pub fn sum_is_right(bytes: &[u8]) -> bool {
    let (Ok(head), Ok(sum), Some(rest)) = (slice(bytes, 0, 4), u32_at(bytes, 4), bytes.get(8..))
    else {
        return false;
    };
    [head, &[0; 4], rest].into_iter().fold(u32::MAX, crc32c) == sum
}

fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let carry = if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
            (sum >> 1) ^ carry
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        let base: [(usize, &[u8]); 4] =
            [(0, &MAGIC.to_le_bytes()), (12, &[12]), (14, &[36]), (64, b"rootfs")];
        for (at, value) in base.iter().chain(fields) {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[test]
    fn fields_are_where_the_format_has_them() {
        let long = image(&[
            (80, &[0x82, 1]),
            (84, &[9]),
            (36, &[7]),
            (112, &[1, 2, 3, 4, 5]),
            (96, &[9]),
            (128, &[11]),
            (40, &[3]),
            (24, &[0xff; 8]),
        ]);
        let parsed = Super::parse(&long).unwrap();
        assert_eq!((parsed.root, parsed.blocks), (0x05_0403_0201, (36 << 32) | 7));
        assert_eq!((parsed.packed, parsed.metabox), (Some(9), Some(11)));
        assert_eq!((parsed.inodes_at, parsed.epoch), (3 << 12, (-1, 0)));
        assert_eq!(parsed.codecs(), ["lz4", "zstd"]);
        assert_eq!(parsed.features(), ["compr_cfgs", "48bit", "metabox"]);
        assert_eq!(parsed.ino(IN_METABOX | 5), 0x8000_0005);
        assert_eq!(parsed.ino(1 << 31), 1 << 32);
        let plain = Super::parse(&image(&[])).unwrap();
        assert_eq!((plain.root, plain.label.as_deref()), (36, Some("rootfs")));
        assert_eq!((plain.ino(1 << 31), plain.codecs()), (1 << 31, Vec::new()));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let refused = |fields: &[(usize, &[u8])]| match Super::parse(&image(fields)) {
            Err(Bad::Refused(feature)) => feature,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&[(80, &[1, 2])]), "features 0x200");
        assert_eq!(refused(&[(90, &[1])]), "directory blocks of another size");
        assert_eq!(refused(&[(80, &[2]), (84, &[0x21])]), "compression algorithms 0x20");
    }

    #[test]
    fn what_cannot_be_is_damaged() {
        let wrong: [&[(usize, &[u8])]; 4] =
            [&[(0, &[0])], &[(12, &[8])], &[(12, &[17])], &[(80, &[0, 1]), (135, &[0x80])]];
        for fields in wrong {
            assert!(matches!(Super::parse(&image(fields)), Err(Bad::Damaged(_))), "{fields:?}");
        }
        assert!(matches!(Super::parse(&image(&[])[..143]), Ok(_) | Err(Bad::Damaged(_))));
        assert!(matches!(Super::parse(&[]), Err(Bad::Damaged(_))));
    }

    #[test]
    fn the_sum_is_of_everything_but_itself() {
        // RFC 3720, B.4: the sum of 32 zeros.
        assert_eq!(!crc32c(u32::MAX, &[0; 32]), 0x8a91_36aa);
        let mut bytes = image(&[]);
        let sum = crc32c(u32::MAX, &bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        assert!(sum_is_right(&bytes));
        bytes[100] ^= 1;
        assert!(!sum_is_right(&bytes) && !sum_is_right(&[]));
    }
}
