//! The database alone, over the memory source and over directories of the host.

mod damaged;
mod killed;
mod model;
mod moved;
mod several;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::id::{Disk, Ids};
use crate::source::memory::{Memory, Options};

/// An empty source and a place for databases.
struct Ground {
    dir: TempDir,
    memory: Memory,
    node: Node,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(Options::new(Ids::new(0, 0).unwrap()));
        let (node, _) = memory.root().unwrap();
        Self { dir, memory, node }
    }

    fn databases(&self) -> PathBuf {
        self.dir.path().join("state/owners")
    }

    fn open(&self) -> Db {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> std::result::Result<Db, DbError> {
        Db::open(&self.databases(), self.dir.path(), &self.memory)
    }

    fn get(&self, db: &Db, key: &Key) -> Option<Record> {
        db.get(&self.memory, &self.node, key).unwrap()
    }

    fn put(&self, db: &Db, key: &Key, record: &Record) {
        db.put(&self.memory, &self.node, key, record).unwrap();
    }

    fn set(&self, db: &Db, key: &Key, name: &str, value: Option<&[u8]>) -> Result<()> {
        db.set_attribute(&self.memory, &self.node, key, OsStr::new(name), value)
    }

    fn names(&self, db: &Db, key: &Key) -> BTreeSet<OsString> {
        db.attributes(&self.memory, &self.node, key).unwrap().into_iter().collect()
    }
}

fn owner(id: u32) -> Ids<Disk> {
    Ids::new(id, id + 1).unwrap()
}

fn plain_record(id: u32) -> Record {
    Record { owner: owner(id), mode: Mode::new(0o640), kind: None }
}

fn key(ino: u64, generation: u64) -> Key {
    Key { volume: 0, ino, generation }
}

#[test]
fn what_was_put_comes_back() {
    let ground = Ground::new();
    let db = ground.open();
    let most = u32::MAX - 1;
    let records = [
        plain_record(0),
        Record { owner: Ids::new(most, most).unwrap(), mode: Mode::new(0o7777), kind: None },
        Record { kind: Some((FileKind::CharDevice, u64::MAX)), ..plain_record(7) },
        Record { kind: Some((FileKind::Fifo, 0)), ..plain_record(8) },
    ];
    for (number, record) in (u64::MAX - 9..).zip(&records) {
        let key = Key { volume: u64::MAX, ino: number, generation: 1 << 63 };
        assert_eq!(ground.get(&db, &key), None);
        ground.put(&db, &key, record);
        assert_eq!(ground.get(&db, &key), Some(*record));
    }
    assert_eq!(db.count().unwrap(), 4);
    drop(db);
    let db = ground.open();
    assert_eq!(db.count().unwrap(), 4);
    assert_eq!(db.clear().unwrap(), 4);
    assert_eq!(db.count().unwrap(), 0);
    // Nothing is left beside the database when the last one has gone.
    let file = db.file().to_owned();
    drop(db);
    let left = std::fs::read_dir(ground.databases()).unwrap();
    let left: Vec<PathBuf> = left.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [file]);
}

#[test]
fn a_number_that_is_reused_shows_nothing_of_the_earlier_file() {
    let ground = Ground::new();
    let db = ground.open();
    ground.put(&db, &key(5, 1), &plain_record(1));
    ground.set(&db, &key(5, 1), "security.a", Some(b"1")).unwrap();
    assert_eq!(ground.get(&db, &key(5, 2)), None);
    assert!(ground.names(&db, &key(5, 2)).is_empty());
    let none = db.attribute(&ground.memory, &ground.node, &key(5, 2), OsStr::new("security.a"));
    assert!(none.unwrap_err().is(libc::ENODATA));
    // What the later file gets takes the place of all that.
    ground.set(&db, &key(5, 2), "security.b", Some(b"2")).unwrap();
    assert_eq!(ground.get(&db, &key(5, 2)), None);
    assert_eq!(ground.get(&db, &key(5, 1)), None);
    assert!(ground.names(&db, &key(5, 1)).is_empty());
    ground.put(&db, &key(5, 3), &plain_record(3));
    assert!(ground.names(&db, &key(5, 3)).is_empty());
    // The number on another volume is another file.
    assert_eq!(ground.get(&db, &Key { volume: 1, ..key(5, 3) }), None);
    assert_eq!(db.count().unwrap(), 1);
}

#[test]
fn attributes_have_the_bounds_of_the_kernel() {
    let ground = Ground::new();
    let db = ground.open();
    let big = vec![7; MOST];
    ground.set(&db, &key(1, 1), "trusted.big", Some(&big)).unwrap();
    let name = OsStr::new("trusted.big");
    let value = db.attribute(&ground.memory, &ground.node, &key(1, 1), name);
    assert_eq!(value.unwrap(), big);
    let more = vec![7; MOST + 1];
    assert!(ground.set(&db, &key(1, 1), "trusted.big", Some(&more)).unwrap_err().is(libc::E2BIG));
    let refused = (0..400).find_map(|number| {
        let name = format!("trusted.{number:0240}");
        ground.set(&db, &key(2, 1), &name, Some(b"")).err()
    });
    assert!(refused.unwrap().is(libc::ENOSPC));
    let length: usize = ground.names(&db, &key(2, 1)).iter().map(|name| name.len() + 1).sum();
    assert!((MOST - 300..=MOST).contains(&length), "{length}");
}

#[test]
fn records_of_other_programs_are_no_attributes() {
    let db = Ground::new().open();
    for name in ["user.containers.override_stat", "user.idmapfs.x", "user.virtfs.uid"] {
        assert!(db.is_own(OsStr::new(name)), "{name}");
    }
    for name in ["user.overlay.opaque", "user.containers", "security.capability", "user.x"] {
        assert!(!db.is_own(OsStr::new(name)), "{name}");
    }
    assert!(db.takes(FileKind::Symlink) && db.takes(FileKind::Fifo) && db.takes(FileKind::Socket));
    assert!(!db.takes(FileKind::CharDevice) && !db.takes(FileKind::BlockDevice));
}

#[test]
fn what_may_be_another_file_tomorrow_has_no_record() {
    let ground = Ground::new();
    let db = ground.open();
    let vague = key(5, 0);
    let put = db.put(&ground.memory, &ground.node, &vague, &plain_record(1));
    assert_eq!(put.unwrap_err(), Error::Unsupported);
    assert_eq!(ground.set(&db, &vague, "security.a", Some(b"1")).unwrap_err(), Error::Unsupported);
    assert!(ground.set(&db, &vague, "security.a", None).unwrap_err().is(libc::ENODATA));
    assert_eq!(ground.get(&db, &vague), None);
    assert!(ground.names(&db, &vague).is_empty());
    assert_eq!(db.count().unwrap(), 0);
}

#[test]
fn several_writes_are_one() {
    let ground = Ground::new();
    let db = ground.open();
    let file = key(5, 1);
    let name = OsStr::new("security.a");
    let write = |value: Vec<u8>| {
        let all = [Write::Record(plain_record(7)), Write::Attribute(name, Some(value))];
        db.write(&ground.memory, &ground.node, &file, &all)
    };
    assert!(write(vec![0; MOST + 1]).unwrap_err().is(libc::E2BIG));
    assert_eq!(ground.get(&db, &file), None);
    write(vec![1]).unwrap();
    assert_eq!(ground.get(&db, &file), Some(plain_record(7)));
    let gone = [Write::Attribute(name, None), Write::Attribute(name, None)];
    db.write(&ground.memory, &ground.node, &file, &gone).unwrap();
    assert!(ground.names(&db, &file).is_empty());
}

#[test]
fn a_record_without_sense_is_an_error() {
    let ground = Ground::new();
    let db = ground.open();
    for (number, change) in
        (1..).zip(["mode = 65536", "uid = 4294967295", "gid = -1", "kind = 7", "kind = 32769"])
    {
        ground.put(&db, &key(number, 1), &plain_record(1));
        let change = format!("UPDATE file SET {change} WHERE ino = {number}");
        db.change(|writing| Ok(writing.execute(&change, [])?)).unwrap();
        let got = db.get(&ground.memory, &ground.node, &key(number, 1));
        assert!(got.unwrap_err().is(libc::EIO), "{change}");
    }
}
