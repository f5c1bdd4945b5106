//! Partitions of a disk image with a GPT, by number or by what they are for.

use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use gpt::{GptConfig, GptDisk};

use super::{Device, ImageError, Part, probe};

/// Which partition of a disk an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partition {
    /// The root partition of this architecture.
    Root,
    /// The one of this number, from 1 on.
    Number(u32),
    /// The one of this name.
    Name(String),
}

/// The types of root partitions: Discoverable Partitions Specification, by the name that
/// Rust has for an architecture.
const ROOTS: [(&str, &str); 5] = [
    ("x86_64", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ("aarch64", "b921b045-1df0-41c3-af44-4c6f280d3fae"),
    ("x86", "44479540-f297-41b2-9af7-d131d5f0458a"),
    ("arm", "69dad710-2ce4-4e3c-b16c-21a1d49abed3"),
    ("riscv64", "72ec70a6-cf74-40e6-bd49-4bda08e8f224"),
];

/// The types of partitions with dm-verity hashes, in the same specification: first those
/// of the root, then those of `/usr`, for each architecture.
const HASHES: [&str; 42] = [
    "fc56d9e9-e6e5-4c06-be32-e74407ce09a5",
    "24b2d975-0f97-4521-afa1-cd531e421b8d",
    "7386cdf2-203c-47a9-a498-f2ecce45a2d6",
    "df3300ce-d69f-4c92-978c-9bfb0f38d820",
    "86ed10d5-b607-45bb-8957-d350f23d0571",
    "f3393b22-e9af-4613-a948-9d3bfbd0c535",
    "7a430799-f711-4c7e-8e5b-1d685bd48607",
    "579536f8-6a33-4055-a95a-df2d5e2c42a8",
    "d7d150d2-2a04-4a33-8f12-16651205ff7b",
    "16b417f8-3e06-4f57-8dd2-9b5232f41aa6",
    "d212a430-fbc5-49f9-a983-a7feef2b8d0e",
    "906bd944-4589-4aae-a4e4-dd983917446a",
    "9225a9a3-3c19-4d89-b4f6-eeff88f17631",
    "98cfe649-1588-46dc-b2f0-add147424925",
    "ae0253be-1167-4007-ac68-43926c14c5de",
    "b6ed5582-440b-4209-b8da-5ff7c419ea3d",
    "7ac63b47-b25c-463b-8df8-b4a94e6c90e1",
    "b325bfbe-c7be-4ab8-8357-139e652d2f6b",
    "966061ec-28e4-4b2e-b4a5-1f0a825a1d84",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "d13c5d3b-b5d1-422a-b29f-9454fdc89d76",
    "8cce0d25-c0d0-4a44-bd87-46331bf1df67",
    "fca0598c-d880-4591-8c16-4eda05c7347c",
    "c215d751-7bcd-4649-be90-6627490a4c05",
    "6e11a4e7-fbca-4ded-b9e9-e1a512bb664e",
    "6a491e03-3be7-4545-8e38-83320e0ea880",
    "f46b2c26-59ae-48f0-9106-c50ed47f673d",
    "6e5a1bc8-d223-49b7-bca8-37a5fcceb996",
    "81cf9d90-7458-4df4-8dcf-c8a3a404f09b",
    "46b98d8d-b55c-4e8f-aab3-37fca7f80752",
    "3c3d61fe-b5f3-414d-bb71-8739a694a4ef",
    "5843d618-ec37-48d7-9f12-cea8e08768b2",
    "ee2b9983-21e8-4153-86d9-b6901a54d1ce",
    "bdb528a5-a259-475f-a87d-da53fa736a07",
    "df765d00-270e-49e5-bc75-f47bb2118b09",
    "cb1ee4e3-8cd0-4136-a0a4-aa61a32e8730",
    "8f1056be-9b05-47c4-81d6-be53128e5b54",
    "b663c618-e7bc-4d6d-90aa-11b756bb1797",
    "31741cc4-1a2a-4111-a581-e00b447d2d06",
    "2fb4bf56-07fa-42da-8132-6b139f2026ae",
    "77ff5f63-e7b6-4633-acf4-1565b864c0e6",
    "8f461b0d-14ee-4e81-9aa9-049b6fb97abd",
];

/// The sizes of blocks that disks count in.
const BLOCKS: [LogicalBlockSize; 2] = [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096];

/// How long a header is, in bytes, and how many entries it may have.
const HEADER: usize = 92;
const ENTRIES: u32 = 4096;

/// A disk with its table.
struct Table<'a> {
    disk: GptDisk<Disk<'a>>,
    block: LogicalBlockSize,
}

/// A partition with its number.
type Numbered<'a> = (&'a u32, &'a gpt::partition::Partition);

impl<'a> Table<'a> {
    /// Reads the table of a disk, from its end where that at the beginning is damaged.
    fn of(device: &'a Device) -> Option<Self> {
        BLOCKS.into_iter().find_map(|block| {
            let config = GptConfig::new().writable(false).logical_block_size(block);
            let disk = config.open_from_device(Disk { device, at: 0 }).ok()?;
            Some(Self { disk, block })
        })
    }

    fn used(&self) -> impl Iterator<Item = Numbered<'_>> {
        self.disk.partitions().iter().filter(|(_, partition)| partition.is_used())
    }

    /// Says which partitions there are.
    fn all(&self) -> String {
        list(self.used())
    }
}

/// Says which partitions these are, by number and name.
fn list<'a>(partitions: impl Iterator<Item = Numbered<'a>>) -> String {
    let one = |(number, found): Numbered<'_>| {
        let name = crate::text::shown(&found.name);
        if name.is_empty() { number.to_string() } else { format!("{number} ({name})") }
    };
    let all = partitions.map(one).collect::<Vec<_>>().join(", ");
    if all.is_empty() { "none".to_owned() } else { all }
}

fn kind(partition: &gpt::partition::Partition) -> String {
    partition.part_type_guid.guid.hyphenated().to_string()
}

/// Says which partitions a disk with a GPT has; `None` if it has no such table.
///
/// It is empty if the table is.
pub(super) fn there(device: &Device) -> Option<String> {
    let table = Table::of(device)?;
    Some(if table.used().next().is_some() { table.all() } else { String::new() })
}

/// Finds a partition of a disk image; returns which part of that it is.
///
/// # Errors
/// `Unknown`: there is no GPT; `Partition`: it has no such partition, or several that are
/// called so; `Refused`: there is one with hashes for it, and those are not to be ignored.
pub fn find(device: &Device, wanted: &Partition, ignores_verity: bool) -> Result<Part, ImageError> {
    let path = device.path();
    let Some(table) = Table::of(device) else { return Err(without(device)) };
    let hashes = |(_, partition): Numbered<'_>| HASHES.contains(&kind(partition).as_str());
    if !ignores_verity && table.used().any(hashes) {
        return Err(ImageError::Refused {
            path: path.to_owned(),
            format: "GPT",
            feature: "a partition of dm-verity hashes".to_owned(),
            way: "nothing would be verified: add -o verity=ignore, or have veritysetup open it"
                .to_owned(),
        });
    }
    let native = ROOTS.iter().find(|(arch, _)| *arch == std::env::consts::ARCH);
    let is_it = |(number, partition): &Numbered<'_>| match wanted {
        Partition::Number(wanted) => *number == wanted,
        Partition::Name(wanted) => partition.name == *wanted,
        Partition::Root => native.is_some_and(|(_, root)| kind(partition) == *root),
    };
    let wrong = |wrong: String| ImageError::Partition { path: path.to_owned(), wrong };
    let found: Vec<_> = table.used().filter(is_it).collect();
    match found.as_slice() {
        [] => Err(wrong(match wanted {
            Partition::Root => format!(
                "no root partition of {}; there are {}: name one by its number, \
                 --partition=NUMBER",
                std::env::consts::ARCH,
                table.all()
            ),
            Partition::Number(_) | Partition::Name(_) => {
                format!("no such partition; there are {}", table.all())
            }
        })),
        [(_, found)] => match (found.bytes_start(table.block), found.bytes_len(table.block)) {
            (Ok(offset), Ok(length)) => Ok(Part { offset, size: Some(length) }),
            _ => Err(wrong(format!("no such partition; there are {}", table.all()))),
        },
        // Which one boots is what a loader decides.
        several => {
            let which = list(several.iter().copied());
            Err(wrong(format!("several are meant: {which}; name one: --partition=NUMBER")))
        }
    }
}

/// Says what a file is instead of a disk with a GPT.
fn without(device: &Device) -> ImageError {
    match probe(device) {
        Ok(format) => ImageError::Unknown {
            path: device.path().to_owned(),
            looks: format!("no disk with a GPT, but an image ({})", format.word()),
            way: "leave partition out".to_owned(),
        },
        Err(ImageError::Unknown { path, looks, way }) => {
            ImageError::Unknown { path, looks: format!("no disk with a GPT: {looks}"), way }
        }
        Err(other) => other,
    }
}

/// A device as the library reads disks.
#[derive(Debug)]
struct Disk<'a> {
    device: &'a Device,
    at: u64,
}

/// Reports whether bytes are what the library reads of a header.
fn is_header(bytes: &[u8]) -> bool {
    bytes.len() == HEADER && bytes.starts_with(b"EFI PART")
}

/// Reports whether a header says of as many entries as there may be that they are of the
/// usual length.
fn is_usual(header: &[u8]) -> bool {
    let word = |at: usize| header.get(at..).and_then(|rest| rest.first_chunk::<4>());
    let [count, length] = [80, 84].map(|at| word(at).map(|word| u32::from_le_bytes(*word)));
    length == Some(128) && count.is_some_and(|count| count <= ENTRIES)
}

impl Read for Disk<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.device.length().saturating_sub(self.at);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..length).unwrap_or_default();
        self.device.read(self.at, buf)?;
        // The library would end the program, or read on and on.
        if is_header(buf) && !is_usual(buf) {
            buf.fill(0);
        }
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
    use std::os::unix::fs::FileExt as _;
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
        let (_, root) = *ROOTS.iter().find(|r| r.0 == std::env::consts::ARCH).unwrap();
        let words = format!("-n 1:2048:4095 -n 2:8192:12287 -t 2:{root} -c 2:rootfs");
        let Some(file) = disk(&words) else { return };
        let at = |wanted: Partition, ignored| find(&device(&file), &wanted, ignored);
        let want = Part { offset: 8192 * 512, size: Some(4096 * 512) };
        assert_eq!(at(Partition::Root, false).unwrap(), want);
        assert_eq!(at(Partition::Number(2), false).unwrap(), want);
        assert_eq!(at(Partition::Name("rootfs".to_owned()), false).unwrap(), want);
        assert_eq!(at(Partition::Number(1), false).unwrap().offset, 1 << 20);
        let none = at(Partition::Number(3), false).unwrap_err().to_string();
        assert!(none.ends_with("no such partition; there are 1, 2 (rootfs)"), "{none}");
        // Of the root on x86-64 and on MIPS, and of /usr on x86-64 and ARM.
        for verity in [
            "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
            "d7d150d2-2a04-4a33-8f12-16651205ff7b",
            "77ff5f63-e7b6-4633-acf4-1565b864c0e6",
            "c215d751-7bcd-4649-be90-6627490a4c05",
        ] {
            let words = format!("{words} -n 3:14336:15359 -t 3:{verity}");
            let Some(file) = disk(&words) else { return };
            let at = |ignored| find(&device(&file), &Partition::Root, ignored);
            assert!(matches!(at(false), Err(ImageError::Refused { .. })), "{verity}");
            assert_eq!(at(true).unwrap(), want, "{verity}");
        }
    }

    #[test]
    fn a_root_partition_that_is_not_one_is_named_by_its_number() {
        let (_, root) = *ROOTS.iter().find(|r| r.0 == std::env::consts::ARCH).unwrap();
        let said = |words: &str| {
            let file = disk(words)?;
            Some(find(&device(&file), &Partition::Root, false).unwrap_err().to_string())
        };
        let Some(none) = said("-n 1:2048:4095 -n 2:8192:12287 -c 2:data") else { return };
        assert!(none.contains("no root partition of ") && none.contains("1, 2 (data)"), "{none}");
        assert!(none.ends_with("--partition=NUMBER"), "{none}");
        let both = "-n 1:2048:4095 -c 1:a -n 2:8192:12287 -c 2:b";
        let several = said(&format!("{both} -t 1:{root} -t 2:{root}")).unwrap();
        assert!(several.contains("several are meant: 1 (a), 2 (b)"), "{several}");
    }

    #[test]
    fn a_disk_is_told_by_its_table_and_not_by_its_boot_sector() {
        let Some(empty) = disk("-o") else { return };
        let said = probe(&device(&empty)).unwrap_err().to_string();
        assert!(said.contains("a GPT that has no partition; "), "{said}");
        let Some(file) = disk("-n 1:2048:4095 -c 1:data") else { return };
        let said = || probe(&device(&file)).unwrap_err().to_string();
        let whole = said();
        assert!(whole.contains("a disk with a GPT; ") && whole.ends_with("1 (data)"), "{whole}");
        // Only its copy at the end is left.
        file.as_file().write_all_at(&[0; 512], 512).unwrap();
        assert_eq!(said(), whole);
        file.as_file().write_all_at(&[0; 512], (16 << 20) - 512).unwrap();
        let lost = said();
        assert!(lost.contains("a disk whose GPT is damaged; "), "{lost}");
        assert!(!lost.contains("--partition"), "{lost}");
        let asked = find(&device(&file), &Partition::Root, false).unwrap_err().to_string();
        assert!(asked.contains("no disk with a GPT: a disk whose GPT is damaged; "), "{asked}");
    }

    /// The sum of bytes that a header has of itself (CRC-32).
    fn sum(bytes: &[u8]) -> u32 {
        let step = |sum: u32, _| sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), step);
        !bytes.iter().fold(u32::MAX, byte)
    }

    #[test]
    fn a_table_of_any_size_ends_nothing() {
        let Some(file) = disk("-n 1:2048:4095 -c 1:data") else { return };
        let mut sound = [0; HEADER];
        file.as_file().read_exact_at(&mut sound, 512).unwrap();
        for (at, word) in [(80, u32::MAX), (84, 64)] {
            let mut header = sound;
            header[at..at + 4].copy_from_slice(&word.to_le_bytes());
            header[16..20].fill(0);
            let sum = sum(&header);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            file.as_file().write_all_at(&header, 512).unwrap();
            // The copy at the end is as it was.
            assert_eq!(there(&device(&file)).as_deref(), Some("1 (data)"), "{at}");
        }
    }

    #[test]
    fn what_has_no_table_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let refused = find(&device(&file), &Partition::Root, false).unwrap_err();
        assert!(refused.to_string().contains("no disk with a GPT"), "{refused}");
    }
}
