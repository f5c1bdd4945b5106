//! Files that were packed as a whole, and what unpacks them.

/// How many bytes of a file are enough to tell, where it has as many.
pub const START: usize = 16;

/// What packed a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The name of it.
    pub by: &'static str,
    /// The program that unpacks it: with `-d`, and with `-dc` to its standard output.
    pub program: &'static str,
}

/// The bytes that such files begin with, and what packs and unpacks them.
const ALL: [(&[u8], &str, &str); 10] = [
    (b"\x1f\x8b", "gzip", "gzip"),
    (b"\x1f\x9d", "compress", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
    (b"\xfd7zXZ\0", "xz", "xz"),
    (b"BZh", "bzip2", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4"),
    (LZMA, "lzma", "xz"),
    (b"\x89LZO\0\r\n\x1a\n", "lzop", "lzop"),
    (b"LZIP", "lzip", "lzip"),
];

/// The usual properties, and half of the size of the dictionary, which is not below 64 KiB.
const LZMA: &[u8] = b"\x5d\0\0";

/// Returns what packed a file that begins so.
pub fn packed(start: &[u8]) -> Option<Packed> {
    let (sign, by, program) = *ALL.iter().find(|(sign, ..)| start.starts_with(sign))?;
    // Else it may be the name of the first member of a tar archive.
    let is_name = sign == LZMA && start.get(3..5) == Some(&[0, 0]);
    (!is_name).then_some(Packed { by, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_told_by_how_it_begins() {
        for (sign, by, program) in ALL {
            assert!(sign.len() <= START);
            let start = [sign, b"\x80\x80"].concat();
            assert_eq!(packed(&start), Some(Packed { by, program }));
            assert_eq!(packed(&start[1..]), None);
        }
        assert_eq!(packed(b"]\0\0\0\0\0\0\0"), None);
        assert_eq!(packed(b""), None);
    }
}
