//! The last pages of metadata that were looked at.

use std::sync::{Arc, Mutex};

use super::bytes::{eio, index};
use crate::error::Result;
use crate::sync::lock;

/// How many bytes a page has.
pub const PAGE: u64 = 4096;

/// Reads a page of metadata, given its number; one at the end may be shorter.
pub type Source<'a> = dyn Fn(u64) -> Result<Vec<u8>> + 'a;

type Page = (u64, Arc<[u8]>);

/// The two pages that were used last: an index is read from two places in turn.
#[derive(Debug, Default)]
pub struct Pages {
    last: Mutex<[Option<Page>; 2]>,
}

impl Pages {
    /// Calls a function with some bytes, which are all in one page.
    pub fn with<T>(
        &self,
        at: u64,
        length: usize,
        source: &Source<'_>,
        then: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<T> {
        let page = self.page(at / PAGE, source)?;
        let from = index(at % PAGE)?;
        let bytes = from.checked_add(length).and_then(|end| page.get(from..end));
        then(bytes.ok_or_else(eio)?)
    }

    fn page(&self, number: u64, source: &Source<'_>) -> Result<Arc<[u8]>> {
        let mut last = lock(&self.last);
        let [first, second] = &mut *last;
        if second.as_ref().is_some_and(|(kept, _)| *kept == number) {
            std::mem::swap(first, second);
        }
        match first {
            Some((kept, page)) if *kept == number => Ok(Arc::clone(page)),
            _ => {
                let page: Arc<[u8]> = source(number)?.into();
                *second = first.replace((number, Arc::clone(&page)));
                Ok(page)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn two_pages_are_kept() {
        let reads = Cell::new(0);
        let source = |number: u64| {
            reads.set(reads.get() + 1);
            Ok(vec![u8::try_from(number).unwrap(); if number == 3 { 8 } else { 4096 }])
        };
        let pages = Pages::default();
        let first = |at| pages.with(at, 8, &source, |bytes| Ok(bytes[0]));
        for _ in 0..3 {
            assert_eq!((first(4096).unwrap(), first(8192 + 40).unwrap()), (1, 2));
        }
        assert_eq!(reads.get(), 2);
        assert_eq!(first(3 * 4096).unwrap(), 3);
        assert!(first(3 * 4096 + 1).is_err() && first(4092).is_err());
        assert_eq!(reads.get(), 4);
    }
}
