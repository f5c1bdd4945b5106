//! Policies: what is read, what is refused with which words, what is decided.

use idmapfs::id::{Disk, Group, Id, Ids, User, View};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Code, Pipeline, Policy as _, PolicyError, Server, Spec, Translate, file};

use super::host::Host;

/// Reads options as `-o` has them, with blanks between.
fn options(text: &str) -> Result<Spec, PolicyError> {
    let mut options = Options::default();
    for word in text.split("; ").filter(|word| !word.is_empty()) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        assert!(options.set(name, value)?, "{name} is no policy option");
    }
    Spec::from_options(&options, &Host)
}

fn root() -> Server {
    Server { ids: Ids::new(0, 0).unwrap(), privileged: true }
}

fn alice() -> Server {
    Server { ids: Ids::new(1000, 100).unwrap(), privileged: false }
}

fn pipeline(text: &str, server: &Server) -> Pipeline {
    options(text).unwrap().build(server).unwrap()
}

fn disk<K: idmapfs::id::Kind>(raw: u32) -> Id<K, Disk> {
    Id::new(raw).unwrap()
}

fn view<K: idmapfs::id::Kind>(raw: u32) -> Id<K, View> {
    Id::new(raw).unwrap()
}

#[test]
fn options_describe_themselves() {
    for (given, wanted) in [
        ("", "identity"),
        ("map=0:100000:65536", "map=0:100000:65536"),
        ("map=u:5:6:1; map=u:1:2:3", "map=u:1:2:3,map=u:5:6:1"),
        ("map=u:1:2:3; map=g:1:2:3", "map=1:2:3"),
        ("map=u:1:2:3; map=g:2:1:3", "map=u:1:2:3,map=g:2:1:3"),
        ("present-as=1000", "present-as=1000:1000"),
        ("present-as=alice", "present-as=1000:100"),
        ("present-as=alice:staff", "present-as=1000:50"),
        ("present-as=1000:staff", "present-as=1000:50"),
        ("present-as=u:alice", "present-as=u:1000"),
        ("present-as=g:users", "present-as=g:100"),
        ("store-as=g:users", "store-as=g:100"),
        (
            "present-as=www-data:www-data; store-as=alice:users",
            "present-as=33:33,store-as=1000:100",
        ),
        ("map=0:1:5; unmapped=refuse", "map=0:1:5"),
        ("map=0:1:5; unmapped=present-as=alice", "map=0:1:5,unmapped=present-as=1000:100"),
        ("uidmapping=0:10:5:10:0:5", "map=u:0:10:5,map=u:10:0:5"),
        ("uidmapping=0:10:5; gidmapping=0:10:5", "map=0:10:5"),
        (
            "X-mount.idmap=u:0:1:2 g:5:6:7 b:100:200:3",
            "map=u:0:1:2,map=u:100:200:3,map=g:5:6:7,map=g:100:200:3",
        ),
        ("X-mount.idmap=0:1:2", "map=0:1:2"),
        ("force-user=alice", "present-as=u:1000"),
        ("force-user=alice; force-group=staff", "present-as=1000:50"),
        (
            "force-user=33; create-for-user=alice; create-for-group=users",
            "present-as=u:33,store-as=1000:100",
        ),
        ("squash_to_uid=7; squash_to_gid=8", "present-as=7:8"),
        ("squash_to_root", "present-as=0:0"),
        ("uid-offset=100000", "map=u:0:100000:4294867295"),
        ("mirror=alice:@staff:33", "mirror=33:1000:@50"),
        ("mirror=alice; mirror-only=www-data", "mirror-only=33:1000"),
        ("mirror-only=@users; map=0:10:5; store-as=3", "map=0:10:5,store-as=3:3,mirror-only=@100"),
        ("uid-offset=-10; gid-offset=0", "map=u:10:0:4294967285,map=g:0:0:4294967295"),
    ] {
        assert_eq!(options(given).unwrap().describe(), wanted, "{given}");
    }
}

#[test]
fn options_are_refused_with_the_way_out() {
    use Code::{Conflict, Lost, Name, Overlap, Spelling, Value};
    for (given, code, wanted) in [
        (
            "map=1:2",
            Value,
            "option map: extent `1:2`: not disk:view:count in plain decimal numbers",
        ),
        ("map=1:2:0", Value, "`1:2:0`: the count is 0"),
        ("map=1:2:+3", Value, "plain decimal"),
        ("map=x:1:2:3", Value, "[u:|g:]disk:view:count"),
        ("map=4294967295:0:1", Value, "4294967295, which is no id"),
        ("map=4294967290:0:6", Value, "wraps around"),
        ("map=0:0:4294967296", Value, "more than 32 bits"),
        (
            "map=0:100:10; map=5:200:1",
            Overlap,
            "`u:5:200:1` overlaps `u:0:100:10` (option map): both have disk uid 5",
        ),
        ("map=u:0:100:10; map=u:20:105:1", Overlap, "both have view uid 105"),
        ("map=g:20:105:1; map=g:0:100:10", Overlap, "`g:0:100:10` overlaps `g:20:105:1`"),
        ("map=0:1:1; present-as=5", Conflict, "--unmapped present-as="),
        (
            "uidmapping=0:1:1; force-user=5",
            Conflict,
            "option force-user: excludes option uidmapping",
        ),
        ("map=g:0:1:1; present-as=g:5", Conflict, "option present-as: excludes option map"),
        ("present-as=5; unmapped=present-as=6", Conflict, "nothing is left to be unmapped"),
        ("present-as=5; force-user=6", Conflict, "said before by option present-as"),
        ("present-as=5; present-as=6", Conflict, "given twice"),
        ("present-as", Value, "needs a value"),
        ("squash_to_root=1", Value, "takes no value"),
        ("present-as=bob", Name, "unknown user `bob`"),
        ("present-as=1000:nobody", Name, "unknown group `nobody`"),
        ("present-as=+1", Value, "`+1` is not a user"),
        ("present-as=01", Value, "`01` is not a user id"),
        ("present-as=4294967295", Value, "plain decimal numbers from 0 to 4294967294"),
        ("present-as=99999999999999", Value, "not a user id"),
        ("present-as=broken", Value, "not a user id"),
        ("present-as=0x10", Name, "unknown user `0x10`"),
        ("present-as=", Value, "no user given"),
        ("present-as=:100", Value, "no user given"),
        ("present-as=alice:", Value, "no group given"),
        ("present-as=1:2:3", Value, "`2:3` is not a group"),
        ("store-as=5:\u{1b}[31m", Value, "\\u{1b}[31m"),
        ("unmapped=keep", Value, "write refuse or present-as="),
        ("map=0:10:1; store-as=7", Lost, "new files of disk uid 7 would be shown as unmapped"),
        ("map=bob/alice", Name, "option map: unknown user `bob`"),
        ("map=1/2:3", Value, "`3` is no pair of users or of groups"),
        ("map=@1/2", Value, "write DISKUSER/VIEWUSER, @DISKGROUP/@VIEWGROUP"),
        ("map=1/2:1/3", Overlap, "both have disk uid 1"),
        ("map=1/3:2/3", Overlap, "both have view uid 3"),
        ("map=1/2; map=u:0:100000:9", Overlap, "both have disk uid"),
        ("delete-deny=1", Value, "takes no value"),
        ("perms=u+s", Value, "are never set"),
        ("perms=0644; perms=0600", Conflict, "said before by option perms"),
        ("create-as-mounter", Spelling, "write store-as=USER:GROUP"),
        ("hide-hard-links", Spelling, "option hide-hard-links: is not there"),
        ("resolve-symlinks", Spelling, "the server follows no link"),
        ("uidmap=0:1:2", Spelling, "write map=u:disk:view:count"),
        ("map-users=0:1:2", Spelling, "map=u:disk:view:count"),
        ("mirror=bob", Name, "option mirror: unknown user `bob`"),
        ("mirror=alice:@", Value, "no group given"),
        ("mirror=alice:1000", Conflict, "`1000` is in the list already, by option mirror"),
        ("mirror=", Value, "no user given"),
        ("mirror=4294967295", Value, "not a user id"),
        ("uidmapping=0:1", Value, "extent `0:1`"),
        ("uidmapping=0:1:2:3", Value, "extent `0:1:2:3`"),
        ("X-mount.idmap=/proc/1/ns/user", Spelling, "user namespace"),
        ("X-mount.idmap=", Value, "extent ``"),
        ("squash_to_uid=alice", Value, "plain decimal"),
        ("uid-offset=+5", Value, "not a distance"),
        ("uid-offset=--5", Value, "not a distance"),
        ("uid-offset=4294967295", Value, "not a distance"),
    ] {
        let error = options(given).expect_err(given);
        let text = error.to_string();
        assert_eq!(error.code, code, "{given}: {text}");
        assert!(text.contains(wanted), "{given}: {text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn options_beside_a_file_are_named() {
    for (name, value) in
        [("map", Some("0:1:2")), ("squash_to_root", None), ("unmapped", Some("refuse"))]
    {
        let mut options = Options::default();
        assert!(options.beside_file().is_ok());
        assert!(options.set(name, value).unwrap());
        let error = options.beside_file().unwrap_err().to_string();
        assert!(error.starts_with(&format!("option {name}: ")), "{error}");
    }
    assert!(!Options::default().set("ro", None).unwrap());
}

/// One question a row: present, store and create of one uid.
#[test]
fn decisions() {
    let none: Option<u32> = None;
    for (given, server, id, present, store, create) in [
        ("", root(), 5, Some(5), Some(5), Some(5)),
        ("", root(), 65_534, Some(65_534), Some(65_534), Some(65_534)),
        ("map=0:100000:10", root(), 0, Some(100_000), none, none),
        ("map=0:100000:10", root(), 100_009, none, Some(9), Some(9)),
        ("map=0:100000:10", root(), 65_534, none, none, none),
        ("map=g:0:100000:10", root(), 7, Some(7), Some(7), Some(7)),
        // The collapse: anybody may create, only the one shown can be stored.
        ("present-as=33", root(), 5, Some(33), none, Some(33)),
        ("present-as=33", root(), 33, Some(33), Some(33), Some(33)),
        ("present-as=33", alice(), 5, Some(33), none, Some(1000)),
        ("present-as=33", alice(), 33, Some(33), Some(1000), Some(1000)),
        ("present-as=33; store-as=7", alice(), 33, Some(33), Some(7), Some(7)),
        ("present-as=33; store-as=7", root(), 7, Some(33), none, Some(7)),
        // New files belong to store-as; chown goes by what is shown.
        ("store-as=7", root(), 5, Some(5), Some(5), Some(7)),
        ("map=0:10:5; store-as=4", root(), 10, none, Some(0), Some(4)),
        ("map=0:10:5; store-as=4", root(), 99, none, none, Some(4)),
        // An alias is shown, never stored.
        ("map=0:10:5; unmapped=present-as=99", root(), 99, Some(99), none, none),
        ("map=0:10:5; unmapped=present-as=12", root(), 12, Some(12), Some(2), Some(2)),
    ] {
        let policy = pipeline(given, &server);
        let found = (
            Translate::<User>::present(&policy, Some(disk(id))).map(Id::raw),
            Translate::<User>::store(&policy, view(id)).map(Id::raw),
            Translate::<User>::create(&policy, view(id)).map(Id::raw),
        );
        assert_eq!(found, (present, store, create), "{given} of {id}");
    }
}

#[test]
fn ids_that_the_server_cannot_name() {
    for (given, wanted) in [
        ("", None),
        ("map=0:10:5", None),
        ("present-as=33", Some(33)),
        ("unmapped=present-as=99", Some(99)),
        ("map=0:10:5; unmapped=present-as=99", Some(99)),
    ] {
        let policy = pipeline(given, &root());
        assert_eq!(Translate::<User>::present(&policy, None).map(Id::raw), wanted, "{given}");
        assert_eq!(Translate::<Group>::present(&policy, None).map(Id::raw), wanted, "{given}");
    }
}

#[test]
fn a_collapse_must_know_whose_new_files_are() {
    for (ids, server, wanted) in [
        ("map = ['0:10:5']\ncollapse = { present-as = 12 }", root(), None),
        (
            "map = ['0:10:5']\ncollapse = { present-as = 33 }",
            root(),
            Some("p.toml:4:27: no disk uid is mapped to the present-as uid 33 (say with store-as"),
        ),
        ("table = ['7:12']\ncollapse = { present-as = 12 }", root(), None),
        (
            "table = ['7:12']\ncollapse = { present-as = 33 }",
            root(),
            Some("no disk uid is mapped to the present-as uid 33"),
        ),
        ("map = ['0:10:5']\ncollapse = { present-as = 33 }", alice(), None),
        (
            "map = ['1000:0:1']\ncollapse = { present-as = 33 }",
            alice(),
            Some("new files would belong to disk uid 1000, which is shown as 0, not as 33"),
        ),
        ("map = ['1000:0:1']\ncollapse = { present-as = 33, store-as = 1000 }", alice(), None),
    ] {
        let text = format!("version = 1\n[ids]\n{ids}\n");
        let built = file::parse("p.toml", &text, &Host).unwrap().build(&server);
        match wanted {
            None => assert!(built.is_ok(), "{ids}: {:?}", built.err()),
            Some(wanted) => {
                let error = built.unwrap_err().to_string();
                assert!(error.contains(wanted), "{ids}: {error}");
            }
        }
    }
}

#[test]
fn files_say_what_options_say() {
    for (ids, same) in [
        ("", ""),
        ("[ids]", ""),
        ("rules = []\nchanges = {}", ""),
        ("[ids]\nmap = ['0:100000:65536']", "map=0:100000:65536"),
        ("[ids]\nmap = ['g:5:6:1', 'u:1:2:3']", "map=u:1:2:3; map=g:5:6:1"),
        ("[ids.collapse]\npresent-as = 1000", "present-as=1000"),
        ("ids.collapse.present-as = 'alice'", "present-as=alice"),
        (
            "[ids]\ncollapse = { present-as = 'www-data', store-as = 'alice:users' }",
            "present-as=www-data; store-as=alice:users",
        ),
        ("[ids]\nunmapped = 'refuse'", ""),
        ("[callers]", ""),
        ("[callers]\nothers = 'normal'", ""),
        ("[callers]\nmirror = ['alice', '@staff', 7]", "mirror=7:1000:@50"),
        ("callers = { mirror = ['@staff'], others = 'refuse' }", "mirror-only=@50"),
        (
            "[ids]\nmap = ['0:1:2']\nunmapped = 'present-as=g:5'",
            "map=0:1:2; unmapped=present-as=g:5",
        ),
    ] {
        let spec = file::parse("p.toml", &format!("version = 1\n{ids}\n"), &Host).unwrap();
        assert_eq!(spec, options(same).unwrap(), "{ids}");
        assert_eq!(spec.describe(), options(same).unwrap().describe());
    }
    let table = "version = 1\nids.table = ['u:www-data:alice', 'g:users:0', '7:8']";
    let spec = file::parse("p.toml", table, &Host).unwrap();
    assert_eq!(spec.describe(), "table=u:7:8,table=u:33:1000,table=g:7:8,table=g:100:0");
    assert!(!spec.is_identity());
}

#[test]
fn files_are_refused_with_their_place() {
    use Code::{Conflict, Key, Name, Overlap, Syntax, Value, Version};
    for (text, code, wanted) in [
        ("", Version, "p.toml:1:1: no version (write `version = 1` at the top)"),
        ("version = 2\nnew = 5", Version, "p.toml:1:11: version `2` is not supported"),
        ("version = +1", Version, "version `+1`"),
        ("version = '1'", Version, "version `'1'`"),
        ("version = 1\n[id]\n", Key, "p.toml:2:2: unknown key `id` (did you mean ids?)"),
        (
            "version = 1\n[ids]\nmapp = []",
            Key,
            "p.toml:3:1: unknown key `mapp` (did you mean map?)",
        ),
        ("version = 1\n[ids]\nzzz = []", Key, "known here: map, table, names, prefix, collapse"),
        (
            "version = 1\nids.collapse.present_as = 1",
            Key,
            "2:14: unknown key `present_as` (did you mean present-as?)",
        ),
        ("version = 1\n[ids]\nmap = '0:1:2'", Syntax, "p.toml:3:7: invalid type: string"),
        (
            "version = 1\n[ids]\nmap = [\n  '0:1:2',\n  '\u{e9}' , '5:6:0']",
            Value,
            "p.toml:5:3: extent `\u{e9}`",
        ),
        ("version = 1\n[ids]\nmap = [1.5]", Syntax, "a string or a plain decimal number"),
        (
            "version = 1\n[ids]\nmap = ['0:1:2',\n'1:9:1']",
            Overlap,
            "p.toml:4:1: `u:1:9:1` overlaps `u:0:1:2` (p.toml:3:8): both have disk uid 1",
        ),
        (
            "version = 1\n[ids]\nmap = ['0:1:2']\ntable = ['g:7:1']",
            Overlap,
            "`g:7:1` overlaps `g:0:1:2`",
        ),
        (
            "version = 1\n[callers]\nmirrors = []",
            Key,
            "p.toml:3:1: unknown key `mirrors` (did you mean mirror?)",
        ),
        ("version = 1\n[caller]\n", Key, "(did you mean callers?)"),
        ("version = 1\n[callers]\nmirror = []", Value, "`mirror` is empty"),
        ("version = 1\n[callers]\nmirror = 'alice'", Syntax, "p.toml:3:10: invalid type: string"),
        ("version = 1\n[callers]\nmirror = ['bob']", Name, "p.toml:3:11: unknown user `bob`"),
        (
            "version = 1\n[callers]\nmirror = [7,\n'7']",
            Conflict,
            "p.toml:4:1: `7` is in the list already, by p.toml:3:11",
        ),
        (
            "version = 1\n[callers]\nmirror = [7]\nothers = 'refused'",
            Value,
            "p.toml:4:10: `refused` is not a way to treat other callers (did you mean refuse?)",
        ),
        (
            "version = 1\n[callers]\nothers = 'refuse'",
            Value,
            "p.toml:3:10: nobody but root would get in (list in `mirror` who is to get in)",
        ),
        ("version = 1\n[ids]\nmap = []", Value, "`map` is empty"),
        ("version = 1\n[ids]\ntable = ['alice:33']", Value, "a name needs u: or g:"),
        ("version = 1\n[ids]\ntable = ['u:bob:33']", Name, "unknown user `bob`"),
        ("version = 1\n[ids]\ntable = ['u:1:2:3']", Value, "not disk:view"),
        ("version = 1\nids.collapse = {}", Value, "2:16: `collapse` says nothing"),
        ("version = 1\nids.collapse.present-as = +5", Value, "`+5` is not a plain decimal"),
        ("version = 1\nids.collapse.present-as = 0x5", Value, "`0x5` is not a plain decimal"),
        ("version = 1\nids.collapse.present-as = 1_000", Value, "`1_000` is not a plain decimal"),
        ("version = 1\nids.collapse.present-as = -5", Value, "`-5` is not a plain decimal"),
        (
            "version = 1\nids.collapse.present-as = 1\nids.unmapped = 'present-as=5'",
            Conflict,
            "present-as at p.toml:2:27",
        ),
        ("version = 1\nrules = 5", Syntax, "p.toml:2:9: invalid type: integer"),
        ("version = 1\n[ids", Syntax, "p.toml:2:5: "),
        ("version = 1\nversion = 1", Syntax, "p.toml:2:1: duplicate key"),
        ("version = 1\nids.unmapped = 'a\u{7}'", Syntax, "p.toml:2:"),
        ("version = 1\nids.unmapped = \"a\\u001b[0m\"", Value, "`a\\u{1b}[0m`"),
    ] {
        let error = file::parse("p.toml", text, &Host).expect_err(text);
        let shown = error.to_string();
        assert_eq!(error.code, code, "{text}: {shown}");
        assert!(shown.contains(wanted), "{text}: {shown}");
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}

#[test]
fn only_a_mirror_depends_on_the_caller() {
    for (given, caller) in [
        ("", false),
        ("map=0:100000:10", false),
        ("present-as=33; store-as=1", false),
        ("mirror=7", true),
        ("mirror=@7", true),
        ("mirror-only=7; map=0:10:5", true),
    ] {
        let policy = pipeline(given, &root());
        assert_eq!(policy.inputs().caller, caller, "{given}");
        assert_eq!(policy.callers().is_empty(), !caller, "{given}");
    }
}

#[test]
fn large_and_deep_files_are_bounded() {
    let mut text = String::from("version = 1");
    text.push_str(&" ".repeat(file::MAX_BYTES - text.len()));
    assert!(file::parse("p.toml", &text, &Host).unwrap().is_identity());
    text.push(' ');
    let error = file::parse("p.toml", &text, &Host).unwrap_err();
    assert_eq!(error.code, Code::Limit);

    for (before, deeper, after) in [
        ("version = 1\nids.map = ", "[", ""),
        ("version = 1\nids.map = ", "{a = ", ""),
        ("version = 1\nids", ".a", " = 1"),
        ("version = 1\n[ids", ".a", "]"),
        ("version = 1\n[[rules", ".a", "]]"),
        ("version = 1\n", "[", ""),
    ] {
        let text = format!("{before}{}{after}", deeper.repeat(100_000));
        let error = file::parse("p.toml", &text, &Host).expect_err(deeper).to_string();
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn the_presentable_ids_are_ranges_that_do_not_touch() {
    for (given, users) in [
        ("", vec![(0, 4_294_967_295)]),
        ("map=0:100:10; map=10:110:5; map=20:200:1", vec![(100, 15), (200, 1)]),
        ("map=0:100:10; unmapped=present-as=105", vec![(100, 10)]),
        ("map=0:100:10; unmapped=present-as=110", vec![(100, 11)]),
        ("map=0:100:10; unmapped=present-as=99", vec![(99, 11)]),
        ("present-as=33", vec![(33, 1)]),
        ("store-as=33", vec![(0, 4_294_967_295)]),
        ("map=0:4294967294:1", vec![(4_294_967_294, 1)]),
    ] {
        let policy = pipeline(given, &root());
        assert_eq!(policy.presentable_users(), users, "{given}");
        assert_eq!(policy.presentable_groups(), users, "{given}");
    }
}
