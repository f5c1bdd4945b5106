//! What the inode table costs: nanoseconds an operation by threads, and bytes
//! an inode. The source is a few maps, so a miss is the table's part and
//! little more.

use std::ffi::OsStr;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use idmapfs::attr::Name;
use idmapfs::count;
use idmapfs::policy::State;
use idmapfs::source::{Found, Source};
use idmapfs::tree::{Handles, Tree};
// The source of the tests names these as parts of its own crate.
use idmapfs::{acl, attr, error, id, source};

#[expect(dead_code, reason = "the tests of the tree use more of it")]
#[path = "../src/tree/tests/fake.rs"]
mod fake;

use fake::{Fake, key};

/// Files of one directory, as many as a busy mount has in use.
const FILES: u64 = 10_000;
/// Inodes to measure memory with.
const MANY: u64 = 1_000_000;

struct Setup {
    fake: Arc<Fake>,
    tree: Tree,
    files: Vec<(String, Found)>,
}

/// Makes a tree of `FILES` known files that holds `capacity` nodes open.
fn setup(handles: bool, capacity: usize) -> Setup {
    let root = key(2, 0);
    let fake = Fake::new(root.clone(), handles);
    let tree = Tree::new(Arc::clone(&fake) as Arc<dyn Source>, capacity).ok();
    let Some(tree) = tree else { std::process::abort() };
    let add = |ino: u64| {
        let (name, file) = (format!("file-{ino}"), key(ino, 1));
        fake.add(&root, &name, &file);
        (name, fake.found(&file))
    };
    let files: Vec<(String, Found)> = (100..).take(count(FILES)).map(add).collect();
    for (name, found) in &files {
        remember(&tree, name, found);
    }
    Setup { fake, tree, files }
}

fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn remember(tree: &Tree, name: &str, found: &Found) -> u64 {
    Name::new(OsStr::new(name))
        .map_or(0, |name| tree.remember(2, name, found, &State::default()).number)
}

/// Runs `each` in every thread over all numbers below `iterations`, each
/// thread from a place of its own; returns the time from the common start.
fn race(threads: u64, iterations: u64, each: impl Fn(u64) + Sync) -> Duration {
    let start = Barrier::new(count(threads.saturating_add(1)));
    let began = thread::scope(|scope| {
        for index in 0..threads {
            let (start, each) = (&start, &each);
            scope.spawn(move || {
                start.wait();
                for n in 0..iterations {
                    each(n.wrapping_add(index.wrapping_mul(7919)));
                }
            });
        }
        start.wait();
        Instant::now()
    });
    began.elapsed()
}

fn bench(criterion: &mut Criterion, name: &str, threads: &[u64], each: impl Fn(u64) + Sync + Copy) {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for threads in threads {
        group.throughput(Throughput::Elements(*threads));
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            bencher.iter_custom(|iterations| race(*threads, iterations, each));
        });
    }
    group.finish();
}

fn lookups(criterion: &mut Criterion) {
    let known = setup(true, 64);
    bench(criterion, "remember and forget, known", &[1, 2, 4], |n| {
        if let Some((name, found)) = known.files.get(count(n % FILES)) {
            known.tree.forget(remember(&known.tree, name, found), 1);
        }
    });
    bench(criterion, "lookup, known", &[1, 2, 4], |n| {
        if let Some((name, found)) = known.files.get(count(n % FILES)) {
            remember(&known.tree, name, found);
        }
    });
    forgets(criterion, &known);
    let empty = setup(true, 64);
    for (_, found) in &empty.files {
        empty.tree.forget(found.key.ino, 1);
    }
    bench(criterion, "remember and forget, new", &[1, 2, 4], |n| {
        if let Some((name, found)) = empty.files.get(count(n % FILES)) {
            empty.tree.forget(remember(&empty.tree, name, found), 1);
        }
    });
    bench(criterion, "number", &[1], |n| {
        black_box(known.tree.number(&key(n, 1)));
    });
}

/// Takes lookups back that were counted before the clock started.
fn forgets(criterion: &mut Criterion, known: &Setup) {
    let mut group = criterion.benchmark_group("forget, known");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let file = |n: u64| known.files.get(count(n % FILES));
    for threads in [1, 2, 4_u64] {
        group.throughput(Throughput::Elements(threads));
        group.bench_function(BenchmarkId::new("threads", threads), |bencher| {
            bencher.iter_custom(|iterations| {
                race(threads, iterations, |n| {
                    file(n).map(|(name, found)| remember(&known.tree, name, found));
                });
                race(threads, iterations, |n| {
                    if let Some((_, found)) = file(n) {
                        known.tree.forget(found.key.ino, 1);
                    }
                })
            });
        });
    }
    group.finish();
}

/// A node that is open, and one that is not: each of those closes another one,
/// the least recently used.
fn nodes(criterion: &mut Criterion) {
    let hit = setup(true, count(FILES).saturating_mul(2));
    bench(criterion, "node, open", &[1, 2, 4], |n| {
        drop(black_box(hit.tree.node(100_u64.wrapping_add(n % FILES))));
    });
    for (name, handles) in [("node, by handle", true), ("node, by name", false)] {
        // Too few by far for any node to be still open when it is its turn.
        let miss = setup(handles, 64);
        bench(criterion, name, &[1, 2, 4], |n| {
            drop(black_box(miss.tree.node(100_u64.wrapping_add(n % FILES))));
        });
        drop(miss.fake);
    }
}

fn handles(criterion: &mut Criterion) {
    let handles = Handles::new();
    let file = Arc::new(0_u64);
    let some: Vec<u64> = (0..1000).map(|_| handles.insert(Arc::clone(&file))).collect();
    bench(criterion, "handle, get", &[1, 2, 4], |n| {
        if let Some(handle) = some.get(count(n % 1000)) {
            drop(black_box(handles.get(*handle)));
        }
    });
    bench(criterion, "handle, insert and remove", &[1, 2, 4], |_| {
        drop(handles.remove(handles.insert(Arc::new(0))));
    });
}

/// Prints the memory of a million inodes, without handles and with handles of
/// 24 bytes.
fn memory(_: &mut Criterion) {
    // Kept until both are measured: memory that is free again would not count.
    let mut trees = Vec::new();
    for handles in [false, true] {
        let fake = Fake::new(key(2, 0), handles);
        let Ok(tree) = Tree::new(Arc::clone(&fake) as Arc<dyn Source>, 64) else {
            return;
        };
        let before = resident();
        for ino in 100..MANY.saturating_add(100) {
            remember(&tree, &format!("file-{ino}"), &fake.found(&key(ino, 1)));
        }
        let each = resident().saturating_sub(before).checked_div(MANY).unwrap_or(0);
        println!("{MANY} inodes, handles {handles}: {each} bytes each");
        trees.push(tree);
    }
}

/// Returns the memory in use by this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(4096)
}

/// What a request pays for being counted.
fn counts(criterion: &mut Criterion) {
    bench(criterion, "count", &[1, 2, 4], |_| count::request(black_box(count::Kind::Lookup)));
}

criterion_group!(benches, memory, lookups, nodes, handles, counts);
criterion_main!(benches);
