//! What a file is by what it ends with: a superblock or a footer behind the data.

use super::Device;
use super::ways::{CONVERT, KERNEL, VOLUME};

/// What each is filled up to, in bytes.
const SECTOR: u64 = 512;

/// The footer of a VHD: of a fixed one it is all that there is besides the data.
const FOOTER: &[u8] = b"conectix";

/// What a disk of Apple (UDIF) ends with.
const APPLE: &[u8] = b"koly";

/// What HFS has in its volume header, and where: from the beginning, and in a copy of it
/// as far from the end.
const HFS: (&[u8], u64) = (b"BD", 1024);

/// The superblock of md, and the bytes that a place of it is a multiple of, each with how
/// far it is from the end at least: of version 0.90, in whose order of bytes the machine
/// had it, and of 1.0 (`super_90_load` and `super_1_load` of drivers/md/md.c).
const MD: [(&[u8], u64, u64); 3] = [
    (b"\xfc\x4e\x2b\xa9", 64 << 10, 64 << 10),
    (b"\xa9\x2b\x4e\xfc", 64 << 10, 64 << 10),
    (b"\xfc\x4e\x2b\xa9", 4 << 10, 8 << 10),
];

/// What a part of a RAID is called.
pub(super) const RAID: &str = "a part of a RAID (md)";

/// Returns what a file is that begins with nothing known, and what can be done with it.
pub(super) fn probe(device: &Device) -> Option<(&'static str, &'static str)> {
    let has = |at: u64, sign: &[u8]| {
        let mut bytes = vec![0; sign.len()];
        device.read(at, &mut bytes).is_ok() && bytes == sign
    };
    let end = device.length();
    if end.checked_sub(SECTOR).is_some_and(|at| has(at, FOOTER)) {
        return Some(("a fixed VHD disk", CONVERT));
    }
    if end.checked_sub(SECTOR).is_some_and(|at| has(at, APPLE)) {
        return Some(("a disk of Apple (dmg)", CONVERT));
    }
    let (sign, place) = HFS;
    if has(place, sign) && end.checked_sub(place).is_some_and(|at| has(at, sign)) {
        return Some(("HFS", KERNEL));
    }
    let of_md = |(sign, unit, back): &(&[u8], u64, u64)| {
        let behind = end.checked_rem(*unit).and_then(|rest| rest.checked_add(*back));
        behind.and_then(|behind| end.checked_sub(behind)).is_some_and(|at| has(at, sign))
    };
    MD.iter().any(of_md).then_some((RAID, VOLUME))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::source::image::Part;

    /// Returns what a file of this length is that has bytes at a place.
    fn found(length: u64, at: u64, bytes: &[u8]) -> Option<&'static str> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(length).unwrap();
        file.as_file().write_all_at(bytes, at).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), length);
        let device = Device::open(file.path(), Part::default()).unwrap();
        probe(&device).map(|found| found.0)
    }

    #[test]
    fn what_is_at_the_end_tells() {
        let (mib, vhd) = (1 << 20, Some("a fixed VHD disk"));
        let (little, big) = (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc");
        for (length, at, bytes, wanted) in [
            (mib + 512, mib, FOOTER, vhd),
            (512, 0, FOOTER, vhd),
            (mib, mib - 1024, FOOTER, None),
            (mib, mib - 512, APPLE, Some("a disk of Apple (dmg)")),
            // At one of its places alone, and at both.
            (mib, 1024, HFS.0, None),
            (mib, mib - 1024, HFS.0, None),
            (2048, 1024, HFS.0, Some("HFS")),
            // As mdadm places them: 0.90 in the last whole 64 KiB, 1.0 at 8 KiB from the end.
            (mib, mib - (64 << 10), little, Some(RAID)),
            (mib, mib - (64 << 10), big, Some(RAID)),
            (mib + 5000, mib - (64 << 10), little, Some(RAID)),
            (mib, mib - (8 << 10), little, Some(RAID)),
            (mib + 1536, mib - (8 << 10), little, Some(RAID)),
            (mib, mib - (8 << 10), big, None),
            (mib, mib - (32 << 10), little, None),
            (7, 0, &little[..], None),
        ] {
            assert_eq!(found(length, at, bytes), wanted, "{length} {at}");
        }
    }
}
