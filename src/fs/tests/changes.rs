use super::*;
use crate::fs::tests::xattrs::{acl, caps};
use crate::source::wrap::Call;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPS: &str = "security.capability";

fn set(uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) -> SetAttr {
    SetAttr { uid: uid.and_then(Id::new), gid: gid.and_then(Id::new), mode, ..SetAttr::default() }
}

/// An ACL of three entries, as programs that copy modes set it.
fn minimal() -> Vec<u8> {
    let mut value = acl(&[], &[]);
    value.drain(20..28);
    value
}

#[test]
fn owners_are_changed_ignored_or_refused() {
    let refused = Err(Error::Denied);
    for (policy, uid, gid, wanted) in [
        ("", Some(7), Some(8), Ok((7, 8))),
        ("chown = 'normal'", Some(7), None, Ok((7, 1))),
        ("chown = 'ignore'", Some(7), None, Ok((1, 1))),
        ("chown = 'ignore'", Some(7), Some(8), Ok((1, 8))),
        ("chgrp = 'ignore'", Some(7), Some(8), Ok((7, 1))),
        ("chown = 'ignore'\nchgrp = 'ignore'", Some(7), Some(8), Ok((1, 1))),
        ("chown = 'deny'", Some(7), None, refused),
        ("chown = 'deny'", Some(7), Some(8), refused),
        ("chown = 'deny'", None, Some(8), Ok((1, 8))),
        ("chown = 'ignore'\nchgrp = 'deny'", Some(7), Some(8), refused),
        ("chown = 'only=5,7-9'", Some(8), None, Ok((8, 1))),
        ("chown = 'only=5,7-9'", Some(5), Some(6), Ok((5, 6))),
        ("chown = 'only=5,7-9'", Some(6), None, refused),
        ("chgrp = 'only=5'", Some(7), Some(6), refused),
    ] {
        let world = World::of_file(&format!("[changes]\n{policy}"));
        let file = world.file("a", (1, 1), 0o644);
        let result = world.fs.setattr(&caller(0, 0), file.node, None, &set(uid, gid, None));
        let stored = world.stored("a");
        match wanted {
            Ok(owner) => {
                assert_eq!((stored.0, stored.1), owner, "{policy}");
                assert_eq!(result.unwrap(), world.look("a").unwrap().attr, "{policy}");
            }
            Err(error) => {
                assert_eq!(result.unwrap_err(), error, "{policy}");
                assert_eq!((stored.0, stored.1), (1, 1), "{policy}");
            }
        }
    }
}

#[test]
fn an_ignored_chown_has_no_effect_at_all() {
    // Not even of an id that could not be stored, and set-id bits stay: the
    // file has the owner that it had.
    let world =
        World::of_file("ids.map = ['0:100000:10']\n[changes]\nchown = 'ignore'\nchgrp = 'ignore'");
    let file = world.file("a", (1, 1), 0o6755);
    let before = world.on_disk("a");
    for change in [set(Some(5), None, None), set(Some(65534), Some(0), None)] {
        let attr = world.fs.setattr(&caller(100_001, 100_001), file.node, None, &change).unwrap();
        assert_eq!(numbers(&attr), (Some(100_001), Some(100_001)));
        assert_eq!(world.on_disk("a"), before);
    }
    // What else is asked for is done.
    let change = SetAttr { size: Some(3), ..set(Some(5), None, Some(0o600)) };
    let attr = world.fs.setattr(&caller(100_001, 100_001), file.node, None, &change).unwrap();
    assert_eq!((attr.size, attr.mode.bits()), (3, 0o600));
}

#[test]
fn modes_are_changed_ignored_refused_or_filtered() {
    for (policy, dir, asked, wanted) in [
        ("", false, 0o600, Ok(0o600)),
        ("chmod = 'ignore'", false, 0o600, Ok(0o644)),
        ("chmod = 'deny'", false, 0o644, Err(Error::Denied)),
        ("chmod = 'filter=g+w,o='", false, 0o604, Ok(0o620)),
        ("chmod = 'filter=a+X'", false, 0o644, Ok(0o644)),
        ("chmod = 'filter=a+X'", true, 0o600, Ok(0o711)),
        ("chmod = 'ignore,allow-x'", false, 0o700, Ok(0o744)),
        ("chmod = 'ignore,allow-x'", false, 0o600, Ok(0o644)),
        ("chmod = 'ignore,allow-x'", true, 0o777, Ok(0o644)),
        ("chmod = 'deny,allow-x'", false, 0o755, Ok(0o755)),
        ("chmod = 'deny,allow-x'", false, 0o711, Err(Error::Denied)),
        ("chmod = 'deny,allow-x'", true, 0o755, Err(Error::Denied)),
    ] {
        let world = World::of_file(&format!("[changes]\n{policy}"));
        let file = if dir { world.dir("a", (1, 1), 0o644) } else { world.file("a", (1, 1), 0o644) };
        let mode = set(None, None, Some(asked | libc::S_IFREG));
        let result = world.fs.setattr(&caller(1, 1), file.node, None, &mode);
        let result = result.map(|attr| attr.mode.bits());
        assert_eq!(result, wanted, "{policy} {asked:o}");
        assert_eq!(world.stored("a").2, wanted.unwrap_or(0o644), "{policy} {asked:o}");
    }
}

#[test]
fn denials_leave_writes_and_times_alone() {
    let world = World::of_file("[changes]\nchmod = 'deny'\nchown = 'deny'\nchgrp = 'deny'");
    let file = world.file("a", (1, 1), 0o4755);
    // What the client sends before a write that takes set-id bits away.
    let attr = world.fs.setattr(&caller(1, 1), file.node, None, &SetAttr::default()).unwrap();
    assert_eq!(attr.mode.bits(), 0o755);
    world.disk_file("b", (1, 1), 0o6745);
    let file = world.look("b").unwrap();
    let times = Some(crate::source::SetTime::Now);
    let change = SetAttr { size: Some(0), atime: times, mtime: times, ..SetAttr::default() };
    world.fs.setattr(&caller(1, 1), file.node, None, &change).unwrap();
    assert_eq!(world.stored("b").2 & 0o4000, 0);
    // A change with a part that is refused is refused as a whole.
    let change = SetAttr { size: Some(9), mode: Some(0o600), ..SetAttr::default() };
    let refused = world.fs.setattr(&caller(1, 1), file.node, None, &change);
    assert_eq!(refused.unwrap_err(), Error::Denied);
    assert_eq!(world.on_disk("b").size, 0);
}

#[test]
fn new_files_get_the_mode_that_the_expression_says() {
    // expression, default ACL of the directory, mode asked for, umask, file, directory
    for (policy, default, asked, umask, file, dir) in [
        ("", false, 0o666, 0o022, 0o644, 0o644),
        ("create.mode = 'g+w'", false, 0o666, 0o022, 0o664, 0o664),
        ("create.mode = 'g+w'", false, 0o600, 0o077, 0o620, 0o620),
        ("create.mode = 'ug=rwX,o='", false, 0o666, 0o022, 0o660, 0o770),
        ("create.mode = 'g=u'", false, 0o777, 0o077, 0o770, 0o770),
        ("create.mode = '0640'", false, 0o777, 0o777, 0o640, 0o640),
        ("create.mode = '&0700'", false, 0o777, 0o022, 0o700, 0o700),
        // The ACL is rw-, r-- with the mask rwx, nothing for others; it takes
        // the umask's place, and limits.
        ("", true, 0o666, 0o077, 0o660, 0o660),
        ("create.mode = 'g+w'", true, 0o640, 0o077, 0o660, 0o660),
        ("create.mode = 'o+rwx'", true, 0o600, 0o077, 0o600, 0o600),
        ("create.mode = '&0700'", true, 0o666, 0o022, 0o600, 0o600),
        ("create.mode = 'a+X'", true, 0o666, 0o022, 0o660, 0o670),
    ] {
        let world = World::of_file(&format!("[changes]\n{policy}"));
        let parent = world.dir("d", (1, 1), 0o755).node;
        if default {
            let root = world.disk.root(&caller(0, 0)).unwrap().node;
            let on_disk = world.disk.lookup(&caller(0, 0), root, name("d")).unwrap().node;
            let value = acl(&[9], &[]);
            world.disk.setxattr(&caller(0, 0), on_disk, DEFAULT.as_ref(), &value, 0).unwrap();
        }
        let by = caller(1, 1);
        let mode = libc::S_IFREG | asked;
        let made = world.fs.mknod(&by, parent, name("f"), mode, umask, 0).unwrap();
        assert_eq!(made.attr.mode.bits(), file, "{policy} {default} {asked:o} {umask:o}");
        let made = world.fs.create(&by, parent, name("o"), asked, umask, libc::O_RDWR).unwrap().0;
        assert_eq!(made.attr.mode.bits(), file, "{policy} {default} {asked:o} {umask:o}");
        let made = world.fs.mkdir(&by, parent, name("s"), asked, umask).unwrap();
        assert_eq!(made.attr.mode.bits(), dir, "{policy} {default} {asked:o} {umask:o}");
        let link = world.fs.symlink(&by, parent, name("l"), name("x")).unwrap();
        assert_eq!(link.attr.mode.bits(), 0o777, "{policy}");
    }
}

#[test]
fn a_new_file_has_its_mode_from_the_first_moment_on() {
    // Nothing is changed once it is there.
    let memory = Arc::new(Memory::new(MemoryOptions::new(Ids::new(0, 0).unwrap())));
    let wrap = Arc::new(Wrap::new(memory.clone()));
    let spec = "version = 1\nchanges.create.mode = 'g=u'";
    let spec = crate::policy::file::parse("p.toml", spec, &NoNames).unwrap();
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let world = World::under(Arc::new(spec.build(&server).unwrap()), memory, wrap.clone());
    for refused in [Call::Setattr, Call::SetAcl] {
        wrap.fail(refused, Error::Denied);
    }
    let (by, root) = (caller(0, 0), world.root());
    world.fs.mknod(&by, root, name("f"), libc::S_IFREG | 0o666, 0o077, 0).unwrap();
    world.fs.create(&by, root, name("o"), 0o666, 0o077, libc::O_RDWR).unwrap();
    world.fs.mkdir(&by, root, name("d"), 0o777, 0o077).unwrap();
    assert_eq!(["f", "o", "d"].map(|name| world.stored(name).2), [0o660, 0o660, 0o770]);
}

#[test]
fn set_id_bits_of_new_files_are_never_the_expressions() {
    let world = World::of_file(
        "ids.collapse = { present-as = '1000:1000', store-as = '5:5' }\n\
         changes.create.mode = '0775'",
    );
    for (by, wanted) in [(1001, 0o775), (1000, 0o6775)] {
        let root = world.root();
        let name = format!("f{by}");
        let mode = libc::S_IFREG | 0o6755;
        let made = world.fs.mknod(&caller(by, by), root, name.as_ref(), mode, 0, 0).unwrap();
        assert_eq!(made.attr.mode.bits(), wanted, "{by}");
        assert_eq!(world.stored(&name), (5, 5, wanted), "{by}");
    }
}

#[test]
fn an_access_acl_is_a_change_of_mode() {
    let named = || acl(&[7], &[]);
    for (policy, value, wanted, mode) in [
        ("", named(), Ok(()), 0o670),
        ("chmod = 'ignore'", named(), Ok(()), 0o644),
        ("chmod = 'deny'", named(), Err(Error::Denied), 0o644),
        ("chmod = 'deny,allow-x'", named(), Err(Error::Denied), 0o644),
        ("chmod = 'deny'", minimal(), Err(Error::Denied), 0o644),
        // To remove what is not there changes nothing.
        ("chmod = 'deny'", Vec::new(), Ok(()), 0o644),
        // The mask is the group's part of the mode.
        ("chmod = 'filter=g-w'", named(), Ok(()), 0o650),
        ("chmod = 'filter=o+r'", minimal(), Ok(()), 0o644),
    ] {
        let world = World::of_file(&format!("[changes]\n{policy}"));
        let file = world.file("a", (1, 1), 0o644);
        let result = world.fs.setxattr(&caller(1, 1), file.node, ACCESS.as_ref(), &value, 0);
        assert_eq!(result, wanted, "{policy}");
        assert_eq!(world.stored("a").2, mode, "{policy}");
        let removed = world.fs.removexattr(&caller(1, 1), file.node, ACCESS.as_ref());
        let stays = policy.contains("deny") && mode != 0o644;
        assert_eq!(removed.is_err(), stays, "{policy}: {removed:?}");
    }
}

#[test]
fn an_ignored_acl_need_not_be_one_that_could_be_stored() {
    for (chmod, wanted) in [("normal", Err(Error::UnmappedEntry)), ("ignore", Ok(()))] {
        let text = format!("ids.map = ['0:100000:10']\nchanges.chmod = '{chmod}'");
        let world = World::of_file(&text);
        let file = world.file("a", (1, 1), 0o644);
        let by = caller(100_001, 100_001);
        let set = world.fs.setxattr(&by, file.node, ACCESS.as_ref(), &acl(&[7], &[]), 0);
        assert_eq!(set, wanted, "{chmod}");
        assert_eq!(world.stored("a").2, 0o644);
    }
}

const XATTRS: &str = "
[[changes.xattrs]]
name = 'user.secret.*'
action = 'hide'
[[changes.xattrs]]
name = 'user.fixed'
action = 'refuse'
[[changes.xattrs]]
name = 'user.mine.shown'
action = 'pass'
[[changes.xattrs]]
name = 'trusted.overlay.*'
action = 'rename'
to = 'user.mine.'
";

impl World {
    /// The names that root sees of a file's attributes.
    fn names(&self, fs: &Fs, node: u64) -> Vec<String> {
        lock(&self.processes.0).capable.insert(0);
        let list = fs.listxattr(&caller(0, 0), node).unwrap();
        let mut names: Vec<String> = (list.split(|byte| *byte == 0))
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_capability_that_is_hidden_is_not_of_an_open_file() {
    let world = World::of_file("[[changes.xattrs]]\nname = 'security.*'\naction = 'hide'\n");
    let node = world.file("a", (1, 1), 0o755).node;
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    let on_disk = world.disk.lookup(&caller(0, 0), root, name("a")).unwrap().node;
    let key = name("security.capability");
    lock(&world.processes.0).capable.insert(0);
    world.disk.setxattr(&caller(0, 0), on_disk, key, &caps(None), 0).unwrap();
    world.open(node, libc::O_WRONLY).unwrap();
    assert!(world.fs.getxattr(&caller(0, 0), node, key).unwrap_err().is(libc::ENODATA));
}

#[test]
fn attributes_are_hidden_refused_and_renamed() {
    let world = World::of_file(XATTRS);
    let node = world.file("a", (1, 1), 0o644).node;
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    let on_disk = world.disk.lookup(&caller(0, 0), root, name("a")).unwrap().node;
    for attribute in ["user.secret.x", "user.fixed", "user.plain", "user.mine.opaque"] {
        world.disk.setxattr(&caller(0, 0), on_disk, attribute.as_ref(), b"d", 0).unwrap();
    }
    world.disk.setxattr(&caller(0, 0), on_disk, name("trusted.overlay.own"), b"d", 0).unwrap();
    let seen = ["trusted.overlay.opaque", "user.fixed", "user.plain"];
    assert_eq!(world.names(&world.fs, node), seen);
    let by = caller(0, 0);
    let get = |attribute: &str| world.fs.getxattr(&by, node, attribute.as_ref());
    let set = |attribute: &str| world.fs.setxattr(&by, node, attribute.as_ref(), b"v", 0);
    let remove = |attribute: &str| world.fs.removexattr(&by, node, attribute.as_ref());
    // Hidden: the same whether it is there or not.
    for attribute in ["user.secret.x", "user.secret.y", "user.mine.opaque", "user.mine.none"] {
        assert!(get(attribute).unwrap_err().is(libc::ENODATA), "{attribute}");
        assert_eq!(set(attribute), Err(Error::Denied), "{attribute}");
        assert!(remove(attribute).unwrap_err().is(libc::ENODATA), "{attribute}");
    }
    assert_eq!(get("user.fixed").unwrap(), b"d");
    assert_eq!((set("user.fixed"), remove("user.fixed")), (Err(Error::Denied), Err(Error::Denied)));
    // Renamed: what is on disk under the view's own name is not seen.
    assert!(get("trusted.overlay.own").unwrap_err().is(libc::ENODATA));
    assert_eq!(get("trusted.overlay.opaque").unwrap(), b"d");
    set("trusted.overlay.new").unwrap();
    remove("trusted.overlay.opaque").unwrap();
    // One that passes by a rule before is reached by both names.
    set("user.mine.shown").unwrap();
    assert_eq!(get("trusted.overlay.shown").unwrap(), b"v");
    let seen = [
        "trusted.overlay.new",
        "trusted.overlay.shown",
        "user.fixed",
        "user.mine.shown",
        "user.plain",
    ];
    assert_eq!(world.names(&world.fs, node), seen);
    let stored = [
        "trusted.overlay.own",
        "user.fixed",
        "user.mine.new",
        "user.mine.shown",
        "user.plain",
        "user.secret.x",
    ];
    assert_eq!(world.names(&world.disk, on_disk), stored);
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let world = World::of_file(
        "[[changes.xattrs]]\nname = 'user.*'\naction = 'rename'\nto = 'user.longer.'",
    );
    let node = world.file("a", (1, 1), 0o644).node;
    let by = caller(0, 0);
    let attribute = format!("user.{}", "a".repeat(250));
    let name: &OsStr = attribute.as_ref();
    assert!(world.fs.setxattr(&by, node, name, b"v", 0).unwrap_err().is(libc::ERANGE));
    assert!(world.fs.getxattr(&by, node, name).unwrap_err().is(libc::ERANGE));
    assert!(world.fs.removexattr(&by, node, name).unwrap_err().is(libc::ERANGE));
    world.fs.setxattr(&by, node, "user.longer.x".as_ref(), b"v", 0).unwrap();
    assert_eq!(world.names(&world.fs, node), ["user.longer.x"]);
}

#[test]
fn a_refused_capability_does_not_stop_a_write() {
    for (action, get, removed) in [
        ("refuse", Ok(caps(None)), Error::Unsupported),
        ("hide", Err(os(libc::ENODATA)), os(libc::ENODATA)),
    ] {
        let world = World::of_file(&format!(
            "changes.xattrs = [{{ name = 'security.*', action = '{action}' }}]"
        ));
        let node = world.file("a", (1, 1), 0o755).node;
        let root = world.disk.root(&caller(0, 0)).unwrap().node;
        let on_disk = world.disk.lookup(&caller(0, 0), root, name("a")).unwrap().node;
        world.disk.setxattr(&caller(0, 0), on_disk, CAPS.as_ref(), &caps(None), 0).unwrap();
        assert_eq!(world.fs.getxattr(&caller(0, 0), node, CAPS.as_ref()), get);
        let set = world.fs.setxattr(&caller(0, 0), node, CAPS.as_ref(), &caps(None), 0);
        assert_eq!(set, Err(Error::Denied));
        // The client asks for that first, and goes on after this answer.
        let remove = world.fs.removexattr(&caller(0, 0), node, CAPS.as_ref());
        assert_eq!(remove, Err(removed));
        let handle = world.open(node, libc::O_WRONLY).unwrap();
        world.fs.write(&caller(0, 0), handle, Place::At(0), b"x", true).unwrap();
        let gone = world.disk.getxattr(&caller(0, 0), on_disk, CAPS.as_ref());
        assert!(gone.unwrap_err().is(libc::ENODATA), "{action}");
    }
}

#[test]
fn a_refused_acl_may_still_be_what_the_mode_says() {
    let world = World::of_file("changes.xattrs = [{ name = '*', action = 'refuse' }]");
    let node = world.dir("d", (1, 1), 0o755).node;
    let by = caller(1, 1);
    let set = |kind: &str, value: &[u8]| world.fs.setxattr(&by, node, kind.as_ref(), value, 0);
    let remove = |kind: &str| world.fs.removexattr(&by, node, kind.as_ref());
    // Programs that copy modes do this.
    set(ACCESS, &minimal()).unwrap();
    assert_eq!(world.stored("d").2, 0o640);
    remove(DEFAULT).unwrap();
    for kind in [ACCESS, DEFAULT] {
        assert_eq!(set(kind, &acl(&[7], &[])), Err(Error::Denied), "{kind}");
    }
    let root = world.disk.root(&caller(0, 0)).unwrap().node;
    let on_disk = world.disk.lookup(&caller(0, 0), root, name("d")).unwrap().node;
    for kind in [ACCESS, DEFAULT] {
        world.disk.setxattr(&caller(0, 0), on_disk, kind.as_ref(), &acl(&[7], &[]), 0).unwrap();
        assert_eq!(world.fs.getxattr(&by, node, kind.as_ref()).unwrap(), acl(&[7], &[]));
        assert_eq!(set(kind, &minimal()), Err(Error::Denied), "{kind}");
        assert_eq!(remove(kind), Err(Error::Denied), "{kind}");
    }
}
