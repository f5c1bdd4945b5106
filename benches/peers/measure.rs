//! One work is measured: round by round, mount by mount.

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::Duration;

use crate::args::Args;
use crate::child;
use crate::data::read_whole;
use crate::job::Sample;
use crate::mounts::{Kind, Live};
use crate::place::{self, Place};
use crate::report::Report;
use crate::visible;
use crate::work::{Before, How, Unit, Work};

/// Time for servers to take in that the kernel has forgotten all.
const SETTLE: Duration = Duration::from_millis(100);
/// Between making a mount and using it.
const PAUSE: Duration = Duration::from_millis(20);
/// Measures a work on all mounts, round by round.
pub fn measure(
    work: &Work,
    kinds: &[&'static Kind],
    place: &Place,
    args: &Args,
    report: &mut Report,
) {
    let rounds = match work.how {
        How::Child(..) | How::Start => args.rounds,
        How::Visible | How::Memory => 1,
    };
    eprintln!("peers: {}", work.name);
    let mut done = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let at = (turn + round) % kinds.len();
            let Some((kind, values)) = kinds.get(at).zip(done.get_mut(at)) else { continue };
            at_work(&format!("{}, round {} of {rounds}, {}", work.name, round + 1, kind.name));
            let value = sample(work, kind, place, &format!("{}.{}.{round}", kind.name, work.name));
            if let Err(error) = &value {
                at_work("");
                eprintln!("peers: {} on {}: {error}", work.name, kind.name);
            }
            values.push(value.ok());
        }
    }
    at_work("");
    for (at, row) in work.rows.iter().enumerate() {
        let one = |value: &Option<Vec<f64>>| value.as_ref()?.get(at).copied();
        let all = done.iter().map(|values| values.iter().map(one).collect()).collect();
        report.add(work, row, all);
    }
}

/// Says on a terminal what is being done, in place of what was said before.
fn at_work(what: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// Measures one work once on a mount that is made for it; one number for each row.
fn sample(work: &Work, kind: &Kind, place: &Place, name: &str) -> io::Result<Vec<f64>> {
    let live = Live::start(kind, place)?;
    // Every child starts on a machine that has done nothing for a moment: one that
    // is started in the middle of something else waits longer for a processor.
    thread::sleep(PAUSE);
    match work.how {
        How::Start => {
            if live.started.is_zero() {
                return Ok(Vec::new());
            }
            Ok(vec![live.started.as_secs_f64() * 1e3])
        }
        How::Memory => {
            if live.memory().is_none() {
                return Ok(Vec::new());
            }
            child::run("walk-many", &live, place, name)?;
            Ok(live.memory().map(|bytes| bytes as f64 / 1_048_576.0).into_iter().collect())
        }
        How::Visible => {
            let times = visible::measure(&live, place, name)?;
            Ok(times.into_iter().map(|nanos| nanos / 1e6).collect())
        }
        How::Child(_, before) => {
            prepare(before, &live, place, name)?;
            let numbers = child::run(work.name, &live, place, name)?;
            let [nanos, count] = numbers[..] else { return Err(io::ErrorKind::InvalidData.into()) };
            let sample = Sample { nanos, count };
            // Or what one has written is written back while the next is measured.
            if work.rows.iter().any(|row| row.unit == Unit::Mib) || work.name.starts_with("random")
            {
                nix::unistd::sync();
            }
            Ok(vec![sample.each()])
        }
    }
}

fn prepare(before: Before, live: &Live, place: &Place, name: &str) -> io::Result<()> {
    match before {
        Before::Any => {}
        Before::Forgotten => {
            child::run("cold-walk", live, place, name)?;
            place::forget()?;
            thread::sleep(SETTLE);
        }
        Before::Cold => {
            place::forget_all()?;
            thread::sleep(SETTLE);
        }
        Before::WarmOnDisk => read_whole(&place.source.join("big"))?,
    }
    Ok(())
}
