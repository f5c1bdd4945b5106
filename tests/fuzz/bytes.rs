//! Changes of bytes that know nothing of what they mean.

use crate::rng::Rng;

/// Returns a part of a list: where it begins and ends.
pub fn part(rng: &mut Rng, length: usize, longest: usize) -> (usize, usize) {
    let from = rng.below(length + 1);
    (from, (from + rng.below(longest) + 1).min(length))
}

/// Changes bytes once.
pub fn change(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let (from, to) = part(rng, input.len(), 16);
    match rng.below(6) {
        0 => drop(input.drain(from..to)),
        1 => {
            let copy = input[from..to].to_vec();
            let at = rng.below(input.len() + 1);
            input.splice(at..at, copy);
        }
        2 => {
            let (a, b) = part(rng, other.len(), 64);
            input.splice(from..to, other[a..b].iter().copied());
        }
        3 => input.insert(from, byte(rng)),
        4 => {
            if let Some(at) = input.get_mut(from) {
                *at ^= 1 << rng.below(8);
            }
        }
        _ => {
            if let Some(at) = input.get_mut(from) {
                *at = byte(rng);
            }
        }
    }
}

fn byte(rng: &mut Rng) -> u8 {
    let some = rng.next() as u8;
    rng.pick(&[0, 1, 2, 7, 0x7f, 0x80, 0xff, b'/', b'\\', b',', b'=', some, some, some])
}
