//! What was put is there after a kill -9, at whatever moment that comes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// In the child: where the ground is.
const VARIABLE: &str = "IDMAPFS_TEST_OWNERS";

/// The child puts records from two threads and says which, after each.
#[test]
fn child_of_a_kill() {
    let Some(dir) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return };
    let memory = Memory::new(Options::new(Ids::new(0, 0).unwrap()));
    let (node, _) = memory.root().unwrap();
    let db = Db::open(&dir.join("state/owners"), &dir, &memory).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (db, memory, node) = (&db, &memory, &node);
            scope.spawn(move || {
                for round in 1..u32::MAX {
                    let key = key(thread * 100 + u64::from(round % 100), thread + 1);
                    db.put(memory, node, &key, &plain_record(round)).unwrap();
                    let name = OsStr::new("security.round");
                    let value = round.to_string();
                    db.set_attribute(memory, node, &key, name, Some(value.as_bytes())).unwrap();
                    // Whole, by one write.
                    let line = format!("put {thread} {round}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn what_was_put_survives_a_kill() {
    let ground = Ground::new();
    for (round, pause) in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144].into_iter().enumerate() {
        let test = "source::owners::db::tests::killed::child_of_a_kill";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(VARIABLE, ground.dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut last = [0_u32; 2];
            for line in lines.lines() {
                let line = line.unwrap();
                let Some((_, words)) = line.split_once("put ") else { continue };
                let (thread, number) = words.split_once(' ').unwrap();
                last[thread.parse::<usize>().unwrap()] = number.parse().unwrap();
            }
            last
        });
        // From the moment at which the database is being made, the first time.
        std::thread::sleep(Duration::from_millis(pause * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        let last = reader.join().unwrap();

        let db = ground.open();
        db.check().unwrap();
        for (thread, last) in (0_u64..).zip(last) {
            for put in last.saturating_sub(99).max(1)..=last {
                let key = key(thread * 100 + u64::from(put % 100), thread + 1);
                let uid = ground.get(&db, &key).unwrap().owner.uid.raw();
                // One more may have been put that was not said.
                assert!([put, put + 100].contains(&uid), "round {round}: {put} {uid}");
                let name = OsStr::new("security.round");
                let value = db.attribute(&ground.memory, &ground.node, &key, name).unwrap();
                let value: u32 = String::from_utf8(value).unwrap().parse().unwrap();
                assert!([put, put + 100].contains(&value), "round {round}: {put} {value}");
            }
        }
        // No lock is left.
        ground.put(&db, &key(1000, 1), &plain_record(1));
    }
}
