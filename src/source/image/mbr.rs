//! Disks with a table of partitions in their boot sector (MBR).

use super::Device;

/// What such a disk looks like.
pub const LOOKS: &str = "a disk with an MBR";

/// The bytes of a sector, in which such tables count.
const SECTOR: u64 = 512;

/// Where the table is, and how long an entry of it.
const TABLE: usize = 446;
const ENTRY: usize = 16;

/// The type of an entry that stands for the whole disk, which has a GPT.
const PROTECTIVE: u8 = 0xee;

/// The types of an entry that has partitions inside, in a chain of tables.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// How many tables of such a chain are looked at.
const CHAIN: usize = 128;

/// An entry of a table that is in use.
struct Entry {
    kind: u8,
    /// In sectors.
    first: u64,
}

/// Returns the entries of a table that are in use; `None`: it is none, or one that only
/// keeps others from a GPT.
fn table(device: &Device, sector: u64) -> Option<Vec<Entry>> {
    let mut bytes = [0; 512];
    device.read(sector.checked_mul(SECTOR)?, &mut bytes).ok()?;
    if bytes.get(510..) != Some(b"\x55\xaa") {
        return None;
    }
    let mut entries = Vec::new();
    for entry in bytes.get(TABLE..510)?.chunks_exact(ENTRY) {
        // Status, the first sector in three bytes, type, the last one so, first and count.
        let [status, _, _, _, kind, _, _, _, first @ ..] = entry else { return None };
        let (first, count) = first.split_first_chunk::<4>()?;
        let (first, count) =
            (u32::from_le_bytes(*first), u32::from_le_bytes(*count.first_chunk::<4>()?));
        // Else it is the code of some boot loader.
        if !matches!(status, 0 | 0x80) || *kind == PROTECTIVE {
            return None;
        }
        if *kind != 0 && count > 0 {
            entries.push(Entry { kind: *kind, first: first.into() });
        }
    }
    Some(entries)
}

/// Reports whether the boot sector says that the disk has a GPT.
pub fn is_protective(device: &Device) -> bool {
    let mut bytes = [0; 512];
    let kinds = |bytes: &[u8]| bytes.chunks_exact(ENTRY).any(|e| e.get(4) == Some(&PROTECTIVE));
    device.read(0, &mut bytes).is_ok()
        && bytes.get(510..) == Some(b"\x55\xaa")
        && bytes.get(TABLE..510).is_some_and(kinds)
}

/// Returns where the partitions of a disk begin, in bytes, those in an extended one after
/// the others; `None`: it has no such table, or one that only keeps others from a GPT.
pub fn partitions(device: &Device) -> Option<Vec<u64>> {
    let mut starts = Vec::new();
    let at = |sector: u64| {
        let start = sector.checked_mul(SECTOR)?;
        (sector > 0 && start < device.length()).then_some(start)
    };
    let (mut extended, entries) = (None, table(device, 0)?);
    for Entry { kind, first } in entries {
        let start = at(first)?;
        if EXTENDED.contains(&kind) {
            extended = extended.or(Some(first));
        } else {
            starts.push(start);
        }
    }
    let (mut next, mut seen) = (extended, Vec::new());
    while let Some(sector) = next.take().filter(|sector| !seen.contains(sector)) {
        if seen.len() == CHAIN {
            break;
        }
        seen.push(sector);
        for Entry { kind, first } in table(device, sector).unwrap_or_default() {
            if EXTENDED.contains(&kind) {
                // Counted from where the first of the chain is.
                next = extended.and_then(|extended| extended.checked_add(first));
            } else if let Some(start) = sector.checked_add(first).and_then(at) {
                // Counted from this table.
                starts.push(start);
            }
        }
    }
    (!starts.is_empty()).then_some(starts)
}

/// Says how such a partition is mounted.
pub fn way(starts: &[u64]) -> String {
    let list = starts.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    format!("name where the partition begins: --offset=BYTES, of {list}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::source::image::Part;

    /// An entry: status, type, first, count.
    type Words = (u8, u8, u32, u32);

    /// Finds what is in a disk of 1 MiB with tables of these entries, each at a sector.
    fn found(tables: &[(u64, &[Words])]) -> Option<Vec<u64>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        for (at, entries) in tables {
            let mut sector = [0; 512];
            for (number, (status, kind, first, count)) in entries.iter().enumerate() {
                let entry = &mut sector[TABLE + number * ENTRY..][..ENTRY];
                (entry[0], entry[4]) = (*status, *kind);
                entry[8..12].copy_from_slice(&first.to_le_bytes());
                entry[12..].copy_from_slice(&count.to_le_bytes());
            }
            sector[510..].copy_from_slice(b"\x55\xaa");
            file.as_file().write_all_at(&sector, at * SECTOR).unwrap();
        }
        partitions(&Device::open(file.path(), Part::default()).unwrap())
    }

    #[test]
    fn partitions_are_found_in_a_boot_sector() {
        let some = found(&[(0, &[(0x80, 0x83, 8, 100), (0, 0, 0, 0), (0, 0x82, 200, 5)])]);
        assert_eq!(some, Some(vec![4096, 102_400]));
        assert!(way(&some.unwrap()).ends_with("--offset=BYTES, of 4096, 102400"));
        for none in [(0, 0, 0, 0), (0, PROTECTIVE, 1, 2047), (7, 0x83, 8, 8), (0, 0x83, 4096, 8)] {
            assert_eq!(found(&[(0, &[none])]), None, "{none:?}");
        }
    }

    #[test]
    fn those_in_an_extended_one_are_found_in_its_chain() {
        for kind in EXTENDED {
            let first: &[Words] = &[(0, 0x83, 8, 8), (0, kind, 100, 900)];
            let some = found(&[
                (0, first),
                (100, &[(0, 0x83, 10, 50), (0, kind, 200, 100)]),
                (300, &[(0, 0x83, 20, 50)]),
            ]);
            assert_eq!(some, Some([8, 110, 320].map(|sector| sector * SECTOR).to_vec()));
            // A circle, and a chain that is not there.
            let circle = found(&[(0, first), (100, &[(0, 0x83, 10, 5), (0, kind, 0, 9)])]);
            assert_eq!(circle, Some([8, 110].map(|sector| sector * SECTOR).to_vec()));
            assert_eq!(found(&[(0, first)]), Some(vec![8 * SECTOR]));
        }
    }
}
