//! Ids by name: which pairs there are, which stage has them, and what is said.

use idmapfs::acl::{self, Acl, Capability, Tag};
use idmapfs::id::{Disk, Group, Id, Ids, Kind, Owner, Side, User, View};
use idmapfs::policy::check::{Severity, check_file};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Code, Pipeline, Policy, PolicyError, Server, Spec, Translate, file};

use super::host::Host;

fn root() -> Server {
    Server { ids: Ids::new(0, 0).unwrap(), privileged: true }
}

fn parsed(ids: &str) -> Result<Spec, PolicyError> {
    file::parse("p.toml", &format!("version = 1\n[ids]\n{ids}\n"), &Host)
}

fn policy(ids: &str) -> Pipeline {
    parsed(ids).unwrap().build(&root()).unwrap()
}

fn options(text: &str) -> Result<Spec, PolicyError> {
    let mut options = Options::default();
    for word in text.split("; ") {
        let (name, value) = word.split_once('=').unwrap();
        assert!(options.set(name, Some(value))?);
    }
    Spec::from_options(&options, &Host)
}

fn shown<K: Kind>(policy: &Pipeline, disk: u32) -> Option<u32>
where
    Pipeline: Translate<K>,
{
    Translate::<K>::present(policy, Id::new(disk)).map(Id::raw)
}

fn stored<K: Kind>(policy: &Pipeline, view: u32) -> Option<u32>
where
    Pipeline: Translate<K>,
{
    Translate::<K>::store(policy, Id::new(view).unwrap()).map(Id::raw)
}

const SOURCE: &str = "names = { disk = 'source', view = 'host' }";

#[test]
fn ids_with_a_name_on_both_sides_pair_up() {
    let policy = policy(SOURCE);
    for (disk, view) in [
        (0, Some(0)),
        (101, Some(33)),
        (1001, Some(1000)),
        // The first entry counts; a name of one side alone is nothing.
        (102, None),
        (105, None),
        (33, None),
        (1000, None),
        (77, None),
    ] {
        assert_eq!(shown::<User>(&policy, disk), view, "uid {disk}");
        if let Some(view) = view {
            assert_eq!(stored::<User>(&policy, view), Some(disk), "uid {view}");
        }
    }
    for (disk, view) in [(0, Some(0)), (20, Some(50)), (101, Some(33)), (33, None)] {
        assert_eq!(shown::<Group>(&policy, disk), view, "gid {disk}");
    }
    for view in [101, 102, 5, 70_033] {
        assert_eq!(stored::<User>(&policy, view), None, "{view}");
    }
    assert_eq!(policy.presentable_users(), [(0, 1), (33, 1), (1000, 1)]);
}

#[test]
fn sides_come_from_the_host_files_or_the_policy() {
    let users = "users = { www-data = 33, alice = 1000, bob = 1000 }";
    for (names, asked, view) in [
        ("disk = 'source'\nview = 'host'", 101, Some(33)),
        ("disk = { passwd = 'source:etc/passwd' }\nview = 'host'", 101, Some(33)),
        ("disk = { passwd = 'source:/etc/passwd' }\nview = 'host'", 101, Some(33)),
        ("disk = { passwd = '/srv/passwd' }\nview = 'host'", 5, Some(1000)),
        (&format!("disk = 'source'\nview = {{ {users} }}"), 1001, Some(1000)),
        ("disk = { users = { alice = 7 } }\nview = 'host'", 7, Some(1000)),
        ("disk = 'host'\nview = { users = { alice = 7 } }", 1000, Some(7)),
        ("disk.users.alice = 7\nview.users.alice = 8", 7, Some(8)),
        // The first entry with an id counts, in the order of the file.
        ("disk.users = { z = 7, a = 7 }\nview.users = { a = 8, z = 9 }", 7, Some(9)),
        // A name that the host knows and does not list.
        ("disk.groups = { users = 7 }\nview = 'host'", 7, None),
    ] {
        let text = format!("version = 1\n[ids.names]\n{names}\n");
        let spec = file::parse("p.toml", &text, &Host).unwrap_or_else(|e| panic!("{e}"));
        let policy = spec.build(&root()).unwrap();
        let of = if names.contains("groups") { Some(7) } else { view };
        assert_eq!(shown::<User>(&policy, asked), of, "{names}");
    }
    let unlisted = policy("names.disk.groups = { users = 7 }\nnames.view = 'host'");
    assert_eq!(shown::<Group>(&unlisted, 7), Some(100));
    // Without a list of users on both sides users are what they are.
    assert_eq!(shown::<User>(&unlisted, 7), Some(7));
}

#[test]
fn a_prefix_stands_before_the_names_on_disk() {
    for ids in ["prefix = 'alice.web.'", "prefix = { prefix = 'alice.web.' }"] {
        let policy = policy(ids);
        assert_eq!(shown::<User>(&policy, 70_033), Some(33));
        assert_eq!(stored::<User>(&policy, 33), Some(70_033));
        assert_eq!(shown::<Group>(&policy, 70_050), Some(50));
        // Others are nobody, on both sides.
        assert_eq!(shown::<User>(&policy, 33), None);
        assert_eq!(stored::<User>(&policy, 1000), None);
        assert_eq!(policy.spec().describe(), "prefix=alice.web.");
    }
    // A line of a log stays one line.
    assert_eq!(policy("prefix = '\u{2028}'").spec().describe(), "prefix=\\u{2028}");
    let inline = "prefix = { prefix = 'x-', names = { users = { x-a = 5, a = 6, x- = 7 } } }";
    let policy = policy(inline);
    assert_eq!(shown::<User>(&policy, 5), Some(6));
    assert_eq!(shown::<User>(&policy, 7), None);
    assert_eq!(shown::<Group>(&policy, 7), Some(7));
}

/// Whatever comes first in the file has its ids on both sides.
#[test]
fn stages_are_asked_in_the_order_written() {
    let names =
        "names = { disk = { users = { a = 1, b = 2 } }, view = { users = { a = 11, b = 12 } } }";
    let (map, table) = ("map = ['u:0:0:100']", "table = ['u:1:21', 'u:5:12']");
    let prefix =
        "prefix = { prefix = 'p.', names = { users = { 'p.x' = 1, x = 31, 'p.y' = 9, y = 11 } } }";
    for (ids, answers) in [
        (vec![names, map], [(1, Some(11)), (2, Some(12)), (3, Some(3)), (11, None), (12, None)]),
        (vec![map, names], [(1, Some(1)), (2, Some(2)), (3, Some(3)), (11, Some(11)), (200, None)]),
        (vec![names, table], [(1, Some(11)), (2, Some(12)), (5, None), (3, None), (9, None)]),
        (vec![table, names], [(1, Some(21)), (2, None), (5, Some(12)), (3, None), (9, None)]),
        (vec![prefix, names], [(1, Some(31)), (9, Some(11)), (2, Some(12)), (3, None), (31, None)]),
        (vec![names, prefix], [(1, Some(11)), (9, None), (2, Some(12)), (3, None), (31, None)]),
    ] {
        let policy = policy(&ids.join("\n"));
        for (disk, view) in answers {
            assert_eq!(shown::<User>(&policy, disk), view, "{ids:?}: {disk}");
            if let Some(view) = view {
                assert_eq!(stored::<User>(&policy, view), Some(disk), "{ids:?}: {disk}");
            }
        }
    }
    // Sections, and keys with dots, stand where they stand.
    let sections = "version = 1\n[ids.prefix]\nprefix = 'alice.web.'\n[ids.names]\n\
                    disk = 'source'\nview = 'host'\n[ids]\nmap = ['5:6:7']\n";
    let wanted = "prefix=alice.web.,names=disk=source,names=view=host,map=5:6:7";
    assert_eq!(file::parse("p.toml", sections, &Host).unwrap().describe(), wanted);
    let dotted = "names.disk = 'source'\ntable = ['5:6']\nnames.view = 'host'\nmap = ['7:8:9']";
    let wanted = "names=disk=source,names=view=host,map=7:8:9,table=5:6";
    assert_eq!(parsed(dotted).unwrap().describe(), wanted);
}

#[test]
fn the_rest_goes_to_a_collapse_or_an_alias() {
    let policy = policy(&format!("{SOURCE}\ncollapse = {{ present-as = 'u:1000' }}"));
    assert_eq!(shown::<User>(&policy, 105), Some(1000));
    assert_eq!(shown::<User>(&policy, 101), Some(33));
    // Alice's files are alice's, and new files of others are hers too.
    assert_eq!(stored::<User>(&policy, 1000), Some(1001));
    let create = Translate::<User>::create(&policy, Id::new(5).unwrap());
    assert_eq!(create.map(Id::raw), Some(1001));
    let alias = parsed(&format!("{SOURCE}\nunmapped = 'present-as=u:65533'")).unwrap();
    let alias = alias.build(&root()).unwrap();
    assert_eq!((shown::<User>(&alias, 105), stored::<User>(&alias, 65_533)), (Some(65_533), None));
    let lost = parsed(&format!("{SOURCE}\ncollapse = {{ store-as = 'u:105' }}")).unwrap_err();
    assert_eq!(lost.code, Code::Lost, "{lost}");
}

#[test]
fn options_say_what_files_say() {
    for (given, ids) in [
        ("names=disk=source; names=view=host", SOURCE),
        ("names=view=host; names=disk=source", SOURCE),
        ("prefix=alice.web.", "prefix = 'alice.web.'"),
        (
            "prefix=alice.web.; names=view=host; names=disk=/srv/passwd; map=u:5000:5000:1",
            "prefix = 'alice.web.'\n\
             names = { disk = { passwd = '/srv/passwd' }, view = 'host' }\n\
             map = ['u:5000:5000:1']",
        ),
        (
            "names=view=host; uid-offset=0; prefix=alice.web.; names=disk=source",
            "names = { disk = 'source', view = 'host' }\n\
             map = ['u:0:0:4294967295']\nprefix = 'alice.web.'",
        ),
    ] {
        let (ours, file) = (options(given).unwrap(), parsed(ids).unwrap());
        assert_eq!(ours, file, "{given}");
        assert!(!file.is_identity());
    }
    use Code::{Conflict, File, Value};
    for (given, code, wanted) in [
        ("names=disk=source", Value, "says nothing of the view (add --names view=host"),
        ("names=view=host", Value, "says nothing of the disk"),
        ("names=disk=host; names=disk=source", Conflict, "the disk's names are given twice"),
        ("names=both=host", Value, "names neither disk nor view"),
        ("names=disk=/a:/b:/c; names=view=host", Value, "more than two paths"),
        ("names=disk=/none; names=view=host", File, "/none: No such file or directory"),
        ("map-passwd=/x", Code::File, "/x: No such file"),
        ("map-passwd=x", Code::Value, "an absolute path of this host"),
        ("map-group=/srv/passwd; map-group-rev=/srv/passwd", Code::Conflict, "are given twice"),
        (
            "names=disk=host; names=view=host; map-passwd=/srv/passwd",
            Code::Conflict,
            "option map-passwd: the names of one kind are given twice",
        ),
        ("prefix=", Value, "is not how a name can begin"),
        ("prefix=+x", Value, "is not how a name can begin"),
        ("prefix=a; prefix=b", Conflict, "given twice"),
    ] {
        let error = options(given).expect_err(given);
        assert!(error.to_string().contains(wanted), "{given}: {error}");
        assert_eq!(error.code, code, "{given}: {error}");
    }
}

#[test]
fn files_are_refused_with_their_place() {
    use Code::{Conflict, File, Key, Syntax, Value};
    for (ids, code, wanted) in [
        ("names = 'host'", Syntax, "p.toml:3:9: "),
        ("names = { disk = 'host' }", Value, "3:9: `names` says nothing of the view"),
        ("names = { dsk = 'host' }", Key, "3:11: unknown key `dsk` (did you mean disk?)"),
        (
            "names = { disk = 'hots' }",
            Value,
            "3:18: `hots` is no list of names (did you mean host?)",
        ),
        ("names.disk = 5", Syntax, "3:14: invalid type: integer `5`, expected a string or a table"),
        ("names.disk = {}", Value, "3:14: `disk` names no list"),
        (
            "names.disk = { password = '/x' }",
            Key,
            "3:16: unknown key `password` (did you mean passwd?)",
        ),
        ("names.disk = { passwd = 'etc/passwd' }", Value, "3:25: `etc/passwd` is not the path"),
        ("names.disk = { passwd = 'source:' }", Value, "source:PATH for one in the source"),
        ("names.disk = { passwd = '/x', users = {} }", Conflict, "3:39: `users` stands beside"),
        ("names.disk = { group = ['/x'] }", Syntax, "3:24: "),
        ("names.disk = { users = { a = -1 } }", Value, "3:30: `-1` is not a plain decimal"),
        ("names.disk = { users = { a = '01' } }", Value, "3:30: `01` is not an id"),
        ("names.disk = { users = { a = 4294967295 } }", Value, "is not an id"),
        ("names.disk = { users = { '' = 1 } }", Value, "3:26: `` is no name of a user or group"),
        ("names.disk = { users = { '-a' = 1 } }", Value, "3:26: `-a` is no name"),
        ("names.disk = { users = { a = 1, a = 2 } }", Syntax, "3:33: duplicate key"),
        (
            "names = { disk = { passwd = '/none' }, view = 'host' }",
            File,
            "3:9: /none: No such file",
        ),
        ("prefix = ''", Value, "3:10: `` is not how a name can begin"),
        ("prefix = {}", Value, "3:10: there is no prefix"),
        ("prefix = { prefx = 'a' }", Key, "3:12: unknown key `prefx` (did you mean prefix?)"),
        ("prefix = { prefix = 'a:b' }", Value, "3:21: `a:b` is not how"),
        ("prefixes = 'a'", Key, "did you mean prefix?"),
    ] {
        let error = parsed(ids).expect_err(ids);
        let text = error.to_string();
        assert_eq!(error.code, code, "{ids}: {text}");
        assert!(text.starts_with("p.toml:3:") && text.contains(wanted), "{ids}: {text}");
    }
}

#[test]
fn decisions_tell_the_name() {
    let ids = format!("{SOURCE}\nprefix = 'alice.web.'\nmap = ['0:0:100000']");
    let policy = policy(&ids);
    let present = |id| policy.explain_owner(Owner { uid: Id::new(id), gid: Id::new(id) });
    for ([uid, _], wanted) in [
        (
            present(101),
            "disk uid 101 is shown as uid 33\n  \
             names: user www-data is disk uid 101 and view uid 33 (p.toml:3:9)\n",
        ),
        (
            present(7),
            "disk uid 7 is shown as uid 7\n  names: its name is not on both sides, or it has none\n  \
             prefix: it has no name that the prefix pairs up\n  \
             map: in extent u:0:0:100000 (p.toml:5:8)\n",
        ),
        (
            present(33),
            "disk uid 33 is unmapped: shown as the overflow id\n  \
             names: its name is not on both sides, or it has none\n  \
             prefix: it has no name that the prefix pairs up\n  \
             map: u:33:33 fell away: an earlier stage has view uid 33\n  \
             unmapped: no counterpart: shown as the overflow id\n",
        ),
    ] {
        assert_eq!(uid.to_string(), wanted);
    }
    let policy = self::policy("prefix = 'alice.web.'");
    let [uid, _] = policy.explain_owner(Owner { uid: Id::new(70_033), gid: Id::new(5) });
    assert_eq!(
        uid.to_string(),
        "disk uid 70033 is shown as uid 33\n  \
         prefix: disk user alice.web.www-data, uid 70033, is www-data, view uid 33 (p.toml:3:10)\n"
    );
    let [_, gid] = policy.explain_store(Ids::<View>::new(50, 50).unwrap());
    assert_eq!(
        serde_json::to_string(&gid.reasons).unwrap(),
        r#"[{"stage":"prefix","text":"disk group alice.web.staff, gid 70050, is staff, view gid 50","rule":"g:70050:50","at":"p.toml:3:10"}]"#
    );
}

#[test]
fn findings_tell_what_is_odd_about_names() {
    use Severity::{Note, Warning};
    let hole = "disk user postgres: no such name in the view";
    let skipped =
        "1 line of source:etc/passwd is malformed, 1 line of source:etc/passwd asks for NIS";
    let twice = "the disk's list has user `httpd` with uid 101 beside an earlier entry of that \
                 name or uid, the first of 2 such entries";
    for (ids, wanted) in [
        (
            SOURCE.to_owned(),
            vec![
                (Warning, "skipped", skipped),
                (Warning, "duplicate", twice),
                (Note, "hole", hole),
            ],
        ),
        (
            "names = { disk = { users = { a = 1 } }, view = { users = { a = 2, b = 2, a2 = 3 } } }"
                .to_owned(),
            vec![
                (Warning, "one-kind", "groups are shown as they are"),
                (Warning, "duplicate", "the view's list has user `b` with uid 2"),
            ],
        ),
        (
            "names = { disk = { passwd = 'source:x' }, view = 'host' }".to_owned(),
            vec![
                (Warning, "one-kind", "groups are"),
                (Note, "unread", "source:x was not looked at"),
            ],
        ),
        (
            "prefix = 'nobody.'".to_owned(),
            vec![
                (Warning, "dead", "no user has its name on both sides"),
                (Warning, "dead", "no group has its name on both sides"),
            ],
        ),
        (
            "names.disk = { users = { a = 1, b = 2, c = 3, d = 4, e = 5 } }\n\
             names.view = { users = { a = 0, b = 6 } }\ntable = ['u:2:9', 'u:7:6', 'u:8:8']"
                .to_owned(),
            vec![
                (Warning, "one-kind", "groups are"),
                (Note, "hole", "disk users c, d, e: no such name"),
                (Note, "shadowed", "2 pairs of table fall away, the first is u:2:9"),
                (Warning, "root", "disk uid 1 is shown as root"),
            ],
        ),
        (
            "names = { disk = { users = { a = 5 } }, view = { users = { a = 6 } } }\n\
             collapse = { present-as = 'u:6', store-as = 'u:5' }"
                .to_owned(),
            vec![
                (Warning, "one-kind", "groups are"),
                (Warning, "alias", "uid 6 has files of its own"),
            ],
        ),
    ] {
        let found = check_file("p.toml", &format!("version = 1\n[ids]\n{ids}\n"), &Host);
        assert_eq!(found.len(), wanted.len(), "{ids}: {found:#?}");
        for (finding, (severity, code, what)) in found.iter().zip(wanted) {
            let text = finding.to_string();
            assert!(
                text.contains(&format!(": {severity}[{code}]: ")) && text.contains(what),
                "{ids}: {text}"
            );
            assert!(text.starts_with("p.toml:"), "{text}");
        }
    }
}

/// ACLs name people, and capabilities a root: they go the way of owners.
#[test]
fn acl_entries_and_rootids_go_by_name_too() {
    let policy = policy(SOURCE);
    let policy: &dyn Policy = &policy;
    fn acl<S: Side>(user: u32, group: u32) -> Acl<S> {
        let tags = [
            Tag::UserObj,
            Tag::User(Id::new(user)),
            Tag::GroupObj,
            Tag::Group(Id::new(group)),
            Tag::Mask,
            Tag::Other,
        ];
        Acl::new(tags.map(|tag| acl::Entry { tag, perm: 6 }).to_vec()).unwrap()
    }
    let disk: Acl<Disk> = acl(1001, 20);
    assert_eq!(disk.present(policy), acl(1000, 50));
    assert_eq!(disk.present(policy).store(policy).unwrap(), disk);
    assert!(acl::<View>(1001, 50).store(policy).is_err());

    let mut on_disk = Capability::<Disk> {
        rootid: Id::new(101),
        effective: true,
        permitted: 1,
        inheritable: 0,
        names_root: false,
    };
    assert_eq!(on_disk.present(policy).rootid, Id::new(33));
    assert_eq!(on_disk.present(policy).store(policy).unwrap(), on_disk);
    on_disk.rootid = Id::new(105);
    assert_eq!(on_disk.present(policy).rootid, None);
}
