//! The database does what a map in memory does, whoever opens it in between.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put(Key, Record),
    Set(Key, u8, Vec<u8>),
    Remove(Key, u8),
    Reopen,
    Other,
}

fn any_key() -> impl Strategy<Value = Key> {
    (0..2_u64, 0..3_u64, 1..4_u64).prop_map(|(volume, ino, generation)| Key {
        volume,
        ino,
        generation,
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![
        Just(None),
        any::<u64>().prop_map(|rdev| Some((FileKind::BlockDevice, rdev))),
        Just(Some((FileKind::Symlink, 0))),
    ];
    (0..u32::MAX - 2, 0..0o10000_u32, kind).prop_map(|(id, mode, kind)| Record {
        owner: owner(id),
        mode: Mode::new(mode),
        kind,
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    let value = proptest::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        4 => (any_key(), any_record()).prop_map(|(key, record)| Op::Put(key, record)),
        4 => (any_key(), 0..3_u8, value).prop_map(|(key, name, value)| Op::Set(key, name, value)),
        2 => (any_key(), 0..3_u8).prop_map(|(key, name)| Op::Remove(key, name)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Other),
    ]
}

/// What is known of one file.
#[derive(Debug, Default)]
struct File {
    generation: u64,
    record: Option<Record>,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// The files by volume and number.
type Model = HashMap<(u64, u64), File>;

fn of<'a>(model: &'a mut Model, key: &Key) -> &'a mut File {
    let file = model.entry((key.volume, key.ino)).or_default();
    if file.generation != key.generation {
        *file = File { generation: key.generation, ..File::default() };
    }
    file
}

fn known<'a>(model: &'a mut Model, key: &Key) -> Option<&'a mut File> {
    let file = model.get_mut(&(key.volume, key.ino));
    file.filter(|file| file.generation == key.generation)
}

fn apply(ground: &Ground, db: &Db, model: &mut Model, op: &Op) {
    match op {
        Op::Put(key, record) => {
            ground.put(db, key, record);
            of(model, key).record = Some(*record);
        }
        Op::Set(key, name, value) => {
            let name = format!("security.{name}");
            ground.set(db, key, &name, Some(value)).unwrap();
            of(model, key).attributes.insert(name, value.clone());
        }
        Op::Remove(key, name) => {
            let name = format!("security.{name}");
            let gone = known(model, key).and_then(|file| file.attributes.remove(&name));
            let done = ground.set(db, key, &name, None);
            assert_eq!(done.is_ok(), gone.is_some());
        }
        Op::Reopen | Op::Other => {}
    }
}

fn compare(ground: &Ground, db: &Db, model: &mut Model) {
    for volume in 0..2 {
        for (ino, generation) in (0..9).map(|number| (number / 3, number % 3 + 1)) {
            let key = Key { volume, ino, generation };
            let file = known(model, &key);
            let record = file.as_ref().and_then(|file| file.record);
            assert_eq!(ground.get(db, &key), record, "{key:?}");
            let attributes = file.map(|file| file.attributes.clone()).unwrap_or_default();
            let names: BTreeSet<OsString> = attributes.keys().map(OsString::from).collect();
            assert_eq!(ground.names(db, &key), names, "{key:?}");
            for (name, value) in attributes {
                let got = db.attribute(&ground.memory, &ground.node, &key, OsStr::new(&name));
                assert_eq!(got.unwrap(), value);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_database_is_a_map(ops in proptest::collection::vec(any_op(), 1..60)) {
        let ground = Ground::new();
        let mut servers = [ground.open(), ground.open()];
        let mut model = Model::new();
        for op in &ops {
            match op {
                Op::Reopen => servers[0] = ground.open(),
                Op::Other => servers.swap(0, 1),
                Op::Put(..) | Op::Set(..) | Op::Remove(..) => {
                    apply(&ground, &servers[0], &mut model, op);
                }
            }
        }
        for db in &servers {
            compare(&ground, db, &mut model);
        }
        servers[0].check().unwrap();
    }
}
