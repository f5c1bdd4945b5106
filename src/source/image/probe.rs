//! What a file is, by the bytes that each format begins with.

use super::ends::{self, RAID};
use super::ways::{
    ARCHIVE, BUNDLE, CONVERT, CPIO, DEB, DWARFS, FLASH, KERNEL, MEND, NAME, OFFSET, OPEN, POOL,
    RPM, SEALED, SIMG, UNPACK, VOLUME,
};
use super::{Device, ImageError, Packed, START, archive, mbr, packed, partition, program};

/// A format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ext4, and ext2 and ext3, which its reader tells from it.
    Ext4,
    /// squashfs of any version, the reader knows 4.
    Squashfs,
    /// erofs.
    Erofs,
}

impl Format {
    /// Returns the kernel's name of it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
        }
    }

    /// Returns the program that looks an image of this format over.
    pub const fn check(self) -> &'static str {
        match self {
            Self::Ext4 => "e2fsck -n",
            Self::Squashfs => "unsquashfs -s",
            Self::Erofs => "fsck.erofs",
        }
    }
}

/// Bytes at a place, and what they are the sign of.
struct Sign<T> {
    at: u64,
    bytes: &'static [u8],
    of: T,
}

const fn sign<T>(at: u64, bytes: &'static [u8], of: T) -> Sign<T> {
    Sign { at, bytes, of }
}

/// Of file systems that can be read.
const FORMATS: [Sign<Format>; 4] = [
    sign(0, b"hsqs", Format::Squashfs),
    sign(0, b"sqsh", Format::Squashfs),
    sign(1024, b"\xe2\xe1\xf5\xe0", Format::Erofs),
    // The last: its first 1024 bytes may be those of a boot loader.
    sign(1024 + 56, b"\x53\xef", Format::Ext4),
];

/// What else a file may look like, and what to do with it.
const OTHERS: [Sign<(&str, &str)>; 75] = [
    sign(257, b"ustar", ("a tar archive", ARCHIVE)),
    sign(0, b"PK\x03\x04", ("a zip archive", UNPACK)),
    sign(0, b"7z\xbc\xaf\x27\x1c", ("a 7z archive", UNPACK)),
    sign(0, b"Rar!\x1a\x07", ("a RAR archive", UNPACK)),
    sign(0, b"MSWIM\0\0\0", ("an archive of Windows (WIM)", UNPACK)),
    sign(0, b"flatpak\0", ("a bundle of flatpak", BUNDLE)),
    sign(0, b"070701", ("a cpio archive", CPIO)),
    sign(0, b"070702", ("a cpio archive", CPIO)),
    sign(0, b"070707", ("a cpio archive", CPIO)),
    sign(0, b"\xc7\x71", ("a cpio archive", CPIO)),
    sign(0, b"!<arch>\ndebian-binary", ("a package (deb)", DEB)),
    sign(0, b"!<arch>\n", ("an archive of ar", UNPACK)),
    sign(0, b"\xed\xab\xee\xdb", ("a package (rpm)", RPM)),
    sign(0, b"QFI\xfb\0\0\0\x01", ("a qcow disk", CONVERT)),
    sign(0, b"QFI\xfb", ("a qcow2 disk", CONVERT)),
    sign(0, b"QED\0", ("a QED disk", CONVERT)),
    sign(0, b"KDMV", ("a VMDK disk", CONVERT)),
    sign(0, b"# Disk DescriptorFile", ("a VMDK disk that is in other files", CONVERT)),
    sign(0x40, b"\x7f\x10\xda\xbe", ("a VDI disk", CONVERT)),
    sign(0, b"conectix", ("a VHD disk", CONVERT)),
    sign(0, b"vhdxfile", ("a VHDX disk", CONVERT)),
    sign(0, b"WithoutFreeSpace", ("a disk of Parallels", CONVERT)),
    sign(0, b"WithouFreSpacExt", ("a disk of Parallels", CONVERT)),
    sign(0, b"\x3a\xff\x26\xed", ("a sparse image of Android", SIMG)),
    sign(0, b"LUKS\xba\xbe", ("encrypted by LUKS", OPEN)),
    sign(3, b"-FVE-FS-", ("encrypted by BitLocker", OPEN)),
    sign(0, b"integrt\0", ("sealed by dm-integrity", SEALED)),
    sign(512, b"LABELONE", ("a physical volume of LVM2", VOLUME)),
    sign(0, b"\xfc\x4e\x2b\xa9", (RAID, VOLUME)),
    sign(4096, b"\xfc\x4e\x2b\xa9", (RAID, VOLUME)),
    sign(0, b"verity\0\0", ("the hashes of dm-verity", "name the file that they are of")),
    sign(3, b"NTFS    ", ("NTFS", KERNEL)),
    sign(3, b"EXFAT   ", ("exFAT", KERNEL)),
    sign(54, b"FAT12   ", ("FAT", KERNEL)),
    sign(54, b"FAT16   ", ("FAT", KERNEL)),
    sign(82, b"FAT32", ("FAT", KERNEL)),
    sign(32769, b"CD001", ("an ISO 9660 image", KERNEL)),
    sign(32769, b"BEA01", ("UDF", KERNEL)),
    sign(0, b"XFSB", ("XFS", KERNEL)),
    sign(0x10040, b"_BHRfS_M", ("Btrfs", KERNEL)),
    sign(1024, b"\x10\x20\xf5\xf2", ("F2FS", KERNEL)),
    sign(1024, b"H+\0\x04", ("HFS+", KERNEL)),
    sign(1024, b"HX\0\x05", ("HFS+", KERNEL)),
    sign(0x10034, b"ReIsEr", ("ReiserFS", KERNEL)),
    sign(0x8000, b"JFS1", ("JFS", KERNEL)),
    sign(4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9", ("bcachefs", KERNEL)),
    sign(4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", ("a part of a bcache", VOLUME)),
    // The end of a label, in either order of bytes: its first bytes may be anything.
    sign(131_032, b"\x11\x7a\x0c\xb1\x7a\xda\x10\x02", ("a part of a ZFS pool", POOL)),
    sign(131_032, b"\x02\x10\xda\x7a\xb1\x0c\x7a\x11", ("a part of a ZFS pool", POOL)),
    sign(1024, b"\x02\0\0\0\0\0\x34\x34", ("NILFS2", KERNEL)),
    sign(65536, b"\x01\x16\x19\x70", ("GFS2", KERNEL)),
    sign(8192, b"OCFSV2", ("OCFS2", KERNEL)),
    // Versions 1 and 2, with names of 14 and of 30 bytes and unmounted; then 3.
    sign(1024 + 16, b"\x7f\x13\x01\0", ("Minix", KERNEL)),
    sign(1024 + 16, b"\x8f\x13\x01\0", ("Minix", KERNEL)),
    sign(1024 + 16, b"\x68\x24\x01\0", ("Minix", KERNEL)),
    sign(1024 + 16, b"\x78\x24\x01\0", ("Minix", KERNEL)),
    sign(1024 + 24, b"\x5a\x4d\0\0", ("Minix", KERNEL)),
    sign(0, b"DWARFS", ("DwarFS", DWARFS)),
    sign(0, b"\x45\x3d\xcd\x28", ("cramfs", KERNEL)),
    sign(512, b"\x45\x3d\xcd\x28", ("cramfs", KERNEL)),
    sign(0, b"-rom1fs-", ("romfs", KERNEL)),
    sign(0, b"UBI#", ("UBI", FLASH)),
    sign(0, b"\x31\x18\x10\x06", ("UBIFS", FLASH)),
    // A node for a name, of data, and of blocks that are erased; in either order of bytes.
    sign(0, b"\x85\x19\x01\xe0", ("JFFS2", FLASH)),
    sign(0, b"\x85\x19\x02\xe0", ("JFFS2", FLASH)),
    sign(0, b"\x85\x19\x03\x20", ("JFFS2", FLASH)),
    sign(0, b"\x19\x85\xe0\x01", ("JFFS2", FLASH)),
    sign(0, b"\x19\x85\xe0\x02", ("JFFS2", FLASH)),
    sign(0, b"\x19\x85\x20\x03", ("JFFS2", FLASH)),
    sign(0, b"\x0b\xe5\xa9\x41", ("a disk with a label of SGI", OFFSET)),
    sign(188, b"\x60\x0d\xde\xee", ("a disk with a label of Sun", OFFSET)),
    sign(4086, b"SWAPSPACE2", ("swap space", NAME)),
    sign(65526, b"SWAPSPACE2", ("swap space", NAME)),
    sign(0, b"\x7fELF", ("a program", NAME)),
    sign(0, b"#!", ("a script", NAME)),
];

/// A table of partitions (GPT): where it is in disks of either size of blocks.
const TABLES: [Sign<()>; 2] = [sign(512, b"EFI PART", ()), sign(4096, b"EFI PART", ())];

/// The end of a boot sector.
const BOOT: Sign<(&str, &str)> = sign(
    510,
    b"\x55\xaa",
    ("a boot sector, and neither a table of partitions nor a file system that is known", OFFSET),
);

/// The second header of LUKS2, and where it may be: each place is twice the one before.
const SECOND: &[u8] = b"SKUL\xba\xbe";
const FIRST_PLACE: u64 = 0x4000;
const PLACES: u32 = 9;

/// Returns the format of an image.
///
/// # Errors
/// `Unknown`, with what it looks like and what can be done.
pub fn probe(device: &Device) -> Result<Format, ImageError> {
    if let Some(found) = FORMATS.iter().find(|sign| bears(device, sign)) {
        return Ok(found.of);
    }
    let (looks, way) = other(device);
    Err(ImageError::Unknown { path: device.path().to_owned(), looks, way })
}

/// Says what a file is that is no image, and what can be done with it.
fn other(device: &Device) -> (String, String) {
    let said = |(looks, way): (&str, &str)| (looks.to_owned(), way.to_owned());
    if let Some(layers) = archive::of_layers(&mut |at, buf| device.read(at, buf).is_ok()) {
        return said(layers);
    }
    if let Some(Packed { by, program }) = packed_by(device) {
        let way = format!(
            "unpack it first ({program} -d): it may be an image or an archive; a packed tar archive can \
             be taken as it is: idmapfs image build ARCHIVE OUT.erofs"
        );
        return (format!("packed by {by}"), way);
    }
    let has_table = TABLES.iter().any(|sign| bears(device, sign)) || mbr::is_protective(device);
    if has_table && let Some(there) = partition::there(device) {
        if there.is_empty() {
            return said(("a disk with a GPT that has no partition", OFFSET));
        }
        let way = format!("name what of it is the image: --partition=root, or one of {there}");
        return ("a disk with a GPT".to_owned(), way);
    }
    if let Some(found) = behind(device) {
        return found;
    }
    if let Some(sign) = OTHERS.iter().find(|sign| bears(device, sign)) {
        return said(sign.of);
    }
    if has_table {
        return said(("a disk whose GPT is damaged", MEND));
    }
    if let Some(starts) = mbr::partitions(device) {
        return (mbr::LOOKS.to_owned(), mbr::way(&starts));
    }
    let second = |place| sign(FIRST_PLACE.checked_shl(place).unwrap_or(u64::MAX), SECOND, ());
    if (0..PLACES).any(|place| bears(device, &second(place))) {
        return said(("encrypted by LUKS, and its first header is damaged", OPEN));
    }
    if archive::is_old_tar(&mut |at, buf| device.read(at, buf).is_ok()) {
        return said(("a tar archive", ARCHIVE));
    }
    if let Some(found) = ends::probe(device) {
        return said(found);
    }
    said(if bears(device, &BOOT) { BOOT.of } else { unknown(device) })
}

fn packed_by(device: &Device) -> Option<Packed> {
    let mut start = [0; START];
    let length = usize::try_from(device.length()).unwrap_or(START).min(START);
    let start = start.get_mut(..length)?;
    device.read(0, start).ok()?;
    packed(start)
}

fn bears<T>(device: &Device, sign: &Sign<T>) -> bool {
    bears_behind(device, 0, sign)
}

/// Reports whether what is behind some bytes has a sign.
fn bears_behind<T>(device: &Device, start: u64, sign: &Sign<T>) -> bool {
    let mut bytes = vec![0; sign.bytes.len()];
    let at = start.saturating_add(sign.at);
    device.length() > at && device.read(at, &mut bytes).is_ok() && bytes == sign.bytes
}

/// Says which image is behind a program, and how it is mounted.
fn behind(device: &Device) -> Option<(String, String)> {
    let end = program::end(&mut |at, buf| device.read(at, buf).is_ok())?;
    // Some fill the last page.
    let starts = [Some(end), end.checked_next_multiple_of(4096)].into_iter().flatten();
    let image = |start| FORMATS.iter().find(|sign| bears_behind(device, start, sign));
    let (start, found) = starts.filter_map(|start| Some((start, image(start)?))).next()?;
    let looks = format!("a program with {} behind it, as AppImages are", found.of.word());
    Some((looks, format!("name where that begins: --offset={start}")))
}

/// Describes a file without any sign.
fn unknown(device: &Device) -> (&'static str, &'static str) {
    const NAME: &str = "name a directory, or an image of ext4, squashfs or erofs";
    let mut start = [0; 4096];
    let length = usize::try_from(device.length()).unwrap_or(usize::MAX).min(start.len());
    let start = start.get_mut(..length).unwrap_or_default();
    if device.read(0, start).is_err() {
        return ("cannot be read", NAME);
    }
    if start.iter().all(|byte| *byte == 0) {
        return ("begins with nothing but zeros", NAME);
    }
    let text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    if start.iter().all(text) { ("a text", NAME) } else { ("no image of a known format", NAME) }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::*;
    use crate::source::image::Part;

    fn looks(at: u64, bytes: &[u8]) -> Result<Format, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(5 << 20).unwrap();
        file.write_all(b"x").unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(bytes).unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        probe(&device).map_err(|error| error.to_string())
    }

    #[test]
    fn formats_are_told_by_their_signs() {
        for sign in FORMATS {
            assert_eq!(looks(sign.at, sign.bytes), Ok(sign.of));
        }
    }

    #[test]
    fn what_is_no_image_is_named_with_a_way_out() {
        for place in [0, 3, PLACES - 1] {
            assert!(looks(FIRST_PLACE << place, SECOND).unwrap_err().contains("LUKS"));
        }
        let said = looks(0, b"\x28\xb5\x2f\xfd").unwrap_err();
        let wanted = "packed by zstd; unpack it first (zstd -d): it may be an image";
        assert!(said.contains(wanted), "{said}");
        for Sign { at, bytes, .. } in TABLES {
            assert!(looks(at, bytes).unwrap_err().contains("a disk whose GPT is damaged; "));
        }
        for sign in OTHERS.iter().chain([&BOOT]) {
            let said = looks(sign.at, sign.bytes).unwrap_err();
            assert!(said.contains(sign.of.0) && said.ends_with(sign.of.1), "{said}");
        }
        let said = looks((5 << 20) - 512, b"conectix").unwrap_err();
        assert!(said.contains("a fixed VHD disk") && said.ends_with(CONVERT), "{said}");
        let said = looks((5 << 20) - 512, b"koly").unwrap_err();
        assert!(said.contains("Apple") && said.ends_with(CONVERT), "{said}");
        assert!(looks(0, &[b'a'; 5000]).unwrap_err().contains("a text"));
        assert!(looks(0, &[0; 5000]).unwrap_err().contains("zeros"));
        assert!(looks(0, &[0xee; 5000]).unwrap_err().contains("no image"));
    }

    #[test]
    fn an_image_behind_a_program_is_said_with_its_place() {
        // The sections begin at 0x200, each has 0x40 bytes, and there are 3.
        let wide: (&[u8], &[u8]) = (b"\x02\x01", b"\0\x02\0\0\0\0\0\0");
        let narrow: (&[u8], &[u8]) = (b"\x01\x02", b"\0\0\x02\0");
        let counts: [(u64, &[u8]); 2] = [(0x3a, b"\x40\0\x03\0"), (0x2e, b"\0\x40\0\x03")];
        for ((kind, start), (at, count), from) in [(wide, counts[0], 0x28), (narrow, counts[1], 32)]
        {
            for (begins, sign) in [(0x2c0, &FORMATS[0]), (4096, &FORMATS[2])] {
                let file = tempfile::NamedTempFile::new().unwrap();
                file.as_file().set_len(1 << 20).unwrap();
                let mut elf = [0; 64];
                elf[..4].copy_from_slice(b"\x7fELF");
                elf[4..6].copy_from_slice(kind);
                let put = |bytes: &[u8], at| {
                    std::os::unix::fs::FileExt::write_all_at(file.as_file(), bytes, at).unwrap();
                };
                put(&elf, 0);
                put(start, from);
                put(count, at);
                let said = || {
                    let device = Device::open(file.path(), Part::default()).unwrap();
                    probe(&device).unwrap_err().to_string()
                };
                assert!(said().contains("a program; "));
                put(sign.bytes, begins + sign.at);
                let said = said();
                assert!(said.contains(sign.of.word()), "{said}");
                assert!(said.ends_with(&format!("--offset={begins}")), "{said}");
            }
        }
    }

    #[test]
    fn a_short_file_is_no_image() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"h").unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        assert!(probe(&device).unwrap_err().to_string().contains("a text"));
    }
}
