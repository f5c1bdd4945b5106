//! Several servers of one source, and rooms that are full.

use super::*;

#[test]
fn servers_see_what_each_other_has_written() {
    let ground = Ground::new();
    let (one, other) = (ground.open(), ground.open());
    for round in 0..200 {
        let (writes, reads) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        ground.put(writes, &key(1, 1), &plain_record(round));
        assert_eq!(ground.get(reads, &key(1, 1)), Some(plain_record(round)));
    }
}

#[test]
fn many_threads_of_several_servers_write_at_once() {
    let ground = Ground::new();
    let servers = [ground.open(), ground.open(), ground.open()];
    std::thread::scope(|scope| {
        for thread in 0..9_u64 {
            let (db, ground) = (&servers[usize::try_from(thread).unwrap() % 3], &ground);
            scope.spawn(move || {
                for number in 0..100 {
                    let key = key(thread * 1000 + number, 1);
                    ground.put(db, &key, &plain_record(1));
                    assert!(ground.get(db, &key).is_some());
                }
            });
        }
    });
    assert_eq!(servers[0].count().unwrap(), 900);
    servers[0].check().unwrap();
}

#[test]
fn a_database_is_made_once() {
    let ground = Ground::new();
    let files: BTreeSet<PathBuf> = std::thread::scope(|scope| {
        let open = || scope.spawn(|| ground.open().file().to_owned());
        let opened: Vec<_> = (0..8).map(|_| open()).collect();
        opened.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(files.len(), 1);
    // One that was killed while it made one leaves parts, which are nothing.
    let file = files.first().unwrap();
    std::fs::remove_file(file).unwrap();
    for suffix in [".new", ".new-wal", ".new-shm"] {
        let mut part = file.as_os_str().to_owned();
        part.push(suffix);
        std::fs::write(part, "rubbish").unwrap();
    }
    let db = ground.open();
    ground.put(&db, &key(1, 1), &plain_record(1));
    db.check().unwrap();
}

/// Runs with a small file system at the databases, where this process may mount.
fn in_small_room(act: impl FnOnce(&Ground) + Send) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).is_err() {
                eprintln!("SKIP: needs a mount namespace");
                return;
            }
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let ground = Ground::new();
            std::fs::create_dir_all(ground.databases()).unwrap();
            let size = Some("size=1m,mode=700");
            mount(none, &ground.databases(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
            act(&ground);
        });
    });
}

#[test]
fn where_there_is_no_room_nothing_is_half_done() {
    in_small_room(|ground| {
        let db = ground.open();
        ground.put(&db, &key(1, 1), &plain_record(1));
        let filling = ground.databases().join("filling");
        let mut room = vec![0; 1 << 20];
        while std::fs::write(&filling, &room).is_err() {
            room.truncate(room.len() - 4096);
        }
        let mut done = 1;
        let refused = loop {
            let put = db.put(&ground.memory, &ground.node, &key(done + 1, 1), &plain_record(2));
            match put {
                Ok(()) => done += 1,
                Err(error) => break error,
            }
        };
        assert!(refused.is(libc::ENOSPC), "{refused:?}");
        let set = ground.set(&db, &key(1, 1), "security.x", Some(&[1; 60_000]));
        assert!(set.unwrap_err().is(libc::ENOSPC));
        assert_eq!(db.count().unwrap(), done);
        assert_eq!(ground.get(&db, &key(1, 1)), Some(plain_record(1)));
        assert!(ground.names(&db, &key(1, 1)).is_empty());
        // What is there can be read by one who comes now, too.
        std::fs::remove_file(&filling).unwrap();
        ground.put(&db, &key(done + 1, 1), &plain_record(2));
        assert_eq!(ground.open().count().unwrap(), done + 1);
        db.check().unwrap();
    });
}
