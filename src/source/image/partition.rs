//! Partitions of a disk image with a GPT, by number or by what they are for.

use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;

use super::{Device, ImageError, Part};

/// Which partition of a disk an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// The root partition of this architecture.
    Root,
    /// The one of this number, from 1 on.
    Number(u32),
}

/// The types of root partitions and of the hashes beside them: Discoverable Partitions
/// Specification, by the name that Rust has for an architecture.
const ROOTS: [(&str, &str, &str); 5] = [
    ("x86_64", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    ("aarch64", "b921b045-1df0-41c3-af44-4c6f280d3fae", "df3300ce-d69f-4c92-978c-9bfb0f38d820"),
    ("x86", "44479540-f297-41b2-9af7-d131d5f0458a", "d13c5d3b-b5d1-422a-b29f-9454fdc89d76"),
    ("arm", "69dad710-2ce4-4e3c-b16c-21a1d49abed3", "7386cdf2-203c-47a9-a498-f2ecce45a2d6"),
    ("riscv64", "72ec70a6-cf74-40e6-bd49-4bda08e8f224", "b6ed5582-440b-4209-b8da-5ff7c419ea3d"),
];

/// The sizes of blocks that disks count in.
const BLOCKS: [LogicalBlockSize; 2] = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];

/// Finds a partition of a disk image; returns which part of that it is.
///
/// # Errors
/// `Unknown`: there is no GPT; `Partition`: it has no such partition; `Refused`: there
/// is one with hashes for it, and those are not to be ignored.
pub fn find(device: &Device, wanted: Partition, ignores_verity: bool) -> Result<Part, ImageError> {
    let path = device.path();
    let table = BLOCKS.into_iter().find_map(|block| {
        let config = GptConfig::new().writable(false).logical_block_size(block);
        Some((config.open_from_device(Disk { device, at: 0 }).ok()?, block))
    });
    let Some((table, block)) = table else {
        return Err(ImageError::Unknown {
            path: path.to_owned(),
            looks: "no disk with a GPT".to_owned(),
            way: "leave -o partition out, or name the place: -o offset=BYTES".to_owned(),
        });
    };
    let kind = |partition: &gpt::partition::Partition| {
        partition.part_type_guid.guid.hyphenated().to_string()
    };
    let native = ROOTS.iter().find(|(arch, ..)| *arch == std::env::consts::ARCH);
    let used = table.partitions().iter().filter(|(_, partition)| partition.is_used());
    let mut used = used.collect::<Vec<_>>().into_iter();
    let missing = || ImageError::Partition {
        path: path.to_owned(),
        there: table
            .partitions()
            .iter()
            .map(|(number, found)| {
                let name = crate::text::shown(&found.name);
                if name.is_empty() { number.to_string() } else { format!("{number} ({name})") }
            })
            .collect::<Vec<_>>()
            .join(", "),
    };
    let hashes = |(_, partition): &(&u32, &gpt::partition::Partition)| {
        ROOTS.iter().any(|(_, _, verity)| kind(partition) == *verity)
    };
    if !ignores_verity && used.clone().any(|found| hashes(&found)) {
        return Err(ImageError::Refused {
            path: path.to_owned(),
            format: "GPT",
            feature: "a partition of dm-verity hashes".to_owned(),
            way: "nothing would be verified: add -o verity=ignore, or have veritysetup open it"
                .to_owned(),
        });
    }
    let found = used.find(|(number, partition)| match wanted {
        Partition::Number(wanted) => **number == wanted,
        Partition::Root => native.is_some_and(|(_, root, _)| kind(partition) == *root),
    });
    let (_, found) = found.ok_or_else(missing)?;
    let (start, length) = (found.bytes_start(block), found.bytes_len(block));
    match (start, length) {
        (Ok(offset), Ok(length)) => Ok(Part { offset, size: Some(length) }),
        _ => Err(missing()),
    }
}

/// A device as the library reads disks.
#[derive(Debug)]
struct Disk<'a> {
    device: &'a Device,
    at: u64,
}

impl Read for Disk<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.device.length().saturating_sub(self.at);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        self.device.read(self.at, buf)?;
        self.at = self.at.saturating_add(u64::try_from(length).unwrap_or(0));
        Ok(length)
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.device.length().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Disk<'_> {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn device(file: &tempfile::NamedTempFile) -> Device {
        Device::open(file.path(), Part::default()).unwrap()
    }

    /// Makes a disk by sgdisk(8); `None` where there is none.
    fn disk(words: &str) -> Option<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let script = format!("PATH=$PATH:/usr/sbin sgdisk {words} {:?} >&2", file.path());
        let done = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
        if !done.success() {
            eprintln!("SKIP: no sgdisk");
            return None;
        }
        Some(file)
    }

    #[test]
    fn partitions_are_found_by_number_and_purpose() {
        let (_, root, verity) = *ROOTS.iter().find(|r| r.0 == std::env::consts::ARCH).unwrap();
        let words = format!("-n 1:2048:4095 -n 2:8192:12287 -t 2:{root}");
        let Some(file) = disk(&words) else { return };
        let at = |wanted, ignored| find(&device(&file), wanted, ignored);
        let want = Part { offset: 8192 * 512, size: Some(4096 * 512) };
        assert_eq!(at(Partition::Root, false).unwrap(), want);
        assert_eq!(at(Partition::Number(2), false).unwrap(), want);
        assert_eq!(at(Partition::Number(1), false).unwrap().offset, 1 << 20);
        let none = at(Partition::Number(3), false).unwrap_err().to_string();
        assert!(none.ends_with("no such partition; there are 1, 2"), "{none}");
        let Some(file) = disk(&format!("{words} -n 3:14336:15359 -t 3:{verity}")) else { return };
        let at = |ignored| find(&device(&file), Partition::Root, ignored);
        assert!(matches!(at(false), Err(ImageError::Refused { .. })));
        assert_eq!(at(true).unwrap(), want);
    }

    #[test]
    fn what_has_no_table_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let refused = find(&device(&file), Partition::Root, false).unwrap_err();
        assert!(refused.to_string().contains("no disk with a GPT"), "{refused}");
    }
}
