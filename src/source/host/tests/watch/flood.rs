//! Very much at once.

use std::fs;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn what_does_not_fit_into_the_queue_is_said_to_be_lost() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let ear = Ear::new(fixture.path());
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 200_000 {
        return eprintln!("SKIP: needs a queue that can be filled");
    }
    outside(|| {
        for number in 0..=limit {
            fs::write(fixture.at(&number.to_string()), "").unwrap();
        }
    });
    let heard = ear.heard();
    let lost = Happened { what: What::Lost, own: false };
    assert_eq!(heard.iter().filter(|happened| **happened == lost).count(), 1);
    let a = ear.key("1");
    assert_eq!(ear.shell("chmod 600 1"), [What::Attributes(a)]);
}

#[test]
fn a_storm_of_renames_is_heard_to_the_end() {
    if !is_root() {
        return;
    }
    const ROUNDS: usize = 5000;
    let fixture = Fixture::tmpfs();
    fs::create_dir(fixture.at("d")).unwrap();
    fs::write(fixture.at("0"), "").unwrap();
    let ear = Ear::new(fixture.path());
    let (top, d, file) = (ear.root(), ear.key("d"), ear.key("0"));
    outside(|| {
        for number in (0..ROUNDS).step_by(2) {
            let (here, there, next) = (number, number + 1, number + 2);
            let there = fixture.at(&format!("d/{there}"));
            fs::rename(fixture.at(&here.to_string()), &there).unwrap();
            fs::rename(&there, fixture.at(&next.to_string())).unwrap();
        }
    });
    let dir = |number: usize| if number.is_multiple_of(2) { &top } else { &d };
    let expected = (0..ROUNDS)
        .flat_map(|number| [number, number + 1].map(|at| named(dir(at), &at.to_string(), &file)));
    let heard = ear.heard().into_iter().map(|happened| happened.what);
    assert!(heard.eq(expected));
}

#[test]
fn what_does_not_matter_is_let_gather() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    fs::write(fixture.at("a"), "").unwrap();
    let ear = Ear::new(fixture.path());
    fs::write(fixture.at("a"), "x").unwrap();
    let start = Instant::now();
    ear.watch.wait(&mut |_| false).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(1));
}

/// The one who is told looks, and so meets what was not known yet.
#[test]
fn whoever_is_told_may_ask() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    fs::create_dir(fixture.at("m")).unwrap();
    tmpfs_at(&fixture.at("m"));
    let ear = Ear::new(fixture.path());
    outside(|| fs::write(fixture.at("f"), "").unwrap());
    let mut volumes = Vec::new();
    let look = &mut |_: &Happened| {
        let volume = ear.key("m").volume;
        volumes.push((volume, ear.watch.covers(volume)));
        true
    };
    ear.watch.wait(look).unwrap();
    let covers = volumes.first().unwrap().1;
    assert_eq!(covers, Covers::Everything);
}

#[test]
fn whoever_waits_can_be_called() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::tmpfs();
    let ear = Ear::new(fixture.path());
    let watch = Arc::clone(&ear.watch);
    let waiting = std::thread::spawn(move || watch.wait(&mut |_| panic!("nothing happens")));
    std::thread::sleep(Duration::from_millis(20));
    ear.watch.wake();
    waiting.join().unwrap().unwrap();
    assert_eq!(ear.heard(), []);
}
