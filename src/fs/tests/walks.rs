use std::ops::ControlFlow;
use std::time::Instant;

use super::*;
use crate::source::wrap::Call;

/// A world whose source can be read ahead of who walks.
fn world(policy: &[(&str, &str)]) -> (World, Arc<Wrap>) {
    let options = MemoryOptions { ahead: true, ..MemoryOptions::new(Ids::new(0, 0).unwrap()) };
    let memory = Arc::new(Memory::new(options));
    let wrap = Arc::new(Wrap::new(memory.clone()));
    (World::over(policy, memory, wrap.clone()), wrap)
}

/// Makes directories `a` to `f` with three files each.
fn dirs(world: &World) -> Vec<u64> {
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    let made = ["a", "b", "c", "d", "e", "f"].map(|letter| {
        let dir = world.dir(letter, (0, 0), 0o755);
        let inside = world.disk.lookup(&caller(0, 0), root, name(letter)).unwrap().node;
        for file in ["1", "2", "3"] {
            let file = name(file);
            world.disk.mknod(&caller(0, 0), inside, file, libc::S_IFREG, 0, 0).unwrap();
        }
        dir.node
    });
    made.into()
}

fn list(world: &World, pid: u32, dir: u64) {
    let caller = Caller { pid, ..caller(0, 0) };
    let handle = world.fs.opendir(&caller, dir).unwrap();
    world.fs.readdirplus(&caller, handle, 0, &mut |_, _| ControlFlow::Break(())).unwrap();
    world.fs.releasedir(handle);
}

/// Waits until something was called so often.
fn called(wrap: &Wrap, call: Call, times: usize) {
    let start = Instant::now();
    while wrap.count(call) < times && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(wrap.count(call), times, "{call:?}");
}

/// Whether there is a processor for the helper; says so if not.
fn has_helper() -> bool {
    let has = crate::threads::processors() > 1;
    if !has {
        eprintln!("SKIP: one processor");
    }
    has
}

#[test]
fn the_next_directory_is_looked_at_before_it_is_asked_for() {
    if !has_helper() {
        return;
    }
    let (world, wrap) = world(IDENTITY);
    let dirs = dirs(&world);
    let looked = wrap.count(Call::Lookup);
    list(&world, 1, dirs[0]);
    list(&world, 1, dirs[1]);
    // The directory that they are in, and the third; that and what is in it by name.
    called(&wrap, Call::OpenAhead, 2);
    called(&wrap, Call::Lookup, looked + 4);
    list(&world, 1, dirs[2]);
    called(&wrap, Call::OpenAhead, 3);
    called(&wrap, Call::Lookup, looked + 8);
}

#[test]
fn what_is_no_walk_is_not_followed() {
    if !has_helper() {
        return;
    }
    let (world, wrap) = world(IDENTITY);
    let dirs = dirs(&world);
    for (pid, dir) in [(1, 0), (2, 1), (1, 2), (2, 3)] {
        list(&world, pid, dirs[dir]);
    }
    // Nothing comes after the last one.
    list(&world, 2, dirs[5]);
    called(&wrap, Call::OpenAhead, 1);
    list(&world, 2, dirs[4]);
    list(&world, 2, dirs[5]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(wrap.count(Call::OpenAhead), 1);
}

#[test]
fn nothing_is_asked_of_names_that_may_be_hidden() {
    let (world, wrap) = world(&[("hide", "/c")]);
    let dirs = ["a", "b", "d"].map(|name| world.dir(name, (0, 0), 0o755).node);
    dirs.iter().for_each(|dir| list(&world, 1, *dir));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(wrap.count(Call::OpenAhead), 0);
}
