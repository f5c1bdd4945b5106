//! What owners beside the files cost: a record read and written by each store, and a
//! file made and changed with and without the lock that keeps other servers away.
//!
//! Works in the directory that `TMPDIR` names: user attributes are needed there.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use idmapfs::attr::{Mode, Name};
use idmapfs::id::{Disk, Ids};
use idmapfs::source::host::{Host, HostOptions};
use idmapfs::source::owners::db::Db;
use idmapfs::source::owners::live::{Hold, Place};
use idmapfs::source::owners::{Kept, Record, Store, Xattrs};
use idmapfs::source::{Change, Key, New, NewKind, Node, Rights, Source};
use nix::unistd::{getegid, geteuid};

/// How often both sides are measured, and how many files each time.
const ROUNDS: usize = 60;
const FILES: u32 = 100;

const RIGHTS: Rights = Rights { keep_setid: false, reserve: false };

/// Returns whose the files are.
fn own_ids() -> Done<Ids<Disk>> {
    let ids = Ids::new(geteuid().as_raw(), getegid().as_raw());
    ids.ok_or_else(|| "ids that nobody can have".into())
}

/// What a step of a bench may fail with.
type Done<T> = Result<T, Box<dyn std::error::Error>>;

struct Ground {
    below: Arc<Host>,
    root: Node,
    stores: [(&'static str, Arc<dyn Store>); 2],
}

impl Ground {
    fn new(dir: &Path) -> Done<Self> {
        let source = dir.join("source");
        std::fs::create_dir_all(&source)?;
        let options = HostOptions { staging: true, ..HostOptions::default() };
        let below = Arc::new(Host::open(&source, &options)?);
        let db = Db::open(&dir.join("state"), &source, &*below)?;
        let xattrs = Xattrs::new(&*below).map_err(|error| error.to_string())?;
        let (root, _) = below.root().map_err(|error| error.to_string())?;
        Ok(Self { below, root, stores: [("xattr", Arc::new(xattrs)), ("db", Arc::new(db))] })
    }

    fn make(&self, source: &dyn Source, dir: &Node, name: &str) -> Done<(Node, Key)> {
        let owner = own_ids()?;
        let (what, mode) = (NewKind::Regular(None), Mode::new(0o640));
        let new = New { what, owner, mode, umask: 0, reserve: false, prepare: None };
        let told = |error: idmapfs::error::Error| error.to_string();
        let name = Name::new(OsStr::new(name)).map_err(told)?;
        source.create(dir, name, &new).map_err(told)?;
        let (node, found) = source.reach(dir, name).map_err(told)?;
        Ok((node, found.key))
    }
}

/// Ends what cannot go on: a bench has nobody to tell.
fn must<T>(done: Done<T>) -> T {
    done.unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(1)
    })
}

fn records(c: &mut Criterion) {
    let dir = must(tempfile::tempdir().map_err(Into::into));
    let ground = must(Ground::new(dir.path()));
    let files: Vec<_> = (0..1000)
        .map(|file| must(ground.make(&*ground.below, &ground.root, &file.to_string())))
        .collect();
    let record =
        |id| Ids::new(id, id).map(|owner| Record { owner, mode: Mode::new(0o640), kind: None });
    let mut group = c.benchmark_group("record");
    for (name, store) in &ground.stores {
        let mut turn = files.iter().cycle().zip(1_u32..);
        let mut put = || {
            if let (Some(((node, key), id)), below) = (turn.next(), &*ground.below)
                && let Some(record) = record(id)
                && let Err(why) = store.put(below, node, key, &record)
            {
                must::<()>(Err(why.to_string().into()));
            }
        };
        files.iter().for_each(|_| put());
        group.bench_function(BenchmarkId::new("put", name), |b| b.iter(&mut put));
        let mut turn = files.iter().cycle();
        group.bench_function(BenchmarkId::new("get", name), |b| {
            b.iter(|| turn.next().map(|(node, key)| store.get(&*ground.below, node, key)));
        });
    }
    group.finish();
}

/// Makes, changes and removes files, with the lock and without in turns, so that what
/// else the machine does meets both; prints the medians.
fn files(_: &mut Criterion) {
    let dir = must(tempfile::tempdir().map_err(Into::into));
    let ground = must(Ground::new(dir.path()));
    let own = must(own_ids());
    let place = || Ok(Some(Place { dir: File::open(dir.path())?.into(), name: "lock".into() }));
    for (name, store) in &ground.stores {
        let kept = |hold| Kept::new(Arc::clone(&ground.below) as _, Arc::clone(store), own, hold);
        let hold = must(Hold::shared(&place).map_err(Into::into));
        let sides = [kept(Hold::default()), kept(hold)];
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (kept, times) in sides.iter().zip(&mut times) {
                times.push(must(round(&ground, kept)));
            }
        }
        let [without, with] = times.map(|mut times: Vec<Duration>| {
            times.sort();
            times.get(ROUNDS / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6 / f64::from(FILES))
        });
        let ratio = with / without;
        println!(
            "{name}: create, chmod, unlink: {without:.1} µs, with lock {with:.1} µs: {ratio:.3}"
        );
    }
}

/// Makes, changes and removes some files.
fn round(ground: &Ground, kept: &Kept) -> Done<Duration> {
    let told = |error: idmapfs::error::Error| error.to_string();
    let (root, _) = kept.root().map_err(told)?;
    let start = Instant::now();
    for number in 0..FILES {
        let (node, _) = ground.make(kept, &root, "new")?;
        let mode = Some(Mode::new(if number % 2 == 0 { 0o4755 } else { 0o600 }));
        kept.setattr(&node, None, &Change { mode, ..Change::default() }, RIGHTS).map_err(told)?;
        kept.unlink(&root, Name::new(OsStr::new("new")).map_err(told)?).map_err(told)?;
    }
    Ok(start.elapsed())
}

criterion_group!(benches, records, files);
criterion_main!(benches);
