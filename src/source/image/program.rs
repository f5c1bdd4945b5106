//! Programs, and where they end: behind some there is an image.

/// Returns where the sections of a program end, the last of what is its own: `Elf64_Ehdr` and
/// `Elf32_Ehdr` of elf(5). `None`: it is no program.
///
/// `read` fills a buffer with what is at an offset, and says whether it could.
pub(super) fn end(read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> Option<u64> {
    let mut header = [0; 64];
    if !read(0, &mut header) || !header.starts_with(b"\x7fELF") {
        return None;
    }
    let is_big = header.get(5) == Some(&2);
    let number = |at: usize, length: usize| {
        let bytes = header.get(at..)?.get(..length)?;
        let join = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        Some(if is_big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    };
    // Where they begin, how long each is, and how many.
    let (start, size, count) = match header.get(4)? {
        2 => (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?),
        _ => (number(0x20, 4)?, number(0x2e, 2)?, number(0x30, 2)?),
    };
    start.checked_add(size.checked_mul(count)?)
}
