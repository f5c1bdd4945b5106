//! The kernel as the model: the same random operations on a mount of ours and
//! on the kernel's idmapped mount of an equal tree, by the same callers.
//!
//! `IDMAPFS_SEED` and `IDMAPFS_OPS` replay one run; `IDMAPFS_FAULTS=N` goes on
//! after a fault (with the next seed) and reports up to N different ones.

mod acl;
mod actor;
mod compare;
mod exec;
mod generate;
mod known;
mod ops;
mod reserve;
mod world;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::actor::{Actor, CALLERS};
use self::generate::Generator;
use self::known::Known;
use self::ops::{Op, Outcome, SLOTS};
use self::world::{Engine, Side, World};
use crate::require;
use crate::support::rng::Rng;
use crate::support::{Sandbox, raw, rest, sandbox};

/// What runs have seen, for the closing lines.
#[derive(Debug, Default)]
struct Stats {
    operations: u64,
    known: BTreeMap<Known, u64>,
    kinds: BTreeMap<String, [u64; 2]>,
    errors: BTreeMap<String, u64>,
}

/// The first difference of a run.
#[derive(Debug)]
struct Fault {
    report: String,
    key: String,
}

/// One kind of run: which engines, and what else may happen.
#[derive(Debug, Clone)]
struct Run {
    engines: [Engine; 2],
    /// Changes on the disk behind the mounts, now and then.
    host_changes: bool,
    /// How long the host then waits before it looks at a mount.
    settle: Duration,
    /// Permission is decided by us, not by the client.
    we_decide: bool,
}

const NONE: Duration = Duration::ZERO;

impl Run {
    /// The kernel's mount and another one, where the client decides.
    fn plain(other: Engine, host_changes: bool) -> Self {
        let engines = [kernel(), other];
        Self { engines, host_changes, settle: NONE, we_decide: false }
    }

    /// Whether the kernel may read and write files of ours by itself.
    fn passes(&self) -> bool {
        matches!(&self.engines[1], Engine::Ours(args) | Engine::Stacked(args) if !args.iter().any(|arg| arg == "off"))
    }

    /// Why flags of inodes are not tried: what is then on one disk alone spoils the rest.
    fn sets_no_flags(&self) -> Option<Known> {
        match &self.engines[1] {
            Engine::Kept(_) => Some(Known::FlagsOfAnotherUser),
            engine if engine.caches_writes() => Some(Known::LockedWhileCached),
            _ => None,
        }
    }
}

impl Engine {
    /// Whether the server is not told who asks; a map of the kernel's before it says
    /// who has no id.
    fn hides_callers(&self) -> (bool, bool) {
        match self {
            Self::Ours(arguments) => (arguments.iter().any(|arg| arg == "--allow-idmap"), true),
            Self::Stacked(_) => (true, false),
            Self::Kernel(_) | Self::MadeByUs | Self::Kept(_) => (false, false),
        }
    }
}

/// The state of a run.
struct Session<'a> {
    world: &'a World,
    run: &'a Run,
    stats: &'a mut Stats,
    actors: Vec<Actor>,
    generator: Generator,
    host: Rng,
    opened: [[Option<String>; SLOTS]; CALLERS.len()],
    last: VecDeque<String>,
    fine_times: bool,
}

impl Session<'_> {
    /// Does operation number `n`; returns the differences.
    fn step(&mut self, n: u64) -> Result<(), (String, Vec<String>)> {
        let sides = &self.world.sides;
        if n.is_multiple_of(64) {
            let differences = compare::trees(sides, &mut self.stats.known);
            if !differences.is_empty() {
                return Err(("whole tree".into(), differences));
            }
            let (dirs, files) = compare::walk(&sides[0]);
            self.generator.learn(dirs, files);
        }
        if self.run.host_changes && self.host.chance(5) {
            self.change_on_host();
        }
        let (who, op) = self.generator.next();
        if self.stores_nobody(who, &op) {
            *self.stats.known.entry(Known::WhiteoutOfNobody).or_default() += 1;
            return Ok(());
        }
        if let (Op::SetFlags { .. }, Some(why)) = (&op, self.run.sets_no_flags()) {
            *self.stats.known.entry(why).or_default() += 1;
            return Ok(());
        }
        if self.names_for_nobody(who, &op) {
            *self.stats.known.entry(Known::NameOfUnknown).or_default() += 1;
            return Ok(());
        }
        if self.not_shown(who, &op) {
            *self.stats.known.entry(Known::SpecialNotShown).or_default() += 1;
            return Ok(());
        }
        let opened: Vec<String> =
            op.slots().iter().filter_map(|&slot| self.opened[who][slot].clone()).collect();
        let before = compare::before(sides, &op, &opened);
        let word = op.word();
        let outcomes = self.actors[who].run(&op).map_err(|e| (format!("{word} hangs"), vec![e]))?;
        if sides[1].caches_writes && op.writes() {
            self.actors[who].sync(&op).map_err(|e| ("fsync hangs".into(), vec![e]))?;
        }
        self.record(who, &op, &outcomes);
        let [kernel, ours] = &outcomes;
        let ordered = self.run.we_decide.then(|| known::when_we_decide(&op, kernel, ours));
        let unknown = self.run.engines[1].hides_callers().0;
        if unknown && known::chown_of_nothing_by_unknown(&op, kernel, ours) {
            *self.stats.known.entry(Known::ChownOfNothingByUnknown).or_default() += 1;
            known::settle_kept(sides);
            return Ok(());
        }
        let mark = unknown && known::mark_of_unknown(&op, kernel, ours);
        if mark && known::settle_marks(sides) {
            *self.stats.known.entry(Known::MarkOfUnknown).or_default() += 1;
        }
        let mut differences = Vec::new();
        match ordered.flatten() {
            Some(known) => *self.stats.known.entry(known).or_default() += 1,
            None if mark => {}
            None if sides[1].caches_writes && known::chown_of_nothing(&op, kernel, ours) => {
                *self.stats.known.entry(Known::ChownOfNothingWhileWritten).or_default() += 1;
            }
            None if self.ignores_capabilities(who, &op, &outcomes) => {
                *self.stats.known.entry(Known::AccessWithCapabilities).or_default() += 1;
            }
            None => {
                let known = &mut self.stats.known;
                differences.extend(compare::outcomes(&op, &outcomes, &before, known));
            }
        }
        if self.run.passes() && known::set_id_while_passed(&op, kernel, ours) {
            *self.stats.known.entry(Known::SetIdWhilePassed).or_default() += 1;
            known::settle_set_id(sides);
        }
        if known::denied_before_unmapped(&op, kernel, ours) && !self.denied(who, &op) {
            differences.push("EACCES instead of EOVERFLOW, but no directory denies it".into());
        }
        if let Op::Open { slot, .. } = op
            && (outcomes[0].errno == 0) != (outcomes[1].errno == 0)
        {
            // Only after a known difference: both go on with the slot empty.
            self.actors[who].run(&Op::Close { slot }).map_err(|e| ("close".into(), vec![e]))?;
        }
        differences.extend(compare::after(
            sides,
            &op,
            &outcomes,
            &before,
            self.fine_times,
            &mut self.stats.known,
        ));
        if op.writes() && outcomes[0].after.contains(" mode 01") {
            known::settle_fifos(sides);
        }
        let refused = outcomes.each_ref().map(|outcome| outcome.errno) == [libc::EOVERFLOW; 2];
        if refused && matches!(op, Op::Fchown { .. }) && known::settle_capability(sides) {
            *self.stats.known.entry(Known::CapabilityBeforeUnmappedChown).or_default() += 1;
        }
        if differences.is_empty() {
            return Ok(());
        }
        let errors = outcomes.map(|outcome| compare::error(outcome.errno));
        Err((format!("{word} by {}: {errors:?}", CALLERS[who].name), differences))
    }

    /// Whether the kernel would make a whiteout that belongs to no mapped id: it
    /// does not look where the new name exists.
    fn stores_nobody(&self, who: usize, op: &Op) -> bool {
        let Op::Rename { to, flags, .. } = op else { return false };
        let there = || raw::statx(Ok(&self.world.sides[0].disk.join(to))).is_ok();
        flags & libc::RENAME_WHITEOUT != 0 && CALLERS[who].unmapped() && there()
    }

    /// Whether a caller without a mapped id gives a file another name, and the server
    /// cannot know.
    fn names_for_nobody(&self, who: usize, op: &Op) -> bool {
        let renames = matches!(op, Op::Link { .. })
            || matches!(op, Op::Rename { flags, .. } if flags & libc::RENAME_WHITEOUT == 0);
        renames && CALLERS[who].unmapped() && self.run.engines[1].hides_callers() == (true, true)
    }

    /// Whether access(2) was to leave capabilities out, which we cannot know.
    fn ignores_capabilities(&self, who: usize, op: &Op, [kernel, _]: &[Outcome; 2]) -> bool {
        self.run.we_decide
            && CALLERS[who].capable
            && kernel.errno == libc::EACCES
            && matches!(op, Op::Access { flags, .. } if flags & libc::AT_EACCESS == 0)
    }

    /// Whether the operation is about a fifo or socket that the caller may not
    /// use: ours does not let it be looked up where we decide.
    fn not_shown(&mut self, who: usize, op: &Op) -> bool {
        use std::os::unix::fs::FileTypeExt as _;
        let special = |path: &String| {
            let kind = std::fs::metadata(self.world.sides[0].disk.join(path));
            kind.is_ok_and(|meta| meta.file_type().is_fifo() || meta.file_type().is_socket())
        };
        let paths = if self.run.we_decide { op.paths() } else { Vec::new() };
        // Also on the way, since what was a directory may have been moved.
        let on_the_way = |path: &'_ str| -> Vec<String> {
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            ends.map(|end| path[..end].to_owned()).collect()
        };
        let paths: Vec<String> = paths.into_iter().flat_map(on_the_way).filter(special).collect();
        paths.into_iter().any(|path| {
            let mode = libc::R_OK | libc::W_OK;
            let access = Op::Access { path, mode, flags: libc::AT_EACCESS };
            self.actors[who].run(&access).is_ok_and(|outcomes| outcomes[0].errno != 0)
        })
    }

    /// Whether a directory of the operation denies it to the caller, by the kernel.
    fn denied(&mut self, who: usize, op: &Op) -> bool {
        // A directory that moves has its own `..` changed.
        let moved = if let Op::Rename { from, .. } = op { Some(from.clone()) } else { None };
        op.parents().into_iter().chain(moved).any(|path| {
            let access =
                Op::Access { path, mode: libc::W_OK | libc::X_OK, flags: libc::AT_EACCESS };
            self.actors[who].run(&access).is_ok_and(|outcomes| outcomes[0].errno != 0)
        })
    }

    /// Keeps what the report and the generator need of an operation.
    fn record(&mut self, who: usize, op: &Op, outcomes: &[Outcome; 2]) {
        let ok = outcomes.iter().all(|outcome| outcome.errno == 0);
        self.generator.note(who, op, ok);
        match op {
            Op::Rename { from, to, flags } if ok => self.follow(from, to, *flags),
            Op::Open { path, slot, .. } => self.opened[who][*slot] = ok.then(|| path.clone()),
            Op::Close { slot } => self.opened[who][*slot] = None,
            _ => {}
        }
        let [one, two] = outcomes.each_ref().map(compare::show);
        let shown = if one == two { one } else { format!("{one} | {two}") };
        self.last.push_back(format!("{} {op:?}: {shown}", CALLERS[who].name));
        if self.last.len() > 12 {
            self.last.pop_front();
        }
        self.stats.operations += 1;
        self.stats.kinds.entry(op.word()).or_default()[usize::from(ok)] += 1;
        if !ok {
            let error = compare::error(outcomes[0].errno);
            *self.stats.errors.entry(error).or_default() += 1;
        }
    }

    /// Keeps the paths of open files true after a rename.
    fn follow(&mut self, from: &str, to: &str, flags: u32) {
        let below = |path: &str, dir: &str| {
            path.strip_prefix(dir)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(str::to_owned)
        };
        for path in self.opened.iter_mut().flatten().flatten() {
            if let Some(rest) = below(path, from) {
                *path = format!("{to}{rest}");
            } else if let Some(rest) =
                below(path, to).filter(|_| flags & libc::RENAME_EXCHANGE != 0)
            {
                *path = format!("{from}{rest}");
            }
        }
    }

    /// The same change on both disks, behind the mounts.
    fn change_on_host(&mut self) {
        let (dirs, files) = compare::walk(&self.world.sides[0]);
        let (file, dir) = (self.host.pick(&files), self.host.pick(&dirs));
        let id = self.host.pick(&[0, 1, 2, 5000]);
        let what = self.host.below(6);
        for side in &self.world.sides {
            let (file, dir) = (side.disk.join(&file), side.disk.join(&dir));
            // Whether it works is the same on both: they are equal trees.
            let _ = match what {
                0 => raw::chown(&file, id, id, false),
                1 => raw::chmod(&dir, 0o777),
                2 => raw::truncate(&file, 77),
                3 => raw::rename(&file, &dir.join("host"), 0),
                4 => std::fs::remove_file(&file).map(|()| 0).map_err(|_| 0),
                _ => raw::mkdir(&dir.join("hostdir"), 0o777),
            };
        }
        rest(self.run.settle);
        self.last.push_back(format!("on disk: change {what} of {file} or {dir}, id {id}"));
    }
}

/// Runs `ops` operations of a seed.
fn episode(sandbox: &Sandbox, run: &Run, seed: u64, ops: u64, stats: &mut Stats) -> Option<Fault> {
    let world = World::new(sandbox, [&run.engines[0], &run.engines[1]]);
    let roots = [world.sides[0].view.clone(), world.sides[1].view.clone()];
    let mut session = Session {
        fine_times: fine_times(&world.sides[0]),
        actors: CALLERS.iter().map(|&caller| Actor::start(caller, roots.clone())).collect(),
        generator: Generator::new(seed),
        host: Rng::new(!seed),
        opened: Default::default(),
        last: VecDeque::new(),
        world: &world,
        run,
        stats,
    };
    for n in 0..=ops {
        if let Err((key, differences)) = session.step(n) {
            let last = Vec::from(session.last).join("\n  ");
            let differences = differences.join("\n  ");
            let report = format!(
                "seed {seed}, operation {n}: {key}\n  first the kernel's, then ours:\n  {differences}\n  \
                 the last operations:\n  {last}\n  \
                 replay: IDMAPFS_SEED={seed} IDMAPFS_OPS={n} (the same test)"
            );
            let log = world.sides[1].server.as_ref().map(|server| server.log());
            let log =
                log.map(|log| log.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>());
            return Some(Fault { report: format!("{report}\n  server: {log:?}"), key });
        }
    }
    None
}

/// Whether the disk's times are fine enough to see every change.
fn fine_times(side: &Side) -> bool {
    let probe: &Path = &side.disk.join("pub");
    let ctime = || raw::statx(Ok(probe)).map(|s| (s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec));
    (0..50).all(|_| {
        let old = ctime();
        raw::chmod(probe, 0o777).is_ok() && ctime() != old
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number in the environment"))
}

/// Runs several seeds; returns the different faults.
fn episodes(run: &Run, seeds: std::ops::Range<u64>, ops: u64) -> (Stats, Vec<Fault>) {
    let seeds = variable("IDMAPFS_SEED").map_or(seeds, |seed| seed..seed + 1);
    let ops = variable("IDMAPFS_OPS").unwrap_or(ops);
    let limit = variable("IDMAPFS_FAULTS").unwrap_or(1);
    // Looking for many faults: ten times as many seeds.
    let more = if limit > 1 { 9 * (seeds.end - seeds.start) } else { 0 };
    let seeds = seeds.start..seeds.end + more;
    let results = Arc::new(Mutex::new((Stats::default(), Vec::<Fault>::new())));
    for seed in seeds {
        // A place of its own for each: the longest that a test may take is for one.
        let (run, slot) = (run.clone(), Arc::clone(&results));
        sandbox(move |sandbox| {
            let (stats, faults) = &mut *slot.lock().expect("no panic here");
            if let Some(fault) = episode(sandbox, &run, seed, ops, stats)
                && !faults.iter().any(|known| known.key == fault.key)
            {
                faults.push(fault);
            }
        });
        let found = results.lock().expect("no panic here").1.len();
        if u64::try_from(found).is_ok_and(|found| found >= limit) {
            break;
        }
    }
    std::mem::take(&mut *results.lock().expect("no panic here"))
}

/// Runs and fails with every fault; prints what was covered.
fn hold(name: &str, run: &Run, seeds: std::ops::Range<u64>, ops: u64) -> Stats {
    let started = std::time::Instant::now();
    let (stats, faults) = episodes(run, seeds, ops);
    let reports: Vec<&str> = faults.iter().map(|fault| fault.report.as_str()).collect();
    println!(
        "oracle {name}: {} operations in {:.1} s, {} faults; known differences {:?}",
        stats.operations,
        started.elapsed().as_secs_f64(),
        faults.len(),
        stats.known
    );
    println!("  [failed, done] by kind: {:?}\n  errors: {:?}", stats.kinds, stats.errors);
    assert!(faults.is_empty(), "{}", reports.join("\n\n"));
    stats
}

fn kernel() -> Engine {
    Engine::Kernel(world::map())
}

fn ours(arguments: &[&str]) -> Engine {
    Engine::Ours(arguments.iter().map(|&argument| argument.to_owned()).collect())
}

/// The oracle against itself: the comparison has no false alarms.
#[test]
fn kernel_equals_itself() {
    require!(Root, Ext4Loop, Idmap);
    hold("itself", &Run::plain(kernel(), true), 100..104, 2500);
}

/// The oracle against a wrong map: the comparison sees it, soon.
#[test]
fn a_wrong_map_is_seen() {
    require!(Root, Ext4Loop, Idmap);
    let mut wrong = world::map();
    wrong.groups[0] = "0:200001:1000".into();
    let run = Run::plain(Engine::Kernel(wrong), false);
    let (_, faults) = episodes(&run, 1..2, 200);
    assert!(!faults.is_empty(), "a map that is wrong for groups went unseen");
}

/// A smaller fault is seen as well: one single id that has no counterpart.
#[test]
fn a_missing_extent_is_seen() {
    require!(Root, Ext4Loop, Idmap);
    let mut wrong = world::map();
    wrong.users.truncate(1);
    let run = Run::plain(Engine::Kernel(wrong), false);
    let (_, faults) = episodes(&run, 1..2, 500);
    assert!(!faults.is_empty(), "a missing single id went unseen");
}

/// Our mount without caches, with changes behind it.
#[test]
fn ours_equals_the_kernel_uncached() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run::plain(ours(&["--cache", "none"]), true);
    hold("uncached", &run, 1..5, 2500);
}

/// Our mount that believes all for an hour, unless the host tells of a change.
fn watched(more: &[&str]) -> Run {
    let settle = Duration::from_millis(100);
    Run { settle, ..Run::plain(ours(&[&["--cache", "watch"], more].concat()), true) }
}

#[test]
fn ours_equals_the_kernel_watched() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    hold("watched", &watched(&[]), 51..55, 2500);
}

/// What the server reads and writes has pages that the host makes untrue.
#[test]
fn ours_equals_the_kernel_watched_without_passthrough() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    hold("watched, passthrough off", &watched(&["--passthrough", "off"]), 55..57, 2500);
}

/// Our mount where permission is decided by us: a mirror, and nobody in it who
/// takes part.
#[test]
fn ours_equals_the_kernel_when_we_decide() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run { we_decide: true, ..Run::plain(ours(&["--mirror", "9999"]), true) };
    hold("mirror", &run, 31..35, 2500);
}

/// Our mount that believes all for longer than a run takes: what is done through the
/// mount must come true all the same.
#[test]
fn ours_equals_the_kernel_with_a_time_to_live() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run::plain(ours(&["--cache", "ttl=30"]), false);
    hold("ttl=30", &run, 11..15, 2500);
}

/// Our mount where nobody else changes the source; `more` says who writes.
fn alone(more: &[&str], seeds: std::ops::Range<u64>) {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run::plain(ours(&[&["--cache", "exclusive"], more].concat()), false);
    hold(&format!("exclusive {more:?}"), &run, seeds, 2500);
}

#[test]
fn ours_equals_the_kernel_alone() {
    alone(&[], 81..83);
}

#[test]
fn ours_equals_the_kernel_alone_where_writes_are_cached() {
    alone(&["--passthrough", "off"], 91..93);
}

/// Our mount as it is started without options.
#[test]
fn ours_equals_the_kernel_by_default() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run::plain(ours(&[]), false);
    hold("default", &run, 21..25, 2500);
}

/// Our mount that tells nobody's ids, which does as well where the kernel decides.
#[test]
fn ours_equals_the_kernel_with_unknown_callers() {
    require!(Root, Fuse, FuseIdmap, Ext4Loop, Idmap);
    let run = Run::plain(ours(&["--allow-idmap", "--cache", "none"]), true);
    hold("allow-idmap", &run, 61..65, 2500);
}

/// The kernel's map on our mount is what it is on a plain directory.
#[test]
fn ours_is_mapped_as_a_directory_is() {
    require!(Root, Fuse, FuseIdmap, Ext4Loop, Idmap);
    let arguments = ["--allow-idmap"].map(str::to_owned).to_vec();
    let run = Run::plain(Engine::Stacked(arguments), false);
    hold("mapped again", &run, 71..75, 2500);
}

/// The kernel's mount that our program makes is the one that the tests make.
#[test]
fn the_kernel_engine_equals_the_kernel() {
    require!(Root, Ext4Loop, Idmap);
    let run = Run::plain(Engine::MadeByUs, true);
    hold("engine=kernel", &run, 41..43, 2500);
}

/// The mount of an ordinary user, whose files on disk all belong to that user.
fn kept(store: &str, seeds: std::ops::Range<u64>) {
    require!(Root, Fuse, Ext4Loop, Idmap, Fusermount);
    let arguments = ["--owners", store, "--cache", "none"].map(str::to_owned).to_vec();
    let run = Run::plain(Engine::Kept(arguments), true);
    hold(&format!("owners={store}"), &run, seeds, 2500);
}

// Two of each, side by side.

#[test]
fn owners_kept_in_attributes_equal_the_kernel() {
    kept("xattr", 61..63);
}

#[test]
fn owners_kept_in_attributes_equal_the_kernel_with_other_seeds() {
    kept("xattr", 63..65);
}

#[test]
fn owners_kept_in_a_database_equal_the_kernel() {
    kept("db", 61..63);
}

#[test]
fn owners_kept_in_a_database_equal_the_kernel_with_other_seeds() {
    kept("db", 63..65);
}

/// Our mount where the server reads and writes: then who writes makes a
/// difference, as in the kernel.
#[test]
fn ours_equals_the_kernel_without_passthrough() {
    require!(Root, Fuse, Ext4Loop, Idmap);
    let run = Run::plain(ours(&["--passthrough", "off"]), false);
    let stats = hold("passthrough off", &run, 21..25, 2500);
    assert!(!stats.known.contains_key(&Known::SetIdWhilePassed), "{:?}", stats.known);
}
