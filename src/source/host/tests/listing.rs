//! Listings: offsets, readers side by side, changes meanwhile.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::ops::ControlFlow;

use super::*;
use crate::source::Dir;

/// Lists at most `count` entries from an offset: names, and where each leads.
fn list(dir: &dyn Dir, offset: u64, count: usize) -> Vec<(OsString, u64)> {
    let mut entries = Vec::new();
    dir.read(offset, &mut |entry| {
        if entries.len() == count {
            return ControlFlow::Break(());
        }
        entries.push((entry.name.to_os_string(), entry.next));
        ControlFlow::Continue(())
    })
    .unwrap();
    entries
}

fn filled(fixture: &Fixture, count: usize) {
    for i in 0..count {
        fs::write(fixture.at(&format!("a rather long name, so that buffers end {i}")), "").unwrap();
    }
}

#[test]
fn every_entry_comes_once_however_it_is_read() {
    let fixtures = if is_root() {
        [Some(Fixture::plain()), Some(Fixture::tmpfs()), Fixture::ext4()]
    } else {
        [Some(Fixture::plain()), None, None]
    };
    for fixture in fixtures.iter().flatten() {
        filled(fixture, 1500);
        let host = fixture.host();
        let dir = host.opendir(&root(&host)).unwrap();
        let all = list(&*dir, 0, usize::MAX);
        let names: BTreeSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
        assert!(names.contains(OsStr::new(".")) && names.contains(OsStr::new("..")));
        assert!(names.len() >= 1502 && names.len() == all.len());
        for step in [1, 7, 100, 1000] {
            let (mut offset, mut seen) = (0, Vec::new());
            loop {
                let part = list(&*dir, offset, step);
                let Some((_, next)) = part.last() else { break };
                offset = *next;
                seen.extend(part);
            }
            assert_eq!(seen, all, "in steps of {step}");
        }
        for place in [0, 3, 700, all.len() - 1] {
            assert_eq!(list(&*dir, all[place].1, usize::MAX), all[place + 1..], "from {place}");
        }
    }
}

#[test]
fn readers_side_by_side_do_not_disturb_each_other() {
    let fixture = Fixture::plain();
    filled(&fixture, 1000);
    let host = fixture.host();
    let dir = host.opendir(&root(&host)).unwrap();
    let all = list(&*dir, 0, usize::MAX);
    std::thread::scope(|scope| {
        for step in [3, 50, 400, 999] {
            let (dir, all) = (&dir, &all);
            scope.spawn(move || {
                for _ in 0..5 {
                    let (mut offset, mut seen) = (0, Vec::new());
                    loop {
                        let part = list(&**dir, offset, step);
                        let Some((_, next)) = part.last() else { break };
                        offset = *next;
                        seen.extend(part);
                    }
                    assert_eq!(&seen, all);
                }
            });
        }
    });
}

#[test]
fn a_reader_that_starts_again_sees_changes() {
    let fixture = Fixture::plain();
    let host = fixture.host();
    let dir = host.opendir(&root(&host)).unwrap();
    assert_eq!(list(&*dir, 0, usize::MAX).len(), 2);
    outside(|| fs::write(fixture.at("new"), "")).unwrap();
    assert_eq!(list(&*dir, 0, usize::MAX).len(), 3);
    assert_eq!(list(&*dir, 0, 1).len(), 1);
    outside(|| fs::remove_file(fixture.at("new"))).unwrap();
    assert_eq!(list(&*dir, 0, usize::MAX).len(), 2);
    dir.sync(false).unwrap();
}

#[test]
fn removing_what_is_listed_loses_nothing() {
    let fixture = Fixture::plain();
    filled(&fixture, 2000);
    let host = fixture.host();
    let (top, mut offset) = (root(&host), 0);
    let dir = host.opendir(&top).unwrap();
    loop {
        let part = list(&*dir, offset, 30);
        let Some((_, next)) = part.last() else { break };
        offset = *next;
        for (entry, _) in part.iter().filter(|(name, _)| name != "." && name != "..") {
            host.unlink(&top, name(entry)).unwrap();
        }
    }
    assert_eq!(list(&*dir, 0, usize::MAX).len(), 2);
}
