//! Many threads at once: counts stay exact and no wrong file is served.

use std::sync::Mutex;
use std::thread;

use super::*;

/// A cheap sequence of numbers that differs between threads (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Lookups and forgets of few files from many threads, each of which takes
/// back what it counted, often at the moment of the last forget.
#[test]
fn counts_are_exact_when_threads_race() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        let files: Vec<Key> = [(0, 20), (0, 21), (0, 1), (3, 20), (3, 1 << 50), (4, 1)]
            .map(|(volume, ino)| Key { volume, ino, generation: 1 })
            .into();
        for (index, file) in files.iter().enumerate() {
            fake.add(&ROOT, &format!("f{index}"), file);
        }
        thread::scope(|scope| {
            for seed in 1..=4 {
                let (fake, tree, files) = (&fake, &tree, &files);
                scope.spawn(move || churn(fake, tree, files, Random(seed)));
            }
        });
        assert_eq!(tree.counts(), (1, 1));
        assert_eq!(fake.open.load(SeqCst), 1);
    }
}

fn churn(fake: &Fake, tree: &Tree, files: &[Key], mut random: Random) {
    let mut mine = vec![(0_u64, 0_u64); files.len()];
    for _ in 0..20_000 {
        let index = usize::try_from(random.below(6)).unwrap();
        let (number, count) = &mut mine[index];
        match random.below(8) {
            0..3 => {
                let child = format!("f{index}");
                let found = fake.find(&ROOT, &child).unwrap();
                *number = tree.remember(5, name(&child), &found, &State::default()).number;
                *count += 1;
            }
            3..6 if *count > 0 => {
                let some = 1 + random.below(*count);
                *count -= some;
                tree.forget(*number, some);
            }
            6 if *count > 0 => {
                assert_eq!(file_of(&tree.node(*number).unwrap()), files[index]);
                assert_eq!(tree.known(&files[index], &State::default()), Some(*number));
            }
            7 if *count > 0 && random.below(4) == 0 => {
                tree.pin(*number).unwrap();
                if random.below(2) == 0 {
                    tree.unpin(*number);
                }
            }
            _ => {
                tree.shrink();
            }
        }
    }
    for (number, count) in mine {
        tree.forget(number, count);
    }
}

/// One number stands for one new file after another, while other threads look
/// it up, open it and forget it.
#[test]
fn a_number_reused_in_a_race_is_never_the_wrong_file() {
    for handles in [false, true] {
        let (fake, tree) = tree(handles, 8);
        fake.add(&ROOT, "f", &key(9, 0));
        let told = Mutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| {
                for generation in 1..5_000 {
                    fake.add(&ROOT, "f", &key(9, generation));
                }
            });
            for seed in 1..=3 {
                let (fake, tree, told) = (&fake, &tree, &told);
                scope.spawn(move || {
                    let (mut random, mut mine) = (Random(seed), Vec::new());
                    for _ in 0..5_000 {
                        let Ok(found) = fake.find(&ROOT, "f") else { continue };
                        let number = tree.remember(5, name("f"), &found, &State::default()).number;
                        // A number that is known stands for one file all the time.
                        assert_eq!(tree.key(number), Ok(found.key.clone()));
                        if let Ok(node) = tree.node(number) {
                            assert_eq!(file_of(&node), found.key);
                        }
                        mine.push(number);
                        if random.below(3) == 0 {
                            let at = usize::try_from(random.below(mine.len() as u64)).unwrap();
                            tree.forget(mine.swap_remove(at), 1);
                        }
                    }
                    told.lock().unwrap().extend(mine);
                });
            }
        });
        for number in told.into_inner().unwrap() {
            tree.forget(number, 1);
        }
        assert!(tree.numbers.remapped().is_empty());
        assert_eq!((tree.counts(), fake.open.load(SeqCst)), ((1, 1), 1));
    }
}
