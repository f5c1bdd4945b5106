//! Images of file systems, a target for each reader. An input is what is changed of a
//! good image: a byte for which image, then four for the place and one for the value of
//! each byte.

use std::fs;
use std::time::Duration;

use super::engine::{Target, run};
use crate::require;
use crate::rng::Rng;
use crate::support::images::damage::{Edit, damaged, edit, edits, open, read_all};
use crate::support::images::{Format, KINDS, image};

/// What has broken a law before.
const FOUND: [(Format, &[u8]); 0] = [];

/// The good images of a reader.
struct Damage<const FORMAT: usize>(Vec<Vec<u8>>);

const FORMATS: [Format; 3] = [Format::Ext4, Format::Squashfs, Format::Erofs];

fn fuzz<const FORMAT: usize>() {
    let of =
        |format| KINDS.iter().filter(move |k| k.name.starts_with("few-") && k.format == format);
    let whole = of(FORMATS[FORMAT]).map(|kind| fs::read(image(kind.name).unwrap().0).unwrap());
    run(&Damage::<FORMAT>(whole.collect()));
}

#[test]
fn ext4() {
    require!(Root, Ext4Loop);
    fuzz::<0>();
}

#[test]
fn squashfs() {
    require!(Root, Squashfs);
    fuzz::<1>();
}

#[test]
fn erofs() {
    require!(Root, Erofs);
    fuzz::<2>();
}

/// Encodes changes of one of the images.
fn input(which: u8, edits: &[Edit]) -> Vec<u8> {
    let edits = edits.iter().flat_map(|(at, byte)| {
        let [a, b, c, d] = (*at as u32).to_le_bytes();
        [a, b, c, d, *byte]
    });
    std::iter::once(which).chain(edits).collect()
}

impl<const FORMAT: usize> Damage<FORMAT> {
    /// Returns the image that an input is about, and what it changes of it.
    fn decode(&self, input: &[u8]) -> (&[u8], Vec<Edit>) {
        let (which, rest) = input.split_first().unwrap_or((&0, &[]));
        let whole = &self.0[usize::from(*which) % self.0.len()];
        let edits = rest.as_chunks::<5>().0.iter().map(|[a, b, c, d, byte]| {
            (u32::from_le_bytes([*a, *b, *c, *d]) as usize % whole.len(), *byte)
        });
        (whole, edits.collect())
    }
}

impl<const FORMAT: usize> Target for Damage<FORMAT> {
    const NAME: &'static str = ["ext4", "squashfs", "erofs"][FORMAT];
    const MEMORY: (usize, usize) = (256 << 20, 0);
    const TIME: (Duration, Duration) = (Duration::from_secs(10), Duration::ZERO);

    fn collection(&self) -> Vec<Vec<u8>> {
        let mut rng = Rng::new(1);
        let found = FOUND.iter().filter(|(format, _)| *format == FORMATS[FORMAT]);
        let mut all: Vec<_> = found.map(|(_, input)| input.to_vec()).collect();
        for (which, whole) in self.0.iter().enumerate() {
            all.push(input(which as u8, &[]));
            all.extend((0..10).map(|_| input(which as u8, &edits(&mut rng, whole))));
        }
        all
    }

    fn change(&self, rng: &mut Rng, into: &mut Vec<u8>, other: &[u8]) {
        let (whole, mut edits) = self.decode(into);
        let which = into.first().copied().unwrap_or_default();
        match rng.below(6) {
            0 if !edits.is_empty() => drop(edits.swap_remove(rng.below(edits.len()))),
            1 if !edits.is_empty() => {
                // A field is often longer than a byte.
                let (at, _) = rng.pick(&edits);
                edits.push(((at + 1) % whole.len(), rng.next() as u8));
            }
            2 => edits.extend(self.decode(other).1),
            _ => edits.push(edit(rng, whole)),
        }
        edits.truncate(200);
        *into = input(which, &edits);
    }

    fn check(&self, input: &[u8]) {
        let (whole, edits) = self.decode(input);
        if let Ok(image) = open(FORMATS[FORMAT], &damaged(whole, &edits)) {
            read_all(&*image);
        }
    }
}
