//! How the view ids of a private mount lie on the ids that a user has.
//!
//! The kernel wants a user namespace to say which id outside stands behind
//! each id inside (`/proc/PID/uid_map`). Inside are exactly the ids that the
//! policy can show; outside are the user's own id and subordinate ids.

use crate::sys::id_map::Line;

/// The most lines that the kernel takes (user_namespaces(7)).
const MOST_LINES: usize = 340;

/// Consecutive ids, `first` to `last` and both of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The lowest id.
    pub first: u32,
    /// The highest id; not below the lowest.
    pub last: u32,
}

impl Span {
    /// Returns how many ids these are.
    pub fn count(self) -> u64 {
        u64::from(self.last).saturating_sub(u64::from(self.first)).saturating_add(1)
    }
}

/// The view id that stands on the user's own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The id inside.
    pub view: u32,
    /// The id outside.
    pub disk: u32,
}

/// Why view ids cannot be laid on what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// This many ids are missing.
    Missing(u64),
    /// The map would have more lines than the kernel takes.
    Scattered(usize),
}

/// Lays view ids on the own id and on subordinate ids, lowest first.
///
/// # Errors
/// There are too few ids, or the map has too many lines.
pub fn layout(
    views: &[Span],
    own: Option<Own>,
    subordinate: &[Span],
) -> Result<Vec<Line>, Shortage> {
    let views = united(views);
    let own = own.filter(|own| views.iter().any(|s| (s.first..=s.last).contains(&own.view)));
    let wanted = match own {
        Some(own) => without(&views, own.view),
        None => views,
    };
    // The kernel refuses a map in which an outside id occurs twice.
    let mut pool = united(subordinate);
    if let Some(own) = own {
        pool = without(&pool, own.disk);
    }
    let mut lines: Vec<Line> =
        own.into_iter().map(|own| Line { inside: own.view, outside: own.disk, count: 1 }).collect();
    let mut pool = pool.into_iter();
    let mut rest: Option<Span> = None;
    let mut missing = 0_u64;
    for span in wanted {
        let mut todo = Some(span);
        while let Some(now) = todo {
            let Some(free) = rest.take().or_else(|| pool.next()) else {
                missing = missing.saturating_add(now.count());
                break;
            };
            let count = now.count().min(free.count());
            lines.push(Line {
                inside: now.first,
                outside: free.first,
                count: u32::try_from(count).unwrap_or(u32::MAX),
            });
            todo = after(now, count);
            rest = after(free, count);
        }
    }
    if missing > 0 {
        return Err(Shortage::Missing(missing));
    }
    lines.sort_by_key(|line| line.inside);
    if lines.len() > MOST_LINES {
        return Err(Shortage::Scattered(lines.len()));
    }
    Ok(lines)
}

/// Returns what is left of a span after its first `count` ids.
fn after(span: Span, count: u64) -> Option<Span> {
    let first = u64::from(span.first).checked_add(count)?;
    let first = u32::try_from(first).ok()?;
    (first <= span.last).then_some(Span { first, last: span.last })
}

/// Sorts spans and unites those that touch or overlap.
fn united(spans: &[Span]) -> Vec<Span> {
    let mut sorted: Vec<Span> = spans.iter().copied().filter(|s| s.first <= s.last).collect();
    sorted.sort_unstable();
    let mut out: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match out.last_mut() {
            Some(last) if span.first <= last.last.saturating_add(1) => {
                last.last = last.last.max(span.last);
            }
            _ => out.push(span),
        }
    }
    out
}

/// Takes one id out of sorted spans.
fn without(spans: &[Span], id: u32) -> Vec<Span> {
    let mut out = Vec::with_capacity(spans.len().saturating_add(1));
    for span in spans {
        if !(span.first..=span.last).contains(&id) {
            out.push(*span);
            continue;
        }
        if let Some(last) = id.checked_sub(1).filter(|last| *last >= span.first) {
            out.push(Span { first: span.first, last });
        }
        if let Some(first) = id.checked_add(1).filter(|first| *first <= span.last) {
            out.push(Span { first, last: span.last });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(list: &[(u32, u32)]) -> Vec<Span> {
        list.iter().map(|(first, last)| Span { first: *first, last: *last }).collect()
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn ids_are_laid_on_what_there_is() {
        let own = |view, disk| Some(Own { view, disk });
        for (views, own, subs, want) in [
            // One id needs nothing but the own one.
            (&[(1000, 1000)][..], own(1000, 1000), &[][..], Ok("1000 1000 1")),
            (&[(0, 0)], own(0, 1000), &[], Ok("0 1000 1")),
            // A container: the own id inside it, the rest on subordinate ids.
            (
                &[(0, 65535)],
                own(1000, 1000),
                &[(100_000, 165_535)],
                Ok("0 100000 1000, 1000 1000 1, 1001 101000 64535"),
            ),
            (&[(0, 65535)], own(0, 1000), &[(100_000, 165_534)], Ok("0 1000 1, 1 100000 65535")),
            // Several ranges on either side.
            (&[(5, 6), (9, 10)], None, &[(70, 72), (50, 50)], Ok("5 50 1, 6 70 1, 9 71 2")),
            // Ranges that overlap count once, and never the own id again.
            (&[(0, 1), (1, 2)], own(0, 5), &[(4, 6), (5, 7)], Ok("0 5 1, 1 4 1, 2 6 1")),
            // An own id that is not shown is not used.
            (&[(7, 7)], own(1, 1000), &[(50, 50)], Ok("7 50 1")),
            (&[], None, &[], Ok("")),
            (&[(0, 65535)], own(0, 1000), &[(1, 10)], Err(Shortage::Missing(65_525))),
            (&[(0, u32::MAX - 1)], own(0, 0), &[], Err(Shortage::Missing(4_294_967_294))),
        ] {
            let got = layout(&spans(views), own, &spans(subs));
            assert_eq!(got.map(|l| text(&l)), want.map(str::to_owned), "{views:?} on {subs:?}");
        }
    }

    #[test]
    fn a_map_has_at_most_340_lines() {
        let views: Vec<Span> = (0..341).map(|i| Span { first: i * 2, last: i * 2 }).collect();
        let subs = spans(&[(10_000, 20_000)]);
        assert_eq!(layout(&views, None, &subs), Err(Shortage::Scattered(341)));
        assert_eq!(layout(&views[1..], None, &subs).map(|l| l.len()), Ok(340));
    }

    proptest! {
        #[test]
        fn every_view_id_has_exactly_one_id_outside(
            views in prop::collection::vec((0_u32..200, 0_u32..20), 0..6),
            subs in prop::collection::vec((0_u32..300, 0_u32..60), 0..6),
            own in (0_u32..200, 0_u32..300),
        ) {
            let spans = |list: &[(u32, u32)]| -> Vec<Span> {
                list.iter().map(|(first, more)| Span { first: *first, last: first + more }).collect()
            };
            let (views, subs) = (spans(&views), spans(&subs));
            let ids = |spans: &[Span]| -> std::collections::BTreeSet<u32> {
                spans.iter().flat_map(|s| s.first..=s.last).collect()
            };
            let own = Own { view: own.0, disk: own.1 };
            match layout(&views, Some(own), &subs) {
                Ok(lines) => {
                    let mut inside = std::collections::BTreeSet::new();
                    let mut outside = std::collections::BTreeSet::new();
                    for line in &lines {
                        for i in 0..line.count {
                            prop_assert!(inside.insert(line.inside + i));
                            prop_assert!(outside.insert(line.outside + i));
                            if line.inside + i == own.view {
                                prop_assert_eq!(line.outside + i, own.disk);
                            }
                        }
                    }
                    prop_assert_eq!(&inside, &ids(&views));
                    outside.remove(&own.disk);
                    prop_assert!(outside.is_subset(&ids(&subs)));
                }
                Err(Shortage::Missing(missing)) => {
                    let mut want = ids(&views);
                    let mut have = ids(&subs);
                    if want.remove(&own.view) {
                        have.remove(&own.disk);
                    }
                    prop_assert_eq!(missing, (want.len() - have.len()) as u64);
                }
                Err(Shortage::Scattered(_)) => prop_assert!(false),
            }
        }
    }
}
