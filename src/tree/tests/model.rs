//! Random sequences of what the kernel and the host do, against a model that
//! is plainly right.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// One step; indices are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The host gives a name to a new file of that number, whose earlier file
    /// is removed, or to the one that there is.
    Make {
        dir: usize,
        name: u8,
        ino: u64,
        volume: u64,
        fresh: bool,
    },
    Remove {
        dir: usize,
        name: u8,
    },
    Rename {
        from: (usize, u8),
        to: (usize, u8),
        told: bool,
    },
    Lookup {
        dir: usize,
        name: u8,
    },
    Forget {
        known: usize,
        count: u64,
    },
    Node {
        known: usize,
    },
    Pin {
        known: usize,
    },
    Unpin {
        known: usize,
    },
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0_usize..8, 0_u8..4);
    let ino = prop_oneof![2_u64..12, Just(0), Just(1), Just(1 << 63), Just(1 << 45)];
    let volume = prop_oneof![3 => Just(0_u64), 1 => 1_u64..3];
    prop_oneof![
        4 => (place(), ino, volume, any::<bool>()).prop_map(|((dir, name), ino, volume, fresh)| {
            Step::Make { dir, name, ino, volume, fresh }
        }),
        2 => place().prop_map(|(dir, name)| Step::Remove { dir, name }),
        2 => (place(), place(), any::<bool>())
            .prop_map(|(from, to, told)| Step::Rename { from, to, told }),
        8 => place().prop_map(|(dir, name)| Step::Lookup { dir, name }),
        4 => (any::<usize>(), 1_u64..4).prop_map(|(known, count)| Step::Forget { known, count }),
        6 => any::<usize>().prop_map(|known| Step::Node { known }),
        2 => any::<usize>().prop_map(|known| Step::Pin { known }),
        1 => any::<usize>().prop_map(|known| Step::Unpin { known }),
        1 => Just(Step::Shrink),
    ]
}

/// What the kernel was told: by number, which file and how often.
#[derive(Default)]
struct Kernel(HashMap<u64, (Key, u64)>);

struct World {
    fake: Arc<Fake>,
    tree: Tree,
    kernel: Kernel,
    /// Files of the host by volume and number.
    files: HashMap<(u64, u64), Key>,
    generation: u64,
}

fn letter(name: u8) -> String {
    char::from(b'a' + name).to_string()
}

impl World {
    fn new(handles: bool) -> Self {
        let (fake, tree) = super::tree(handles, 2);
        Self { fake, tree, kernel: Kernel::default(), files: HashMap::new(), generation: 0 }
    }

    /// A number that the kernel knows, the root included.
    fn known(&self, index: usize) -> u64 {
        let mut known: Vec<u64> = self.kernel.0.keys().copied().chain([5]).collect();
        known.sort_unstable();
        known[index % known.len()]
    }

    fn dir(&self, index: usize) -> Key {
        self.tree.key(self.known(index)).unwrap()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Make { dir, name, ino, volume, fresh } => {
                self.make(dir, name, (volume, ino), fresh)
            }
            Step::Remove { dir, name } => {
                self.fake.remove(&self.dir(dir), &letter(name));
            }
            Step::Rename { from, to, told } => self.rename(from, to, told),
            Step::Lookup { dir, name } => self.lookup(self.known(dir), &letter(name)),
            Step::Forget { known, count } => {
                let number = self.known(known);
                self.tree.forget(number, count);
                if let Some((_, left)) = self.kernel.0.get_mut(&number) {
                    *left = left.saturating_sub(count);
                    if *left == 0 {
                        self.kernel.0.remove(&number);
                    }
                }
            }
            Step::Node { known } => self.node(self.known(known)),
            Step::Pin { known } => drop(self.tree.pin(self.known(known))),
            Step::Unpin { known } => self.tree.unpin(self.known(known)),
            Step::Shrink => drop(self.tree.shrink()),
        }
    }

    fn make(&mut self, dir: usize, name: u8, file: (u64, u64), fresh: bool) {
        if file == (0, ROOT.ino) {
            return;
        }
        if fresh || !self.files.contains_key(&file) {
            self.generation += 1;
            let key = Key { volume: file.0, ino: file.1, generation: self.generation };
            if let Some(old) = self.files.insert(file, key) {
                self.fake.destroy(&old);
            }
        }
        self.fake.add(&self.dir(dir), &letter(name), &self.files[&file]);
    }

    fn rename(&mut self, from: (usize, u8), to: (usize, u8), told: bool) {
        let (old, new) = (self.dir(from.0), self.dir(to.0));
        let Ok(found) = self.fake.find(&old, &letter(from.1)) else {
            return;
        };
        self.fake.rename((&old, &letter(from.1)), (&new, &letter(to.1)));
        if told && let Some(number) = self.tree.known(&found.key, &State::default()) {
            self.tree.moved(number, self.known(to.0), super::name(&letter(to.1)));
        }
    }

    fn lookup(&mut self, parent: u64, child: &str) {
        let Ok(found) = self.fake.find(&self.tree.key(parent).unwrap(), child) else {
            return;
        };
        let own = self.tree.number(&found.key);
        let told = self.tree.remember(parent, super::name(child), &found, &State::default());
        assert_eq!(told.generation, found.key.generation);
        let before = self.kernel.0.iter().find(|(_, (key, _))| *key == found.key);
        match (before, self.kernel.0.get(&own)) {
            // A number stays as long as it is known,
            (Some((number, _)), _) => assert_eq!(told.number, *number),
            // is the file's own where that is free,
            (None, None) => assert_eq!(told.number, own),
            // and one that nothing has where an earlier file is known by it.
            (None, Some(_)) => assert!(!self.kernel.0.contains_key(&told.number)),
        }
        let count = self.kernel.0.get(&told.number).map_or(0, |(_, count)| *count);
        self.kernel.0.insert(told.number, (found.key, count + 1));
        assert_eq!(self.tree.place(told.number), Ok(Some((parent, child.into()))));
    }

    fn node(&self, number: u64) {
        let key = self.tree.key(number).unwrap();
        match self.tree.node(number) {
            Ok(node) => assert_eq!(file_of(&node), key),
            Err(error) => {
                assert_eq!(error, Error::Stale);
                assert!(!(self.fake.facts().handles && self.fake.exists(&key)), "{key:?}");
                assert!(!self.is_in_place(number), "{key:?}");
            }
        }
    }

    /// Reports whether a file and the directories above it are all where they
    /// were last found.
    fn is_in_place(&self, mut number: u64) -> bool {
        // No path is longer than there are files.
        for _ in 0..=self.kernel.0.len() {
            let Ok(key) = self.tree.key(number) else {
                return false;
            };
            let Some((parent, name)) = self.tree.place(number).unwrap() else {
                return true;
            };
            let dir = self.tree.key(parent);
            let found = dir.and_then(|dir| self.fake.find(&dir, name.to_str().unwrap()));
            if !found.is_ok_and(|found| found.key == key) {
                return false;
            }
            number = parent;
        }
        false
    }

    fn check(&self) {
        let mut taken = HashMap::new();
        for (number, (key, _)) in &self.kernel.0 {
            assert_eq!(self.tree.key(*number).as_ref(), Ok(key));
            assert_eq!(self.tree.known(key, &State::default()), Some(*number));
            assert!(*number > 1 && *number != ROOT.ino);
            assert_eq!(taken.insert(key, number), None);
        }
        let (inodes, open) = self.tree.counts();
        assert_eq!(inodes, self.kernel.0.len() + 1);
        assert_eq!(open, self.fake.open.load(SeqCst), "every open node is accounted for");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_table_is_the_model(
        handles in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(handles);
        for step in steps {
            world.run(step);
            world.check();
        }
        let numbers: Vec<(u64, u64)> =
            world.kernel.0.drain().map(|(number, (_, count))| (number, count)).collect();
        for (number, count) in numbers {
            world.tree.forget(number, count);
        }
        world.check();
        assert_eq!(world.tree.counts(), (1, 1), "nothing is left");
    }
}
