use super::*;
use crate::policy::file;
use crate::source::RenameFlags;
use std::ops::ControlFlow::Continue;

const PLAIN: RenameFlags = RenameFlags { no_replace: false, exchange: false, whiteout: false };
const SWAP: RenameFlags = RenameFlags { no_replace: false, exchange: true, whiteout: false };

const ROFS: Error = os(libc::EROFS);
const XDEV: Error = os(libc::EXDEV);

/// A world with rules, in which `disk` has none.
fn world(rules: &str) -> World {
    let mut world = World::new(IDENTITY);
    world.rule(rules);
    world
}

pub(super) fn with_rules(rules: &str) -> Arc<dyn Policy> {
    let text = format!("version = 1\n{rules}");
    let spec = file::parse("p.toml", &text, &NoNames).unwrap();
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    Arc::new(spec.build(&server).unwrap())
}

impl World {
    /// Puts a new file system with these rules over the source.
    pub(super) fn rule(&mut self, rules: &str) {
        let (source, known) = (self.memory.clone(), Arc::clone(&self.processes));
        self.fs = Fs::new(source, with_rules(rules), known, config()).unwrap();
    }

    /// Makes files and, where a path ends in `/`, directories on disk.
    pub(super) fn fill(&self, paths: &[&str]) {
        let by = caller(0, 0);
        for path in paths {
            let mut at = self.disk.root(&by).unwrap().node;
            let (dir, path) = (path.ends_with('/'), path.trim_end_matches('/'));
            let (up, last) = path.rsplit_once('/').unwrap_or(("", path));
            for part in up.split('/').filter(|part| !part.is_empty()) {
                at = self.disk.lookup(&by, at, part.as_ref()).unwrap().node;
            }
            if dir {
                self.disk.mkdir(&by, at, last.as_ref(), 0o755, 0).unwrap();
            } else {
                self.disk.mknod(&by, at, last.as_ref(), libc::S_IFREG | 0o644, 0, 0).unwrap();
            }
        }
    }

    /// Walks to a path of the view.
    fn walk(&self, path: &str) -> Result<Entry> {
        let by = caller(0, 0);
        let mut at = self.fs.root(&by)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            at = self.fs.lookup(&by, at.node, part.as_ref())?;
        }
        Ok(at)
    }

    /// Returns the directory of a path and its last name.
    fn place<'p>(&self, path: &'p str) -> (u64, &'p OsStr) {
        let (up, last) = path.rsplit_once('/').unwrap_or(("", path));
        (self.walk(up).unwrap().node, last.as_ref())
    }

    /// Tries every way to make a path.
    fn add(&self, path: &str, from: &str) -> Vec<Error> {
        let (by, (dir, last)) = (caller(0, 0), self.place(path));
        let old = self.walk(from).unwrap().node;
        let fs = &self.fs;
        let tried = [
            fs.mknod(&by, dir, last, libc::S_IFREG | 0o644, 0, 0).map(drop),
            fs.create(&by, dir, last, 0o644, 0, libc::O_RDWR).map(drop),
            fs.mkdir(&by, dir, last, 0o755, 0).map(drop),
            fs.symlink(&by, dir, last, name("x")).map(drop),
            fs.link(&by, old, dir, last).map(drop),
            fs.rename(&by, self.place(from), (dir, last), PLAIN),
            fs.rename(&by, self.place(from), (dir, last), SWAP),
        ];
        tried.into_iter().map(|tried| tried.unwrap_err()).collect()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let by = caller(0, 0);
        let handle = self.fs.opendir(&by, self.walk(path).unwrap().node).unwrap();
        let mut all = Vec::new();
        let mut each = |line: Listed<'_>, _: &Entry| {
            all.push(line.name.to_str().unwrap().to_owned());
            Continue(())
        };
        self.fs.readdirplus(&by, handle, 0, &mut each).unwrap();
        all.retain(|name| !matches!(name.as_str(), "." | ".."));
        all.sort();
        all
    }
}

#[test]
fn a_hidden_name_is_the_same_whether_it_is_there_or_not() {
    let hide = "[[rules]]\npath = 'home/.ssh/**'\nhide = true";
    for there in [true, false] {
        let world = world(hide);
        world.fill(&["home/", "home/file", "home/other/"]);
        if there {
            world.fill(&["home/.ssh/", "home/.ssh/key"]);
        }
        let by = caller(0, 0);
        assert_eq!(world.list("home"), ["file", "other"]);
        assert_eq!(world.walk("home/.ssh").unwrap_err(), Error::Hidden);
        let denied = vec![Error::Denied; 7];
        assert_eq!(world.add("home/.ssh", "home/file"), denied, "{there}");
        let hidden = world.place("home/.ssh");
        let fs = &world.fs;
        assert_eq!(fs.unlink(&by, hidden.0, hidden.1), Err(Error::Hidden));
        assert_eq!(fs.rmdir(&by, hidden.0, hidden.1), Err(Error::Hidden));
        for flags in [PLAIN, SWAP] {
            let moved = fs.rename(&by, hidden, world.place("home/file"), flags);
            assert_eq!(moved, Err(Error::Hidden), "{there}");
        }
        assert_eq!(world.walk("home").unwrap().attr.nlink, 1);
        assert_eq!(world.walk("home/other").unwrap().attr.nlink, 2);
    }
}

#[test]
fn a_listing_leads_past_hidden_names_and_counts_none() {
    let world = world("[[rules]]\nname = 'h*'\ntype = 'file'\nhide = true");
    let all = ["d/", "d/a", "d/h1", "d/h2", "d/b", "d/c", "d/h3", "d/e", "d/h4"];
    world.fill(&all);
    let (fs, by) = (&world.fs, caller(0, 0));
    let dir = world.walk("d").unwrap();
    assert_eq!((dir.attr.nlink, dir.attr.size, dir.attr.blocks), (2, 0, 0));
    let handle = fs.opendir(&by, dir.node).unwrap();
    let before = fs.tree.counts().0;
    // A reader that has room for so many lines at a time.
    for room in 1..6 {
        let (mut from, mut seen) = (0, Vec::new());
        loop {
            let mut lines = Vec::new();
            let mut each = |line: Listed<'_>, entry: &Entry| {
                if lines.len() == room {
                    return std::ops::ControlFlow::Break(());
                }
                lines.push((line.name.to_str().unwrap().to_owned(), line.next, entry.node));
                Continue(())
            };
            fs.readdirplus(&by, handle, from, &mut each).unwrap();
            let Some(last) = lines.last() else { break };
            from = last.1;
            seen.extend(lines);
        }
        let nexts: Vec<_> = seen.iter().map(|line| (line.0.as_str(), line.1)).collect();
        // `.` and `..` are entries too.
        let expected = [(".", 1), ("..", 2), ("a", 5), ("b", 6), ("c", 8), ("e", 10)];
        assert_eq!(nexts, expected, "{room}");
        for (_, _, node) in &seen[2..] {
            fs.forget(*node, 1);
        }
        assert_eq!(fs.tree.counts().0, before, "{room}");
    }
}

#[test]
fn what_is_hidden_by_now_is_reached_by_no_number() {
    let world = world("[[rules]]\npath = 'd/*'\nmode = '0600'\nhide = true");
    world.fill(&["d/", "d/f"]);
    let (fs, by) = (&world.fs, caller(0, 0));
    let node = world.walk("d/f").unwrap().node;
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    // The caller hides it from itself, too.
    fs.setattr(&by, node, None, &mode(0o600)).unwrap();
    assert_eq!(world.walk("d/f").unwrap_err(), Error::Hidden);
    assert_eq!(world.open(node, libc::O_RDONLY), Err(Error::Stale));
    assert_eq!(fs.getattr(&by, node, None).unwrap_err(), Error::Stale);
    assert_eq!(fs.setattr(&by, node, None, &mode(0o644)).unwrap_err(), Error::Stale);
    assert_eq!(fs.getxattr(&by, node, name("user.x")), Err(Error::Stale));
    assert_eq!(fs.listxattr(&by, node), Err(Error::Stale));
    assert_eq!(fs.readlink(node), Err(Error::Stale));
    // None of a mode after the umask either.
    let made = fs.mknod(&by, world.walk("d").unwrap().node, name("n"), 0o666, 0o066, 0);
    assert_eq!(made.unwrap_err(), Error::Denied);
}

#[test]
fn moving_a_directory_does_not_show_what_is_hidden() {
    let world = world("[[rules]]\npath = 'a/b/**'\nhide = true");
    world.fill(&["a/", "a/b/", "a/b/secret", "a/plain", "c/"]);
    let (fs, by) = (&world.fs, caller(0, 0));
    let root = world.root();
    assert_eq!(fs.rename(&by, (root, name("a")), (root, name("d")), PLAIN), Err(XDEV));
    assert_eq!(fs.rename(&by, (root, name("a")), (root, name("c")), SWAP), Err(XDEV));
    assert_eq!(fs.rename(&by, (root, name("c")), (root, name("a")), SWAP), Err(XDEV));
    // What no rule looks at moves as ever.
    fs.rename(&by, world.place("a/plain"), (root, name("plain")), PLAIN).unwrap();
    fs.rename(&by, (root, name("c")), (root, name("e")), PLAIN).unwrap();
    assert_eq!(fs.rmdir(&by, root, name("a")), Err(os(libc::ENOTEMPTY)));
}

#[test]
fn a_reload_does_not_mix_two_names_under_two_rules() {
    let rules = "[[rules]]\npath = 'ro/**'\nread-only = true";
    let world = world("");
    world.fill(&["ro/", "rw/", "ro/f"]);
    let (fs, by) = (&world.fs, caller(0, 0));
    let file = world.walk("ro/f").unwrap().node;
    fs.link(&by, file, world.walk("rw").unwrap().node, name("f")).unwrap();
    // The name that was found last says what the number stands for.
    assert_eq!(world.walk("ro/f").unwrap().node, file);
    for round in 0..3 {
        fs.replace(with_rules(&format!("{rules}{}", "\n".repeat(round))), config().stand_in)
            .unwrap();
        let other = world.walk("rw/f").unwrap().node;
        assert_ne!(other, file, "{round}");
        assert_eq!(world.open(file, libc::O_RDWR), Err(ROFS), "{round}");
        world.open(other, libc::O_RDWR).unwrap();
        assert_eq!(world.walk("ro/f").unwrap().node, file, "{round}");
    }
}

#[test]
fn a_file_under_two_rules_is_two_nodes() {
    let world = world("[[rules]]\npath = 'ro/**'\nread-only = true");
    world.fill(&["ro/", "rw/", "ro/f"]);
    let by = caller(0, 0);
    let disk = |path: &str| {
        let mut at = world.disk.root(&by).unwrap();
        for part in path.split('/') {
            at = world.disk.lookup(&by, at.node, part.as_ref()).unwrap();
        }
        at.node
    };
    world.disk.link(&by, disk("ro/f"), disk("rw"), name("f")).unwrap();
    let (one, two) = (world.walk("ro/f").unwrap(), world.walk("rw/f").unwrap());
    assert_ne!(one.node, two.node);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert_eq!(world.fs.setattr(&by, one.node, None, &mode).unwrap_err(), ROFS);
    world.fs.setattr(&by, two.node, None, &mode).unwrap();
    assert_eq!(world.open(one.node, libc::O_RDWR).unwrap_err(), ROFS);
    world.open(two.node, libc::O_RDWR).unwrap();
    // Neither way leads from one to the other.
    let (ro, rw) = (world.walk("ro").unwrap().node, world.walk("rw").unwrap().node);
    assert_eq!(world.fs.link(&by, two.node, ro, name("g")).unwrap_err(), ROFS);
    assert_eq!(world.fs.link(&by, one.node, rw, name("g")).unwrap_err(), ROFS);
    assert_eq!(world.walk("ro/f").unwrap().node, one.node);
    assert_eq!(world.walk("rw/f").unwrap().node, two.node);
    world.fs.forget(one.node, 2);
    world.fs.forget(two.node, 2);
}

#[test]
fn read_only_means_every_change() {
    let world = world("[[rules]]\npath = 'ro/**'\nread-only = true");
    world.fill(&["ro/", "ro/f", "ro/d/", "x"]);
    let (fs, by) = (&world.fs, caller(0, 0));
    assert_eq!(world.add("ro/new", "x"), vec![ROFS; 7]);
    let f = world.walk("ro/f").unwrap().node;
    for change in [
        SetAttr { mode: Some(0o600), ..SetAttr::default() },
        SetAttr { uid: Id::new(5), ..SetAttr::default() },
        SetAttr { size: Some(0), ..SetAttr::default() },
        SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() },
        SetAttr::default(),
    ] {
        assert_eq!(fs.setattr(&by, f, None, &change).unwrap_err(), ROFS, "{change:?}");
    }
    assert_eq!(fs.setxattr(&by, f, name("user.a"), b"1", 0), Err(ROFS));
    assert_eq!(fs.removexattr(&by, f, name("user.a")), Err(ROFS));
    let (dir, last) = world.place("ro/f");
    assert_eq!(fs.unlink(&by, dir, last), Err(ROFS));
    assert_eq!(fs.rmdir(&by, dir, name("d")), Err(ROFS));
    assert_eq!(fs.rename(&by, (dir, last), (world.root(), name("f")), PLAIN), Err(ROFS));
    assert_eq!(fs.rmdir(&by, world.root(), name("ro")), Err(ROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(world.open(f, flags).unwrap_err(), ROFS);
    }
    world.open(f, libc::O_RDONLY).unwrap();
}

#[test]
fn each_operation_can_be_denied() {
    let (fs_of, by) =
        (|op: &str| world(&format!("[[rules]]\npath = 'd/**'\ndeny = ['{op}']")), caller(0, 0));
    for denied in ["delete", "rename", "chmod", "chown", "create", "link", "exec", "xattr"] {
        let world = fs_of(denied);
        world.fill(&["d/", "d/f", "d/gone", "d/old", "d/e/"]);
        let fs = &world.fs;
        let (d, f) = (world.walk("d").unwrap().node, world.walk("d/f").unwrap().node);
        let mode = SetAttr { mode: Some(0o755), ..SetAttr::default() };
        let owner = SetAttr { uid: Id::new(5), ..SetAttr::default() };
        let tried = [
            ("delete", fs.unlink(&by, d, name("gone"))),
            ("delete", fs.rmdir(&by, d, name("e"))),
            ("chmod", fs.setattr(&by, f, None, &mode).map(drop)),
            ("chown", fs.setattr(&by, f, None, &owner).map(drop)),
            ("create", fs.mkdir(&by, d, name("new"), 0o755, 0).map(drop)),
            ("exec", world.open(f, 0x20).map(drop)),
            ("xattr", fs.setxattr(&by, f, name("user.a"), b"1", 0)),
        ];
        for (op, result) in tried {
            let want = match (op == denied, op) {
                (false, _) => Ok(()),
                (true, "exec") => Err(os(libc::EACCES)),
                (true, _) => Err(Error::Denied),
            };
            assert_eq!(result, want, "{op} where {denied} is denied");
        }
        // A new name is made by each of these two.
        let linked = fs.link(&by, f, d, name("hard")).map(drop);
        assert_eq!(linked.is_err(), matches!(denied, "link" | "create"), "{denied}");
        let renamed = fs.rename(&by, (d, name("old")), (d, name("newer")), PLAIN);
        assert_eq!(renamed.is_err(), matches!(denied, "rename" | "create"), "{denied}");
    }
}

#[test]
fn owner_and_mode_are_shown_as_a_rule_says() {
    let world = world(
        "[[rules]]\npath = '*.web'\npresent-owner = '33:34'\npresent-mode = 'go=r'\n\
         [[rules]]\nowner = 7\npresent-mode = {files = '0600', directories = '&0711'}",
    );
    world.fill(&["a.web"]);
    world.disk_file("mine", (7, 7), 0o664);
    world.disk_file("other", (8, 8), 0o664);
    let by = caller(0, 0);
    let web = world.look("a.web").unwrap();
    assert_eq!(numbers(&web.attr), (Some(33), Some(34)));
    assert_eq!(web.attr.mode.bits(), 0o644);
    assert_eq!(world.look("mine").unwrap().attr.mode.bits(), 0o600);
    assert_eq!(world.look("other").unwrap().attr.mode.bits(), 0o664);
    let chown = |uid: u32, gid: Option<u32>| {
        let change =
            SetAttr { uid: Id::new(uid), gid: gid.and_then(Id::new), ..SetAttr::default() };
        world.fs.setattr(&by, web.node, None, &change).map(|attr| numbers(&attr))
    };
    // What is shown can be set, and changes nothing; nothing else would be shown.
    assert_eq!(chown(33, Some(34)).unwrap(), (Some(33), Some(34)));
    assert_eq!(chown(35, None).unwrap_err(), Error::Unmapped);
    assert_eq!(world.stored("a.web").0, 0);
}

#[test]
fn a_shown_mode_goes_for_the_acl_too() {
    let world = world("[[rules]]\nname = 'f'\npresent-mode = 'g-w'");
    world.fill(&["f"]);
    let by = caller(0, 0);
    let acl = |mask: u8| {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, perm, id) in [
            (0x01_u16, 6_u16, u32::MAX),
            (0x02, 6, 1000),
            (0x04, 4, u32::MAX),
            (0x10, u16::from(mask), u32::MAX),
            (0x20, 4, u32::MAX),
        ] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    };
    let f = world.look("f").unwrap().node;
    let access = name("system.posix_acl_access");
    world.fs.setxattr(&by, f, access, &acl(6), 0).unwrap();
    assert_eq!(world.on_disk("f").mode.bits(), 0o664);
    assert_eq!(world.look("f").unwrap().attr.mode.bits(), 0o644);
    assert_eq!(world.fs.getxattr(&by, f, access).unwrap(), acl(4));
}

#[test]
fn what_hides_by_attributes_is_as_good_as_gone() {
    let world = world("[[rules]]\nowner = 9\nhide = true");
    world.disk_file("theirs", (9, 9), 0o644);
    world.disk_file("mine", (1, 1), 0o644);
    let (fs, by) = (&world.fs, caller(9, 9));
    assert_eq!(world.look("theirs").unwrap_err(), Error::Hidden);
    assert_eq!(world.list(""), ["mine"]);
    let made = fs.mknod(&caller(1, 1), world.root(), name("theirs"), libc::S_IFREG, 0, 0);
    assert_eq!(made.unwrap_err(), Error::Denied);
    // Nor is a file made that could not be seen.
    let made = fs.mknod(&by, world.root(), name("new"), libc::S_IFREG, 0, 0);
    assert_eq!(made.unwrap_err(), Error::Denied);
    // One that comes under the rule while it is known.
    let mine = world.look("mine").unwrap().node;
    let owner = SetAttr { uid: Id::new(9), ..SetAttr::default() };
    let (disk, root) = (&world.disk, world.disk.root(&by).unwrap().node);
    let there = disk.lookup(&by, root, name("mine")).unwrap();
    disk.setattr(&caller(0, 0), there.node, None, &owner).unwrap();
    assert_eq!(fs.getattr(&by, mine, None).unwrap_err(), Error::Stale);
    assert_eq!(world.look("mine").unwrap_err(), Error::Hidden);
}
