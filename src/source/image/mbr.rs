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

/// Returns where the partitions of a disk begin, in bytes; `None`: it has no such table,
/// or one that only keeps others from a GPT.
pub fn partitions(device: &Device) -> Option<Vec<u64>> {
    let mut sector = [0; 512];
    device.read(0, &mut sector).ok()?;
    if sector.get(510..) != Some(b"\x55\xaa") {
        return None;
    }
    let table = sector.get(TABLE..510)?;
    let mut starts = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        // Status, the first sector in three bytes, type, the last one so, first and count.
        let [status, _, _, _, kind, _, _, _, first @ ..] = entry else { return None };
        let (first, count) = first.split_first_chunk::<4>()?;
        let (first, count) =
            (u32::from_le_bytes(*first), u32::from_le_bytes(*count.first_chunk::<4>()?));
        let start = u64::from(first).checked_mul(SECTOR)?;
        // Else it is the code of some boot loader.
        if !matches!(status, 0 | 0x80) || *kind == PROTECTIVE {
            return None;
        }
        if *kind != 0 && count > 0 {
            if first == 0 || start >= device.length() {
                return None;
            }
            starts.push(start);
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
    use std::io::Write as _;

    use super::*;
    use crate::source::image::Part;

    /// Finds what is in a disk of 1 MiB with these entries: status, type, first, count.
    fn found(entries: &[(u8, u8, u32, u32)]) -> Option<Vec<u64>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let mut sector = [0; 512];
        for (number, (status, kind, first, count)) in entries.iter().enumerate() {
            let entry = &mut sector[TABLE + number * ENTRY..][..ENTRY];
            (entry[0], entry[4]) = (*status, *kind);
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..].copy_from_slice(&count.to_le_bytes());
        }
        sector[510..].copy_from_slice(b"\x55\xaa");
        file.write_all(&sector).unwrap();
        partitions(&Device::open(file.path(), Part::default()).unwrap())
    }

    #[test]
    fn partitions_are_found_in_a_boot_sector() {
        let some = found(&[(0x80, 0x83, 8, 100), (0, 0, 0, 0), (0, 0x82, 200, 5)]);
        assert_eq!(some, Some(vec![4096, 102_400]));
        assert!(way(&some.unwrap()).ends_with("--offset=BYTES, of 4096, 102400"));
        for none in [(0, 0, 0, 0), (0, PROTECTIVE, 1, 2047), (7, 0x83, 8, 8), (0, 0x83, 4096, 8)] {
            assert_eq!(found(&[none]), None, "{none:?}");
        }
    }
}
