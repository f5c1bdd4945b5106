//! With a database, which knows nothing of names and of who has a file open.

use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::super::super::db::Db;
use super::*;
use crate::source::conformance;
use crate::source::host::{Host, HostOptions};
use crate::sys::cred::own_ids;

/// A source with a database.
struct Ground {
    dir: TempDir,
    below: Arc<Memory>,
    kept: Kept,
    root: Node,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let below = Arc::new(Memory::new(Options::new(own())));
        let db = Db::open(&dir.path().join("state"), dir.path(), &*below).unwrap();
        let kept =
            Kept::new(Arc::clone(&below) as Arc<dyn Source>, Arc::new(db), own(), Hold::default());
        let root = kept.root().unwrap().0;
        Self { dir, below, kept, root }
    }

    fn make(&self, name: &str, what: NewKind<'_>) {
        self.kept.create(&self.root, n(name), &new(what, (5, 6), 0o640)).unwrap();
    }

    fn file(&self, name: &str) {
        self.make(name, NewKind::Regular(None));
    }

    fn node(&self, name: &str) -> Node {
        self.kept.reach(&self.root, n(name)).unwrap().0
    }

    /// Another server of the same source.
    fn other(&self) -> Kept {
        let below = Arc::clone(&self.below);
        let db = Db::open(&self.dir.path().join("state"), self.dir.path(), &*below).unwrap();
        Kept::new(below, Arc::new(db), own(), Hold::default())
    }
}

#[test]
fn a_source_with_a_database_conforms() {
    let places = std::sync::Mutex::new(Vec::new());
    conformance::check(&|| {
        let Ground { dir, kept, .. } = Ground::new();
        places.lock().unwrap().push(dir);
        Arc::new(kept)
    });
}

#[test]
fn who_has_a_deleted_file_open_has_its_record() {
    for by_other in [false, true] {
        let ground = Ground::new();
        ground.file("file");
        let file = ground.kept.open(&ground.node("file"), libc::O_RDWR).unwrap();
        let remover = if by_other { &ground.other() } else { &ground.kept };
        remover.unlink(&remover.root().unwrap().0, n("file")).unwrap();
        assert_eq!(file.getattr().unwrap().owner, Ids::new(5, 6).unwrap().into());
    }
}

#[test]
fn a_link_with_a_record_takes_attributes() {
    let ground = Ground::new();
    ground.make("link", NewKind::Symlink(OsStr::new("to")));
    let node = ground.node("link");
    set(&ground.kept, &node, "security.x", b"1").unwrap();
    assert_eq!(ground.kept.xattr(&node, OsStr::new("security.x")).unwrap(), b"1");
    assert_eq!(
        ground.below.lookup(&ground.below.root().unwrap().0, n("link")).unwrap().attr.kind,
        FileKind::Symlink
    );
}

#[test]
fn the_way_to_a_database_in_the_source_stays() {
    let source = tempfile::tempdir().unwrap();
    let host = Host::open(source.path(), &HostOptions::default()).unwrap();
    let below: Arc<dyn Source> = Arc::new(host);
    let db = Db::open(&source.path().join("a/b/owners"), source.path(), &*below).unwrap();
    let kept = Kept::new(below, Arc::new(db), own_ids().unwrap(), Hold::default());
    let (root, _) = kept.root().unwrap();
    std::fs::create_dir(source.path().join("other")).unwrap();
    let rename = |from: (&Node, &str), to: (&Node, &str), exchange| {
        let flags = RenameFlags { exchange, ..RenameFlags::default() };
        kept.rename((from.0, n(from.1)), (to.0, n(to.1)), flags, None, PLAIN)
    };
    let (a, _) = kept.reach(&root, n("a")).unwrap();
    let busy = |done: crate::error::Result<()>| done.unwrap_err().is(libc::EBUSY);
    assert!(busy(rename((&root, "a"), (&root, "c"), false)));
    assert!(busy(rename((&a, "b"), (&root, "c"), false)));
    assert!(busy(rename((&root, "other"), (&root, "a"), true)));
    let (b, _) = kept.reach(&a, n("b")).unwrap();
    assert!(kept.lookup(&b, n("owners")).unwrap_err().is(libc::ENOENT));
    rename((&root, "other"), (&root, "c"), false).unwrap();
}

#[test]
fn a_database_in_the_source_is_found_by_no_number() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let host = Host::open(source.path(), &HostOptions::default()).unwrap();
    let below: Arc<dyn Source> = Arc::new(host);
    let state = source.path().join("owners");
    let db = Db::open(&state, source.path(), &*below).unwrap();
    std::fs::write(source.path().join("file"), "").unwrap();
    let number = |path: &std::path::Path| path.metadata().unwrap().ino();
    let files: Vec<_> =
        std::fs::read_dir(&state).unwrap().map(|file| file.unwrap().path()).collect();
    let open: Vec<_> = files.iter().map(|file| std::fs::File::open(file).unwrap()).collect();
    let kept = Kept::new(Arc::clone(&below), Arc::new(db), own(), Hold::default());
    let shown = source.path().join("file");
    if below.by_number(0, number(&shown)).is_err() {
        eprintln!("SKIP: no file system here whose files are found by number");
        return;
    }
    assert!(!open.is_empty());
    kept.by_number(0, number(&shown)).unwrap();
    for file in files.iter().chain([&state]) {
        assert!(below.by_number(0, number(file)).is_ok(), "{}", file.display());
        let found = kept.by_number(0, number(file));
        assert_eq!(found.unwrap_err(), Error::Stale, "{}", file.display());
    }
}
