//! Many callers at once: nothing is lost, and nothing is left open.

use std::ops::ControlFlow::Continue;
use std::thread;

use super::*;
use crate::source::{LockKind, RenameFlags};

/// Numbers that look random, the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Does something with one of a few names, as the kernel would: every lookup
/// is taken back, every handle released.
fn act(world: &World, dice: &mut Dice, by: &Caller) -> Result<()> {
    let (fs, root) = (&world.fs, world.root());
    let (a, b) = (format!("f{}", dice.roll(4)), format!("f{}", dice.roll(4)));
    let (a, b) = (name(&a), name(&b));
    match dice.roll(9) {
        0 => {
            let (made, handle) = fs.create(by, root, a, 0o644, 0, libc::O_RDWR)?;
            fs.write(by, handle, Place::At(0), b"data", true)?;
            fs.release(handle, None);
            fs.forget(made.node, 1);
        }
        1 => fs.mkdir(by, root, a, 0o755, 0).map(|made| fs.forget(made.node, 1))?,
        2 => fs.unlink(by, root, a)?,
        3 => fs.rmdir(by, root, a)?,
        4 => {
            let exchange = dice.roll(3) == 0;
            let flags = RenameFlags { exchange, ..RenameFlags::default() };
            fs.rename(by, (root, a), (root, b), flags)?;
        }
        5 => {
            let found = fs.lookup(&caller(0, 0), root, a)?;
            let linked = fs.link(by, found.node, root, b);
            fs.forget(found.node, 1);
            fs.forget(linked?.node, 1);
        }
        6 => {
            let found = fs.lookup(&caller(0, 0), root, a)?;
            let opened = open(fs, found.node, libc::O_RDWR);
            if let Ok(handle) = opened {
                lock_and_read(world, found.node, handle, dice.roll(100))?;
                fs.release(handle, None);
            }
            fs.forget(found.node, 1);
            opened?;
        }
        7 => {
            let found = fs.lookup(&caller(0, 0), root, a)?;
            let attr = fs.getattr(&caller(0, 0), found.node, None);
            fs.forget(found.node, 1);
            assert_eq!(attr?.ino, found.node);
        }
        _ => {
            let handle = fs.opendir(by, root)?;
            fs.readdirplus(&caller(0, 0), handle, 0, &mut |line, entry| {
                if line.name != "." && line.name != ".." {
                    fs.forget(entry.node, 1);
                }
                Continue(())
            })?;
            fs.releasedir(handle);
        }
    }
    Ok(())
}

/// Uses an open file that others may be removing.
fn lock_and_read(world: &World, node: u64, handle: u64, owner: u64) -> Result<()> {
    let lock = Lock { kind: LockKind::Exclusive, start: 0, end: 0, pid: 0 };
    let request = LockRequest { caller: caller(1, 1), handle, owner, lock };
    let (done, result) = reply();
    world.fs.setlk(request, true, done);
    result.recv_timeout(Duration::from_secs(20)).unwrap()?;
    let attr = world.fs.getattr(&caller(0, 0), node, Some(handle))?;
    assert_eq!(attr.ino, node);
    world.fs.read(handle, 0, &mut [0; 8])?;
    world.fs.flush(handle, owner)
}

#[test]
fn nothing_is_left_open_or_remembered() {
    for handles in [true, false] {
        let world = World::with(IDENTITY, |source| source.handles = handles);
        let open_before = world.memory.opened();
        thread::scope(|scope| {
            for seed in 1..=4 {
                let world = &world;
                scope.spawn(move || {
                    let mut dice = Dice(seed * 0x1234_5678_9abc_def1);
                    for _ in 0..1500 {
                        if let Err(error) = act(world, &mut dice, &caller(1, 1)) {
                            // Others are at the same names all the time.
                            assert!(
                                [libc::ENOENT, libc::EEXIST, libc::ENOTDIR, libc::EISDIR]
                                    .into_iter()
                                    .chain([libc::ENOTEMPTY, libc::ESTALE, libc::EPERM])
                                    .any(|errno| error.is(errno)),
                                "{error}"
                            );
                        }
                    }
                });
            }
        });
        assert_eq!(world.fs.tree.counts(), (1, 1), "{handles}");
        assert_eq!(world.memory.opened(), open_before, "{handles}");
        assert!(world.fs.opens.is_empty());
    }
}
