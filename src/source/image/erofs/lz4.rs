//! The LZ4 block format, see lz4_Block_format.md of its reference implementation.
//!
//! Our own, since a piece of an image may be wanted in part only, and old images have
//! zeros behind one: it ends when what is asked for is there. Libraries take either
//! for damage.

/// How many bytes are copied at once where nothing is in the way.
const WIDE: usize = 16;

/// Fills a buffer with what a block begins with; `None` if that is damaged, or less.
pub fn unpack(mut from: &[u8], to: &mut [u8]) -> Option<()> {
    let mut done: usize = 0;
    while done < to.len() {
        let token = usize::from(byte(&mut from)?);
        let literals = length(token >> 4, &mut from)?;
        done = copy_literals(&mut from, literals, to, done)?;
        if done == to.len() {
            break;
        }
        let distance = usize::from(byte(&mut from)?) | (usize::from(byte(&mut from)?) << 8);
        let repeated = length(token & 15, &mut from)?.checked_add(4)?;
        done = repeat(distance, repeated, to, done)?;
    }
    Some(())
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = from.split_first()?;
    *from = rest;
    Some(*byte)
}

#[inline]
fn length(short: usize, from: &mut &[u8]) -> Option<usize> {
    if short < 15 {
        return Some(short);
    }
    let mut length = short;
    loop {
        let more = byte(from)?;
        length = length.checked_add(usize::from(more))?;
        if more < 255 {
            return Some(length);
        }
    }
}

#[inline]
fn copy_literals(from: &mut &[u8], length: usize, to: &mut [u8], at: usize) -> Option<usize> {
    let room = to.get_mut(at..)?;
    if length <= WIDE
        && let (Some(wide), Some(place)) =
            (from.first_chunk::<WIDE>(), room.first_chunk_mut::<WIDE>())
    {
        *place = *wide;
    } else {
        let wanted = length.min(room.len());
        room.get_mut(..wanted)?.copy_from_slice(from.get(..wanted)?);
        if wanted < length {
            return Some(to.len());
        }
    }
    *from = from.get(length..)?;
    at.checked_add(length)
}

/// Copies what is some way back in what there is already, and may be shorter than
/// what it is to become.
#[inline]
fn repeat(distance: usize, length: usize, to: &mut [u8], at: usize) -> Option<usize> {
    let start = at.checked_sub(distance).filter(|_| distance > 0)?;
    let length = length.min(to.len().checked_sub(at)?);
    let end = at.checked_add(length)?;
    // Wide copies write more than they should, which what comes next writes over.
    let has_room = end.checked_add(WIDE)? <= to.len();
    if has_room && distance >= WIDE {
        wide::<WIDE>(to, start, at, end)?;
    } else if has_room && distance >= 8 {
        wide::<8>(to, start, at, end)?;
    } else {
        // What has been copied is a source as well: twice as much each time.
        let mut done = at;
        while done < end {
            let part = done.checked_sub(start)?.min(end.checked_sub(done)?);
            to.copy_within(start..start.checked_add(part)?, done);
            done = done.checked_add(part)?;
        }
    }
    Some(end)
}

#[inline]
fn wide<const N: usize>(to: &mut [u8], start: usize, at: usize, end: usize) -> Option<()> {
    let (mut source, mut place) = (start, at);
    while place < end {
        let chunk = *to.get(source..)?.first_chunk::<N>()?;
        *to.get_mut(place..)?.first_chunk_mut::<N>()? = chunk;
        source = source.checked_add(N)?;
        place = place.checked_add(N)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(from: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut to = vec![0; length];
        unpack(from, &mut to).map(|()| to)
    }

    #[test]
    fn blocks_are_unpacked_as_far_as_is_asked() {
        let long = [&[0xf1][..], &[1], b"0123456789abcdef", &[16, 0], &[0x50], b"vwxyz"].concat();
        let cases: [(&[u8], &[u8]); 6] = [
            (&[0x50, b'h', b'e', b'l', b'l', b'o'], b"hello"),
            (&[0x50, b'h', b'e', b'l', b'l', b'o', 0, 0, 0], b"hello"),
            (&[0x10, b'a', 1, 0, 0x20, b'b', b'c'], b"aaaaabc"),
            (&[0x3f, b'a', b'b', b'c', 3, 0, 2, 0x10, b'x'], b"abcabcabcabcabcabcabcabcx"),
            (&long, b"0123456789abcdef01234vwxyz"),
            // A length in two bytes, of which little is wanted.
            (&[0x1f, b'z', 1, 0, 255, 9], &[b'z'; 270]),
        ];
        for (from, expected) in cases {
            for length in 0..=expected.len() {
                assert_eq!(unpacked(from, length).as_deref(), Some(&expected[..length]));
            }
        }
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        let cases: [&[u8]; 7] = [
            &[],
            &[0x50, b'h'],
            &[0xf0, 255, 255],
            &[0x10, b'a', 0, 0, 0x10],
            &[0x10, b'a', 2, 0],
            &[0x10, b'a', 1],
            &[0x0f, 1, 0],
        ];
        for from in cases {
            assert_eq!(unpacked(from, 40), None, "{from:?}");
        }
    }
}
