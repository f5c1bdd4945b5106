//! The price of a decision: nanoseconds for each present and store, by the
//! number of extents and entries.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a benchmark fails by panicking"
)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Disk, Id, Ids, User, View};
use idmapfs::policy::glob::PathGlob;
use idmapfs::policy::rules::{Rule, Rules, Subject};
use idmapfs::policy::{NoNames, Origin, Policy, Server, Written, file};

/// Ids between the starts of two neighbouring ranges.
const STEP: u32 = 16;

/// How many ids are asked for in turn, so that no answer can be predicted.
const ASKED: usize = 1024;

fn policy(ids: &str) -> Box<dyn Policy> {
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let spec = file::parse("bench", &format!("version = 1\n[ids]\n{ids}\n"), &NoNames).unwrap();
    Box::new(spec.build(&server).unwrap())
}

fn list(key: &str, count: u32, rule: impl Fn(u32) -> String) -> String {
    let rules: Vec<String> = (0..count).map(rule).collect();
    format!("{key} = {rules:?}")
}

/// Numbers below `end` in an order that looks random, the same every time.
fn scattered(end: u32) -> Vec<u32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from((state >> 33) % u64::from(end)).unwrap()
    };
    (0..ASKED).map(|_| next()).collect()
}

fn decide(c: &mut Criterion, name: &str, size: u32, policy: &dyn Policy) {
    let ids = scattered(size * STEP);
    let disk: Vec<Id<User, Disk>> = ids.iter().map(|id| Id::new(*id).unwrap()).collect();
    let view: Vec<Id<User, View>> = ids.iter().map(|id| Id::new(*id).unwrap()).collect();
    let mut group = c.benchmark_group(name);
    group.bench_function(BenchmarkId::new("present", size), |b| {
        let mut asked = disk.iter().cycle();
        b.iter(|| policy.present(black_box(asked.next().copied())));
    });
    group.bench_function(BenchmarkId::new("store", size), |b| {
        let mut asked = view.iter().cycle();
        b.iter(|| asked.next().and_then(|id| policy.store(black_box(*id))));
    });
    group.finish();
}

fn decisions(c: &mut Criterion) {
    decide(c, "identity", 1, &*policy(""));
    decide(c, "collapse", 1, &*policy("collapse = { present-as = 5 }"));
    for count in [1, 4, 8, 64, 4096] {
        // Every range is its neighbour's mirror image, so no two can merge.
        let extent = |i| format!("{}:{}:{STEP}", i * STEP, (count - 1 - i) * STEP);
        decide(c, "map", count, &*policy(&list("map", count, extent)));
    }
    let entries = 10_000;
    let entry = |i| format!("{}:{}", i * STEP, (entries - 1 - i) * STEP);
    decide(c, "table", entries, &*policy(&list("table", entries, entry)));
    let users = |id: fn(u32) -> u32| {
        let users: Vec<String> = (0..entries).map(|i| format!("u{i} = {}", id(i))).collect();
        format!("{{ users = {{ {} }} }}", users.join(", "))
    };
    let (disk, view) = (users(|i| i * STEP), users(|i| (10_000 - i) * STEP));
    let names = format!("names = {{ disk = {disk}, view = {view} }}");
    decide(c, "names", entries, &*policy(&names));
    // What is left of a map, cut around every name.
    let rest = format!("{names}\nmap = ['u:0:0:4294967295']");
    decide(c, "names and map", entries, &*policy(&rest));
    let both = (0..entries).map(|i| format!("u{i} = {}, xu{i} = {}", i * STEP, i * STEP + 1));
    let both: Vec<String> = both.collect();
    let prefix = format!("prefix = 'x', names = {{ users = {{ {} }} }}", both.join(", "));
    decide(c, "prefix", entries, &*policy(&format!("prefix = {{ {prefix} }}")));
}

fn parsing(c: &mut Criterion) {
    let map = list("map", 4096, |i| format!("{}:{}:{STEP}", i * STEP, i * STEP));
    let text = format!("version = 1\n[ids]\n{map}\n");
    c.bench_function("parse/4096 extents", |b| {
        b.iter(|| file::parse("bench", black_box(&text), &NoNames).unwrap());
    });
    let rule = |i: u32| {
        format!("[[rules]]\npath = '**/{}'\nowner = {i}\npresent-mode = 'go-w'\n", pattern(i))
    };
    let text: String = (0..10_000).map(rule).collect();
    let text = format!("version = 1\n{text}");
    c.bench_function("parse/10000 rules", |b| {
        b.iter(|| file::parse("bench", black_box(&text), &NoNames).unwrap());
    });
}

/// The pattern of a rule, of every sort in turn.
fn pattern(i: u32) -> String {
    match i % 4 {
        0 => format!("file{i}"),
        1 => format!("*.e{i}"),
        2 => format!("pre{i}-*"),
        _ => format!("*x{i}[a-f]*"),
    }
}

/// Half of the names match a rule, of every sort in turn.
fn names(rules: u32) -> Vec<String> {
    let name = |i: u32| match i % 8 {
        0 => format!("file{i}"),
        1 => format!("report-2026.e{i}"),
        2 => format!("pre{i}-final.txt"),
        3 => format!("my-x{i}b-copy"),
        4 => format!("photo_{i}.jpg"),
        5 => format!("lib{i}.so.1"),
        6 => format!("pre{i}"),
        _ => format!("a rather long name of a document, {i}.odt"),
    };
    scattered(rules).into_iter().map(name).collect()
}

/// Rules without a path: a thousand that look at the file alone, of which one
/// at most matches.
fn by_owner(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules by file");
    type Condition = (&'static str, fn(u32) -> String);
    let conditions: [Condition; 5] = [
        ("owner", |i| format!("owner = {}", i * STEP)),
        ("owner range", |i| format!("owner = '{}-{}'", i * STEP, i * STEP + 3)),
        ("group", |i| format!("group = {}", i * STEP)),
        ("mode", |i| format!("mode = '-{:04o}'", i % 4095 + 1)),
        ("owner and mode", |i| format!("owner = {}\nmode = '/0111'", i * STEP)),
    ];
    for (name, condition) in conditions {
        let rule = |i| format!("[[rules]]\n{}\npresent-owner = 'u:{i}'\n", condition(i));
        let text: String = (0..1000).map(rule).collect();
        let spec = file::parse("bench", &format!("version = 1\n{text}"), &NoNames).unwrap();
        let rules = Rules::new(spec.rules());
        let state = rules.step(&rules.root(), b"name", false);
        let subject = |id| Subject {
            kind: FileKind::Regular,
            owner: Ids::new(id, id).unwrap().into(),
            mode: Mode::new(0o644),
        };
        let subjects: Vec<Subject> = scattered(1000 * STEP).into_iter().map(subject).collect();
        group.bench_function(BenchmarkId::new(name, 1000), |b| {
            let mut asked = subjects.iter().cycle();
            b.iter(|| asked.next().map(|subject| rules.verdict(&state, black_box(subject)).owner));
        });
    }
    group.finish();
}

/// A name's way through the rules: one step, and what is said of a file.
fn rules(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    let subject = Subject {
        kind: FileKind::Regular,
        owner: Ids::new(1000, 1000).unwrap().into(),
        mode: Mode::new(0o644),
    };
    for (name, place, dir) in [
        ("in the root", "", ""),
        ("everywhere", "**/", "a/b"),
        ("below a directory", "srv/**/", "srv/a/b"),
        ("elsewhere", "srv/**/", "home/a"),
    ] {
        for count in [1, 10, 1000] {
            let rule = |i| {
                let path = format!("{place}{}", pattern(i));
                let path = PathGlob::parse(&Origin::Whole, &path).unwrap();
                Written { value: Rule::hiding(path, &Origin::Whole), at: Origin::Whole }
            };
            let rules = Rules::new(&(0..count).map(rule).collect::<Vec<_>>());
            let names = names(count);
            let up = dir.split('/').filter(|name| !name.is_empty());
            let dir = up.fold(rules.root(), |dir, name| rules.step(&dir, name.as_bytes(), true));
            for (kind, directory) in [("file", false), ("directory", true)] {
                let id = BenchmarkId::new(format!("{name}/{kind}"), count);
                group.bench_function(id, |b| {
                    let mut asked = names.iter().cycle();
                    b.iter(|| {
                        let name = asked.next().map(String::as_bytes).unwrap_or_default();
                        let state = rules.step(&dir, black_box(name), directory);
                        rules.verdict(&state, &subject).hide
                    });
                });
            }
        }
    }
    group.bench_function("compile/1000", |b| {
        let rule = |i| {
            let path = PathGlob::parse(&Origin::Whole, &format!("**/{}", pattern(i))).unwrap();
            Written { value: Rule::hiding(path, &Origin::Whole), at: Origin::Whole }
        };
        let list: Vec<_> = (0..1000).map(rule).collect();
        b.iter(|| {
            let rules = Rules::new(black_box(&list));
            rules.step(&rules.root(), b"name", false)
        });
    });
    group.finish();
}

criterion_group!(benches, decisions, parsing, rules, by_owner);
criterion_main!(benches);
