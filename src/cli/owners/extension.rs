//! The extension that pax gives an entry of a tar, as it is in the tar.
//!
//! The crate `tar` takes it apart at newlines, which values of attributes may have;
//! so what it reads before an entry is noted on the way.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

/// The size of a block.
const BLOCK: u64 = 512;

/// What has been read since contents ended.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// How much has been read of the tar.
    at: u64,
    /// Where the notes begin.
    start: u64,
    notes: Vec<u8>,
    /// Whether contents are being read, which are not noted.
    inside: bool,
}

/// A tar that is read.
#[derive(Debug)]
pub(super) struct Noted<R> {
    tar: R,
    tape: Rc<RefCell<Tape>>,
}

/// Keys and values of an extension.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl<R: Read> Noted<R> {
    pub(super) fn new(tar: R) -> (Self, Rc<RefCell<Tape>>) {
        let tape = Rc::new(RefCell::new(Tape::default()));
        (Self { tar, tape: Rc::clone(&tape) }, tape)
    }
}

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read(buf)?;
        let mut tape = self.tape.borrow_mut();
        if !tape.inside {
            tape.notes.extend_from_slice(buf.get(..read).unwrap_or_default());
        }
        tape.at = tape.at.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}

impl Tape {
    /// Begins to note what comes before the next entry.
    pub(super) fn begin(&mut self) {
        self.notes.clear();
        (self.start, self.inside) = (self.at, false);
    }

    /// Returns the extension of the entry whose header is at a place; `None` if it makes
    /// no sense. What follows is its contents.
    pub(super) fn take(&mut self, header: u64) -> Option<Records> {
        self.inside = true;
        let mut records = Records::new();
        let mut at = self.start.checked_next_multiple_of(BLOCK)?;
        while at < header {
            let block = self.part(at, BLOCK)?;
            let about = tar::Header::from_byte_slice(block);
            let (kind, size) = (about.entry_type(), about.entry_size().ok()?);
            let data = at.checked_add(BLOCK)?;
            if kind.is_pax_local_extensions() {
                records = parse(self.part(data, size)?)?;
            }
            at = data.checked_add(size)?.checked_next_multiple_of(BLOCK)?;
        }
        Some(records)
    }

    fn part(&self, at: u64, length: u64) -> Option<&[u8]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.notes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
    }
}

/// Takes an extension apart: each record is its own length in decimal digits, a space,
/// `KEY=VALUE` and a newline.
fn parse(mut text: &[u8]) -> Option<Records> {
    let mut records = Records::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(text.get(..space)?).ok()?.parse().ok()?;
        let (record, rest) = text.split_at_checked(length)?;
        let record = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = record.split_at_checked(equals)?;
        records.push((key.to_vec(), value.get(1..)?.to_vec()));
        text = rest;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_may_hold_anything() {
        let records = |text: &[u8]| parse(text);
        let of = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        let both = records(b"8 a=b\nc\n12 key=1=2\n\n");
        assert_eq!(both, Some(vec![of(b"a", b"b\nc"), of(b"key", b"1=2\n")]));
        assert_eq!(records(b""), Some(vec![]));
        for wrong in [
            &b"9 a=b\n"[..],
            b"6 a=b\nx",
            b"x a=b\n",
            b"6 a=bx",
            b"6 abc\n",
            b"0 a=b\n",
            b"-6 a=b\n",
        ] {
            assert_eq!(records(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
    }
}
