//! Callers whose ids the kernel tells with new files alone.

use super::*;
use crate::attr::Mode;
use crate::fs::budget::FILE;
use crate::source::RenameFlags;

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };

/// A world whose callers are unknown, and the ids of one.
fn world(options: &[(&str, &str)]) -> (World, Fs) {
    let world = World::new(options);
    let config = Config { unknown_callers: true, ..config() };
    let source: Arc<dyn Source> = world.memory.clone();
    let processes = Arc::clone(&world.processes);
    let fs = Fs::new(source, policy(options), processes, config).unwrap();
    (world, fs)
}

/// A request of a thread, without ids.
fn unknown(pid: u32) -> Caller {
    Caller { uid: None, gid: None, pid }
}

fn root(fs: &Fs) -> u64 {
    fs.root(&unknown(0)).unwrap().node
}

fn errno<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno().0)
}

#[test]
fn unknown_is_not_unmapped() {
    let (world, fs) = world(MAP);
    world.disk_file("f", (5, 6), 0o644);
    let (root, by) = (root(&fs), unknown(7));
    let file = fs.lookup(&by, root, name("f")).unwrap();
    assert_eq!(errno(fs.link(&by, file.node, root, name("g"))), 0);
    assert_eq!(errno(fs.rename(&by, (root, name("g")), (root, name("h")), PLAIN)), 0);
    let owner = SetAttr { uid: Id::new(100_007), ..SetAttr::default() };
    assert_eq!(errno(fs.setattr(&by, file.node, None, &owner)), 0);
    assert_eq!(world.stored("h").0, 7);
    // A new file has to have an owner.
    let made = |by: &Caller, new| fs.mknod(by, root, name(new), libc::S_IFREG | 0o644, 0, 0);
    assert_eq!(errno(made(&by, "n")), libc::EOVERFLOW);
    assert_eq!(errno(made(&caller(100_005, 200_006), "n")), 0);
    assert_eq!(world.stored("n"), (5, 6, 0o644));
}

#[test]
fn what_the_kernel_lets_go_from_a_sticky_directory_is_what_it_knows() {
    let (world, fs) = world(IDENTITY);
    world.dir("s", (3, 3), 0o1777);
    let top = world.disk.root(&caller(0, 0)).unwrap().node;
    let sticky = world.disk.lookup(&caller(0, 0), top, name("s")).unwrap();
    let (by, dir) = (unknown(7), fs.lookup(&unknown(7), root(&fs), name("s")).unwrap().node);
    let make = |uid, what: &str| {
        let made = world.disk.mknod(&caller(uid, uid), sticky.node, name(what), 0, 0, 0);
        world.disk.forget(made.unwrap().node, 1);
    };
    let stale = libc::ESTALE;
    make(1, "mine");
    assert_eq!(errno(fs.unlink(&by, dir, name("mine"))), stale, "nothing was decided");
    fs.lookup(&by, dir, name("mine")).unwrap();
    // Somebody else's is there now.
    world.disk.unlink(&caller(3, 3), sticky.node, name("mine")).unwrap();
    make(2, "mine");
    assert_eq!(errno(fs.unlink(&by, dir, name("mine"))), stale);
    let to = (dir, name("other"));
    assert_eq!(errno(fs.rename(&by, (dir, name("mine")), to, PLAIN)), stale);
    fs.lookup(&by, dir, name("mine")).unwrap();
    assert_eq!(errno(fs.rename(&by, (dir, name("mine")), to, PLAIN)), 0);
    assert_eq!(errno(fs.unlink(&by, dir, name("other"))), 0);
}

/// An id that a map has made 0 is not root.
#[test]
fn nobody_has_the_rights_of_root_by_an_id() {
    let (_world, fs) = world(COLLAPSE);
    let (root, by) = (root(&fs), caller(0, 0));
    let mode = libc::S_IFREG | 0o6755;
    let made = fs.mknod(&by, root, name("n"), mode, 0, 0).unwrap();
    assert_eq!(made.attr.mode.bits(), 0o755);
    assert!(!Fs::rights(&fs.actor(&by), false).reserve);
}

#[test]
fn set_id_bits_stay_for_threads_with_the_capability() {
    let (world, fs) = world(IDENTITY);
    lock(&world.processes.0).acting.insert(7, 5);
    lock(&world.processes.0).capable.insert(5);
    let acl = |fs: &Fs, by: &Caller, node| {
        let acl = crate::acl::Acl::<View>::from_mode(Mode::new(0o775));
        fs.setxattr(by, node, name("system.posix_acl_access"), &acl.to_wire(&config().stand_in), 0)
    };
    for (pid, kind, left) in [(7, "f", 0o2775), (8, "f", 0o775), (8, "d", 0o2775)] {
        let entry = match kind {
            "f" => world.file(&format!("f{pid}"), (1, 2), 0o2755),
            _ => world.dir("d", (1, 2), 0o2755),
        };
        let number = fs.lookup(
            &unknown(pid),
            root(&fs),
            name(&match kind {
                "f" => format!("f{pid}"),
                _ => "d".to_owned(),
            }),
        );
        assert_eq!(errno(acl(&fs, &unknown(pid), number.unwrap().node)), 0);
        let shown = world.fs.getattr(&caller(0, 0), entry.node, None).unwrap();
        assert_eq!(shown.mode.bits(), left, "{pid} {kind}");
    }
    // chown(-1, -1) is for the owner, and who that is is not known.
    world.disk_file("u", (1, 2), 0o4755);
    let file = fs.lookup(&unknown(8), root(&fs), name("u")).unwrap().node;
    let nothing = SetAttr::default();
    assert_eq!(errno(fs.setattr(&unknown(8), file, None, &nothing)), libc::EPERM);
    assert_eq!(errno(fs.setattr(&unknown(7), file, None, &nothing)), 0);
}

#[test]
fn descriptors_are_counted_by_whom_the_thread_acts_as_once_many_are_held() {
    let (world, fs) = world(IDENTITY);
    lock(&world.processes.0).acting.extend([(7, 70), (8, 80)]);
    let take = |pid| fs.budget.file(&fs.payer(&unknown(pid)), FILE);
    let hog: Vec<_> = std::iter::from_fn(|| take(7).ok()).collect();
    let (own, all) = fs.budget.held(&caller(70, 70));
    assert!(own > 0 && own < all, "{own} of {all}");
    assert_eq!(fs.payer(&unknown(8)).uid, Id::new(80));
    assert!(take(8).is_ok(), "others have some left");
    drop(hog);
    assert_eq!(fs.payer(&unknown(8)).uid, None);
}
