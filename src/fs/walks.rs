//! The next directory of a caller who lists one after another, read before it is asked for.
//!
//! A caller asks for nothing while it takes a listing in and looks at what is listed. So a
//! helper reads the next directory meanwhile, and looks at the files in it. It keeps
//! nothing of that: the source has it at hand when it is asked.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::helper::{Begin, Helper};
use crate::attr::{FileKind, Name};
use crate::error::Result;
use crate::source::{Node, Source};
use crate::sync::lock;

/// In how many directories a walk is followed: as deep as one goes.
const DEPTH: usize = 16;

/// How many directories in one are followed, and how many names are read for them.
const MANY: usize = 4096;
const NAMES: usize = 65536;

/// How many files of the next directory are looked at.
const FILES: usize = 512;

/// For how long what is in a directory is not read again, though something else was
/// listed there.
const AGE: Duration = Duration::from_secs(1);

/// Who walks where.
#[derive(Debug)]
pub(super) struct Walks {
    walk: Mutex<Walk>,
    helper: Helper<Step>,
}

/// Which directory was listed last in each of those that somebody is in.
#[derive(Debug, Default)]
struct Walk {
    /// The thread that walks: where several do, no processor is idle.
    pid: u32,
    last: VecDeque<(u64, OsString)>,
}

impl Walk {
    /// Notes that a directory is listed; returns which one was before it in the same.
    fn step(&mut self, pid: u32, parent: u64, name: &OsString) -> Option<OsString> {
        if self.pid != pid {
            *self = Self { pid, last: VecDeque::new() };
        }
        let known = self.last.iter().position(|(at, _)| *at == parent);
        let before = known.and_then(|known| self.last.remove(known)).map(|(_, name)| name);
        self.last.truncate(DEPTH.saturating_sub(1));
        self.last.push_front((parent, name.clone()));
        before.filter(|before| before != name)
    }
}

/// From one directory to another one in the same.
#[derive(Debug)]
struct Step {
    source: Arc<dyn Source>,
    number: u64,
    parent: Node,
    from: OsString,
    to: OsString,
}

impl Walks {
    /// Makes one whose helper has not begun.
    pub(super) fn new(begin: Begin) -> Self {
        Self { walk: Mutex::default(), helper: Helper::new("walk", begin, goer) }
    }

    /// Notes that a thread lists a directory, and where that is; `parent` returns the node
    /// of the directory that it is in.
    pub(super) fn step(
        &self,
        pid: u32,
        source: &Arc<dyn Source>,
        (number, to): (u64, OsString),
        parent: impl FnOnce() -> Result<Node>,
    ) {
        if !self.helper.can_help() {
            return;
        }
        let Some(from) = lock(&self.walk).step(pid, number, &to) else { return };
        if let Ok(parent) = parent() {
            let source = Arc::clone(source);
            // One that is busy is late already.
            let _busy = !self.helper.ask(Step { source, number, parent, from, to });
        }
    }
}

/// Returns what goes ahead of those who walk.
fn goer() -> Box<dyn FnMut(Step) + Send> {
    let mut known = VecDeque::new();
    Box::new(move |step| {
        // Whoever asks for it hears of what is wrong.
        let (Ok(()) | Err(_)) = go_ahead(&mut known, &step);
    })
}

fn go_ahead(known: &mut VecDeque<Orders>, step: &Step) -> Result<()> {
    next(known, step)?.map_or(Ok(()), |next| look(&*step.source, &step.parent, &next))
}

/// The directories in one, in the orders that they may be walked through.
#[derive(Debug)]
struct Orders {
    number: u64,
    read: Instant,
    listed: Vec<OsString>,
    sorted: Vec<OsString>,
}

impl Orders {
    fn read(step: &Step) -> Result<Option<Self>> {
        let Some(dir) = step.source.open_ahead(&step.parent)? else { return Ok(None) };
        let (mut listed, mut names) = (Vec::new(), 0_usize);
        dir.read(0, &mut |entry| {
            names = names.saturating_add(1);
            if entry.kind == Some(FileKind::Directory) && Name::new(entry.name).is_ok() {
                listed.push(entry.name.to_owned());
            }
            let more = listed.len() < MANY && names < NAMES;
            if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        Ok(Some(Self { number: step.number, read: Instant::now(), listed, sorted }))
    }

    /// Returns what comes next if both are neighbours.
    fn after(&self, from: &OsStr, to: &OsStr) -> Option<OsString> {
        let after = |order: &[OsString]| {
            let place = order.iter().position(|name| name == to)?;
            let before = order.get(place.checked_sub(1)?)?;
            order.get(place.checked_add(1)?).filter(|_| before == from).cloned()
        };
        after(&self.listed).or_else(|| after(&self.sorted))
    }
}

/// Returns the directory that comes after a step.
fn next(known: &mut VecDeque<Orders>, step: &Step) -> Result<Option<OsString>> {
    let place = known.iter().position(|orders| orders.number == step.number);
    let kept = place.and_then(|place| known.remove(place));
    let is_good = |orders: &Orders| {
        orders.sorted.binary_search(&step.to).is_ok() || orders.read.elapsed() < AGE
    };
    let orders = match kept.filter(is_good) {
        Some(orders) => orders,
        None => match Orders::read(step)? {
            Some(orders) => orders,
            None => return Ok(None),
        },
    };
    let next = orders.after(&step.from, &step.to);
    known.truncate(DEPTH.saturating_sub(1));
    known.push_front(orders);
    Ok(next)
}

/// Reads a directory, and looks at files in it.
fn look(source: &dyn Source, parent: &Node, name: &OsString) -> Result<()> {
    let (node, _) = source.reach(parent, Name::new(name)?)?;
    let Some(dir) = source.open_ahead(&node)? else { return Ok(()) };
    let (mut names, mut count) = (Vec::new(), 0_usize);
    dir.read(0, &mut |entry| {
        if entry.found.is_none() {
            names.push(entry.name.to_owned());
        }
        count = count.saturating_add(1);
        if count < FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    for name in names.iter().filter_map(|name| Name::new(name).ok()) {
        // It may be gone by now.
        let (Ok(_) | Err(_)) = source.lookup(&node, name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(walk: &mut Walk, opened: &[(u32, u64, &str)]) -> Vec<Option<String>> {
        let step = |(pid, parent, name): &(u32, u64, &str)| {
            let before = walk.step(*pid, *parent, &OsString::from(name));
            before.map(|before| before.into_string().unwrap())
        };
        opened.iter().map(step).collect()
    }

    #[test]
    fn a_walk_goes_on_after_what_is_below() {
        let mut walk = Walk::default();
        let opened = [(1, 9, "a"), (1, 10, "x"), (1, 10, "y"), (1, 9, "b"), (1, 9, "b")];
        let before = [None, None, Some("x"), Some("a"), None];
        assert_eq!(steps(&mut walk, &opened), before.map(|name| name.map(str::to_owned)));
        for parent in 100..1000 {
            assert_eq!(steps(&mut walk, &[(1, parent, "z")]), [None]);
        }
        assert_eq!(walk.last.len(), DEPTH);
    }

    #[test]
    fn two_who_walk_at_once_are_not_followed() {
        let opened = [(1, 9, "a"), (2, 9, "b"), (1, 9, "c"), (2, 9, "d")];
        assert_eq!(steps(&mut Walk::default(), &opened), [const { None }; 4]);
    }

    #[test]
    fn both_orders_are_known() {
        let names = |names: [&str; 4]| names.map(OsString::from).to_vec();
        let (listed, sorted) = (names(["c", "a", "d", "b"]), names(["a", "b", "c", "d"]));
        let orders = Orders { number: 1, read: Instant::now(), listed, sorted };
        let after = |from: &str, to: &str| orders.after(from.as_ref(), to.as_ref());
        assert_eq!(after("c", "a"), Some("d".into()));
        assert_eq!(after("a", "b"), Some("c".into()));
        for (from, to) in [("d", "b"), ("c", "d"), ("a", "c"), ("b", "a"), ("x", "a"), ("a", "x")] {
            assert_eq!(after(from, to), None, "{from} {to}");
        }
    }
}
