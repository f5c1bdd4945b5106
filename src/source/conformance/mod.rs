//! What every source must do, as checks that any source can be run through.
//!
//! A source's own tests call [`check`] with a function that makes an empty
//! one. Checks that need files of foreign owners are left out where the source
//! cannot make them, and say so.

mod attrs;
mod ids;
mod io;
mod listing;
mod names;
mod rename;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::sync::Arc;

use super::{
    Change, Created, File, Found, Key, New, NewKind, Node, Place, RenameFlags, Rights, SetTime,
    Source,
};
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::{Error, Result};
use crate::id::{Disk, Ids};

/// A caller that may keep set-id bits.
const KEEP: Rights = Rights { keep_setid: true, reserve: false };

/// An ordinary caller.
const PLAIN: Rights = Rights { keep_setid: false, reserve: false };

/// What a check shows, and the check.
type Check = (&'static str, fn(&Ground));

/// Runs all checks, each on an empty source and in a thread of its own: a
/// source may leave its thread with other credentials.
pub(crate) fn check(make: &(dyn Fn() -> Arc<dyn Source> + Sync)) {
    let groups: [&[Check]; 6] =
        [names::CHECKS, rename::CHECKS, listing::CHECKS, attrs::CHECKS, ids::CHECKS, io::CHECKS];
    let failed: Vec<&str> = groups
        .into_iter()
        .flatten()
        .filter(|(name, check)| {
            println!("conformance: {name}");
            let run = || check(&Ground::new(make()));
            std::thread::scope(|scope| scope.spawn(run).join()).is_err()
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A source to check, and what the checks need all the time.
struct Ground {
    source: Arc<dyn Source>,
    root: Node,
    /// The owner of new files.
    owner: Ids<Disk>,
}

impl Ground {
    fn new(source: Arc<dyn Source>) -> Self {
        let (root, found) = source.root().unwrap();
        let own = found.attr.owner;
        let own = Ids { uid: own.uid.unwrap(), gid: own.gid.unwrap() };
        let owner = if source.facts().any_owner { Ids::new(1000, 1001).unwrap() } else { own };
        Self { source, root, owner }
    }

    /// Reports whether foreign owners can be made; says so if not.
    fn any_owner(&self) -> bool {
        let any = self.source.facts().any_owner;
        if !any {
            println!("SKIP: the source makes only files of its own");
        }
        any
    }

    fn new_of<'a>(&self, what: NewKind<'a>, mode: u32) -> New<'a> {
        New {
            what,
            owner: self.owner,
            mode: Mode::new(mode),
            umask: 0,
            reserve: false,
            prepare: None,
        }
    }

    fn create(&self, dir: &Node, name: &str, what: NewKind<'_>, mode: u32) -> Result<Created> {
        self.source.create(dir, n(name), &self.new_of(what, mode))
    }

    /// Makes a file and opens it as a node.
    fn make(&self, dir: &Node, name: &str, what: NewKind<'_>, mode: u32) -> Node {
        self.create(dir, name, what, mode).unwrap();
        self.node(dir, name)
    }

    fn make_file(&self, name: &str, mode: u32) -> Node {
        self.make(&self.root, name, NewKind::Regular(None), mode)
    }

    fn make_dir(&self, dir: &Node, name: &str) -> Node {
        self.make(dir, name, NewKind::Directory, 0o755)
    }

    /// Makes a file and opens it for reading and writing.
    fn open_new(&self, name: &str, flags: i32) -> (Node, Arc<dyn File>) {
        let what = NewKind::Regular(Some(libc::O_RDWR | flags));
        let created = self.create(&self.root, name, what, 0o644).unwrap();
        (self.node(&self.root, name), created.file.unwrap())
    }

    fn node(&self, dir: &Node, name: &str) -> Node {
        let found = self.lookup(dir, name).unwrap();
        self.source.open_by_name(dir, n(name), &found.key).unwrap()
    }

    fn lookup(&self, dir: &Node, name: &str) -> Result<Found> {
        self.source.lookup(dir, n(name))
    }

    fn key(&self, dir: &Node, name: &str) -> Key {
        self.lookup(dir, name).unwrap().key
    }

    fn attr(&self, node: &Node) -> Attr<Disk> {
        self.source.getattr(node).unwrap()
    }

    fn mode(&self, node: &Node) -> u16 {
        self.attr(node).mode.bits()
    }

    fn set(&self, node: &Node, change: Change, rights: Rights) -> Result<Attr<Disk>> {
        self.source.setattr(node, None, &change, rights)
    }

    fn chmod(&self, node: &Node, mode: u32) {
        let change = Change { mode: Some(Mode::new(mode)), ..Change::default() };
        self.set(node, change, KEEP).unwrap();
    }

    fn rename(&self, from: (&Node, &str), to: (&Node, &str), flags: RenameFlags) -> Result<()> {
        let (from, to) = ((from.0, n(from.1)), (to.0, n(to.1)));
        self.source.rename(from, to, flags, Some(self.owner), PLAIN)
    }
}

/// Makes a name.
fn n(name: &str) -> Name<'_> {
    Name::new(OsStr::new(name)).unwrap()
}

/// Returns the error number of a result; 0 if it is no error.
fn errno<T: Debug>(result: Result<T>) -> i32 {
    result.map_or_else(|error| error.errno().0, |_| 0)
}
