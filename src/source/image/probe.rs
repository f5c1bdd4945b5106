//! What a file is, by the bytes that each format begins with.

use super::{Device, ImageError, archive, ends, mbr};

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

/// What to do with an archive.
const ARCHIVE: &str = "make an image of it: idmapfs image build ARCHIVE OUT.erofs";

/// What to do with such an archive.
const CPIO: &str = "unpack it into a directory: cpio -idm";

/// What to do with what only the kernel reads.
const KERNEL: &str = "mount it as root: mount -o ro,loop; then idmapfs shows that directory";

/// What to do with a disk of a virtual machine.
pub(super) const CONVERT: &str = "convert it: qemu-img convert -O raw DISK OUT.raw";

/// What to do with a whole disk.
const DISK: &str = "name what of it is the file system: --partition=root, or --offset=BYTES";

/// What to do with an archive that is not built from.
const UNPACK: &str = "unpack it into a directory";

/// What to do with a part of a volume.
pub(super) const VOLUME: &str = "have root put it together, and mount the volume that is in it";

/// What a part of a RAID is called.
pub(super) const RAID: &str = "a part of a RAID (md)";

/// What else a file may look like, and what to do with it.
const OTHERS: [Sign<(&str, &str)>; 30] = [
    sign(257, b"ustar", ("a tar archive", ARCHIVE)),
    sign(0, b"\x1f\x8b", ("compressed by gzip, perhaps a tar archive", ARCHIVE)),
    sign(0, b"\x28\xb5\x2f\xfd", ("compressed by zstd, perhaps a tar archive", ARCHIVE)),
    sign(0, b"\xfd7zXZ\0", ("compressed by xz, perhaps a tar archive", ARCHIVE)),
    sign(0, b"BZh", ("compressed by bzip2, perhaps a tar archive", ARCHIVE)),
    sign(0, b"PK\x03\x04", ("a zip archive", UNPACK)),
    sign(0, b"7z\xbc\xaf\x27\x1c", ("a 7z archive", UNPACK)),
    sign(0, b"070701", ("a cpio archive", CPIO)),
    sign(0, b"070702", ("a cpio archive", CPIO)),
    sign(0, b"070707", ("a cpio archive", CPIO)),
    sign(0, b"\xc7\x71", ("a cpio archive", CPIO)),
    sign(0, b"QFI\xfb", ("a qcow2 disk", CONVERT)),
    sign(0, b"QED\0", ("a QED disk", CONVERT)),
    sign(0, b"KDMV", ("a VMDK disk", CONVERT)),
    sign(0, b"# Disk DescriptorFile", ("a VMDK disk that is in other files", CONVERT)),
    sign(0x40, b"\x7f\x10\xda\xbe", ("a VDI disk", CONVERT)),
    sign(0, b"conectix", ("a VHD disk", CONVERT)),
    sign(0, b"vhdxfile", ("a VHDX disk", CONVERT)),
    sign(0, b"LUKS\xba\xbe", ("encrypted by LUKS", "open it as root: cryptsetup open FILE NAME")),
    sign(512, b"LABELONE", ("a physical volume of LVM2", VOLUME)),
    sign(0, b"\xfc\x4e\x2b\xa9", (RAID, VOLUME)),
    sign(4096, b"\xfc\x4e\x2b\xa9", (RAID, VOLUME)),
    sign(0, b"verity\0\0", ("the hashes of dm-verity", "name the file that they are of")),
    sign(512, b"EFI PART", ("a disk with a GPT", DISK)),
    sign(32769, b"CD001", ("an ISO 9660 image", KERNEL)),
    sign(0, b"XFSB", ("XFS", KERNEL)),
    sign(0x10040, b"_BHRfS_M", ("Btrfs", KERNEL)),
    sign(1024, b"\x10\x20\xf5\xf2", ("F2FS", KERNEL)),
    sign(0, b"\x7fELF", ("a program", "name a directory or an image")),
    sign(0, b"#!", ("a script", "name a directory or an image")),
];

/// The end of a boot sector.
const BOOT: Sign<(&str, &str)> = sign(510, b"\x55\xaa", ("a disk with a boot sector", DISK));

/// Returns the format of an image.
///
/// # Errors
/// `Unknown`, with what it looks like and what can be done.
pub fn probe(device: &Device) -> Result<Format, ImageError> {
    if let Some(found) = FORMATS.iter().find(|sign| bears(device, sign)) {
        return Ok(found.of);
    }
    let refused = |looks: &str, way: &str| {
        let (looks, way) = (looks.to_owned(), way.to_owned());
        Err(ImageError::Unknown { path: device.path().to_owned(), looks, way })
    };
    if let Some((looks, way)) = archive::of_layers(&mut |at, buf| device.read(at, buf).is_ok()) {
        return refused(looks, way);
    }
    if let Some(sign) = OTHERS.iter().find(|sign| bears(device, sign)) {
        return refused(sign.of.0, sign.of.1);
    }
    if let Some(starts) = mbr::partitions(device) {
        return refused(mbr::LOOKS, &mbr::way(&starts));
    }
    if let Some((looks, way)) = ends::probe(device) {
        return refused(looks, way);
    }
    let (looks, way) = if bears(device, &BOOT) { BOOT.of } else { unknown(device) };
    refused(looks, way)
}

fn bears<T>(device: &Device, sign: &Sign<T>) -> bool {
    let mut bytes = vec![0; sign.bytes.len()];
    device.length() > sign.at && device.read(sign.at, &mut bytes).is_ok() && bytes == sign.bytes
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
        file.as_file().set_len(100_000).unwrap();
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
        for sign in OTHERS.iter().chain([&BOOT]) {
            let said = looks(sign.at, sign.bytes).unwrap_err();
            assert!(said.contains(sign.of.0) && said.ends_with(sign.of.1), "{said}");
        }
        let said = looks(100_000 - 512, b"conectix").unwrap_err();
        assert!(said.contains("a fixed VHD disk") && said.ends_with(CONVERT), "{said}");
        assert!(looks(0, &[b'a'; 5000]).unwrap_err().contains("a text"));
        assert!(looks(0, &[0; 5000]).unwrap_err().contains("zeros"));
        assert!(looks(0, &[0xee; 5000]).unwrap_err().contains("no image"));
    }

    #[test]
    fn a_short_file_is_no_image() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"h").unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        assert!(probe(&device).unwrap_err().to_string().contains("a text"));
    }
}
