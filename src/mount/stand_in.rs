//! The ids that an ACL may name, and those that stand for the others.
//!
//! The kernel's FUSE client refuses a whole ACL for one id that the mount's
//! user namespace does not map. So an entry for an unmapped id goes out with
//! an id that is mapped there and that no caller has: one that the policy
//! does not present. Where there is none, nothing stands in.

use std::io;

use crate::fs::{Named, StandIn};
use crate::id::{Id, Kind, NO_ID};
use crate::policy::Pipeline;
use crate::sys::id_map::IdMap;

/// The id that the kernel shows for unmapped ones; a process may have it.
const OVERFLOW: u32 = 65534;

/// The highest id that there can be.
const HIGHEST: u32 = NO_ID - 1;

/// Chooses the stand-ins of users and groups in the user namespace of a
/// process, by its name in `/proc`.
///
/// # Errors
/// As read(2) of the maps of the user namespace.
pub(super) fn choose(policy: &Pipeline, process: &str) -> io::Result<StandIn> {
    Ok(StandIn {
        users: named(&IdMap::read(process, "uid")?, &policy.presentable_users()),
        groups: named(&IdMap::read(process, "gid")?, &policy.presentable_groups()),
    })
}

fn named<K: Kind>(map: &IdMap, presented: &[(u32, u64)]) -> Named<K> {
    let there = map.lines().iter().map(|line| (line.inside, line.count)).collect();
    let mapped: Vec<_> =
        map.lines().iter().map(|line| (line.inside, u64::from(line.count))).collect();
    Named { stand_in: free(&mapped, presented).and_then(Id::new), there }
}

/// Returns the highest mapped id that is not presented, nor the overflow id:
/// somebody has each of the others.
fn free(mapped: &[(u32, u64)], presented: &[(u32, u64)]) -> Option<u32> {
    let last_of = |&(first, count): &(u32, u64)| {
        let last = u64::from(first).saturating_add(count).checked_sub(1)?;
        Some(u32::try_from(last).unwrap_or(u32::MAX).min(HIGHEST))
    };
    // Below each range that is in the way is the next candidate.
    let below = |mut candidate: u32, first: u32| loop {
        let taken = presented.iter().find(|&&(start, count)| {
            candidate >= start && u64::from(candidate) < u64::from(start).saturating_add(count)
        });
        let end = match taken {
            Some(&(start, _)) => start,
            None if candidate == OVERFLOW => OVERFLOW,
            None => return Some(candidate),
        };
        candidate = end.checked_sub(1).filter(|&next| next >= first)?;
    };
    let candidates = mapped.iter().filter_map(|extent| Some((last_of(extent)?, extent.0)));
    candidates.filter_map(|(last, first)| below(last, first)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_id_that_nobody_is_shown() {
        const ALL: (u32, u64) = (0, 4_294_967_295);
        type Ranges = &'static [(u32, u64)];
        let cases: [(Ranges, Ranges, Option<u32>); 11] = [
            (&[ALL], &[(0, 65536)], Some(4_294_967_294)),
            (&[ALL], &[], Some(4_294_967_294)),
            (&[ALL], &[ALL], None),
            (&[ALL], &[(4_000_000_000, 294_967_295)], Some(3_999_999_999)),
            (&[(0, 65536)], &[(0, 65536)], None),
            (&[(0, 100_000)], &[ALL], None),
            (&[(0, 65536)], &[(65535, 1)], Some(65533)),
            (&[(0, 1), (1, 65536)], &[(0, 1001)], Some(65536)),
            (&[], &[], None),
            (&[(0, 1)], &[(0, 1)], None),
            (&[(0, 2)], &[(0, 1)], Some(1)),
        ];
        for (mapped, presented, want) in cases {
            assert_eq!(free(mapped, presented), want, "{mapped:?} {presented:?}");
        }
    }
}
