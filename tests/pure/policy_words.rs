//! What `explain` and `check` say.

use idmapfs::id::{Disk, Id, Ids, Owner, View};
use idmapfs::policy::check::{Severity, check_file};
use idmapfs::policy::{Server, file};

use super::host::Host;

const HEAD: &str = "version = 1\n[ids]\n";

fn server() -> Server {
    Server { ids: Ids::new(1000, 100).unwrap(), privileged: false }
}

#[test]
fn decisions_come_with_their_reasons() {
    let text = "map = ['0:100000:10']\ntable = ['u:50:60']\ncollapse = { present-as = 'alice' }";
    let policy = file::parse("p.toml", &format!("{HEAD}{text}\n"), &Host).unwrap();
    let policy = policy.build(&server()).unwrap();
    let present = |id| policy.explain_owner(Owner { uid: Id::new(id), gid: Id::new(id) });
    let store = |id| policy.explain_store(Ids::<View>::new(id, id).unwrap());
    let create = |id| policy.explain_create(Ids::<View>::new(id, id).unwrap());
    for ([uid, _], wanted) in [
        (
            present(3),
            "disk uid 3 is shown as uid 100003\n  map: in extent u:0:100000:10 (p.toml:3:8)\n",
        ),
        (
            present(50),
            "disk uid 50 is shown as uid 60\n  map: no extent holds it\n  \
             table: entry u:50:60 (p.toml:4:10)\n",
        ),
        (
            present(7777),
            "disk uid 7777 is shown as uid 1000\n  map: no extent holds it\n  \
             table: no entry for it\n  \
             present-as: every other owner is shown as uid 1000 (p.toml:5:27)\n",
        ),
        (
            policy.explain_owner(Owner { uid: None, gid: None }),
            "disk uid unknown to the server is shown as uid 1000\n  \
             server: the server has no name for the disk uid\n  \
             present-as: every other owner is shown as uid 1000 (p.toml:5:27)\n",
        ),
        (
            store(1000),
            "chown to uid 1000 stores disk uid 1000\n  map: no extent holds it\n  \
             table: no entry for it\n  present-as: uid 1000 is stored as 1000 (p.toml:5:27)\n",
        ),
        (
            store(33),
            "chown to uid 33 is refused: EOVERFLOW\n  map: no extent holds it\n  \
             table: no entry for it\n  \
             present-as: it would be shown as uid 1000: refused (p.toml:5:27)\n",
        ),
        (
            create(33),
            "a file created by uid 33 belongs to disk uid 1000\n  map: no extent holds it\n  \
             table: no entry for it\n  \
             present-as: anybody may create; the file belongs to disk uid 1000 (p.toml:5:27)\n",
        ),
    ] {
        assert_eq!(uid.to_string(), wanted);
    }
}

#[test]
fn decisions_without_a_counterpart() {
    let text = "map = ['u:0:10:5']\nunmapped = 'present-as=u:99'\n[ids.collapse]\nstore-as = '3'";
    let policy = file::parse("p.toml", &format!("{HEAD}{text}\n"), &Host).unwrap();
    let policy = policy.build(&server()).unwrap();
    let [uid, gid] = policy.explain_owner(Ids::<Disk>::new(9, 9).unwrap().into());
    assert_eq!(
        uid.to_string(),
        "disk uid 9 is shown as uid 99\n  map: no extent holds it\n  \
         unmapped: no counterpart; shown as uid 99, not stored (p.toml:4:12)\n"
    );
    assert_eq!(
        gid.to_string(),
        "disk gid 9 is shown as gid 9\n  identity: no rule for gids: each is itself\n"
    );
    let [uid, _] = policy.explain_store(Ids::<View>::new(99, 99).unwrap());
    assert_eq!(
        uid.to_string(),
        "chown to uid 99 is refused: EOVERFLOW\n  map: no extent holds it\n  \
         unmapped: no counterpart: refused\n"
    );
    let [uid, _] = policy.explain_create(Ids::<View>::new(99, 99).unwrap());
    assert_eq!(
        uid.to_string(),
        "a file created by uid 99 belongs to disk uid 3\n  \
         store-as: whatever callers create belongs to disk uid 3 (p.toml:6:12)\n"
    );
}

#[test]
fn decisions_for_a_caller_name_its_mirror() {
    let text = "version = 1\n[ids]\nmap = ['0:100000:10']\n[callers]\nmirror = [7, '@50']\n";
    let policy = file::parse("p.toml", text, &Host).unwrap();
    let policy = policy.build(&server()).unwrap();
    let disk = Ids::<Disk>::new(3, 3).unwrap().into();
    let to = |uid, gid| policy.explain_owner_to(disk, Ids::<View>::new(uid, gid).unwrap());
    let group = "disk gid 3 is shown as gid 100003\n  map: in extent g:0:100000:10 (p.toml:3:8)\n";
    for ((uid, gid), shown, last) in [
        ((7, 8), "7", "  mirror: uid 7 sees every file as its own (p.toml:5:11)\n"),
        ((8, 50), "8", "  mirror: uid 8 sees every file as its own (p.toml:5:14)\n"),
        ((50, 8), "100003", ""),
    ] {
        let [user, groups] = to(uid, gid);
        assert_eq!(
            user.to_string(),
            format!(
                "disk uid 3 is shown as uid {shown}\n  \
                 map: in extent u:0:100000:10 (p.toml:3:8)\n{last}"
            )
        );
        assert_eq!(groups.to_string(), group);
    }
}

#[test]
fn decisions_are_plain_data() {
    let policy = file::parse("p.toml", &format!("{HEAD}map = ['0:10:5']\n"), &Host).unwrap();
    let policy = policy.build(&server()).unwrap();
    let [uid, _] = policy.explain_owner(Ids::<Disk>::new(1, 1).unwrap().into());
    assert_eq!(
        serde_json::to_string(&uid).unwrap(),
        r#"{"question":"present","kind":"uid","id":1,"answer":11,"reasons":[{"stage":"map","text":"in extent u:0:10:5","rule":"u:0:10:5","at":"p.toml:3:8"}]}"#
    );
}

#[test]
fn findings_have_codes_and_places() {
    use Severity::{Error, Note, Warning};
    for (ids, wanted) in [
        ("", vec![]),
        ("map = ['1:100001:10']", vec![]),
        ("map = ['0:0:65536']", vec![]),
        ("map = ['1:1:1', '5:5:5', '20:20:1']", vec![]),
        (
            "map = ['0:100000:10']",
            vec![
                (Note, "root", "3:8", "uid 100000 creates belongs to root"),
                (Note, "root", "3:8", "gid 100000"),
            ],
        ),
        (
            "map = ['u:1000:0:1']",
            vec![
                (Warning, "one-kind", "3:8", "groups are shown as they are"),
                (Warning, "root", "3:8", "disk uid 1000 is shown as root"),
            ],
        ),
        (
            "table = ['g:1000:0']",
            vec![
                (Warning, "one-kind", "3:10", "users are shown as they are"),
                (Warning, "root", "3:10", "disk gid 1000"),
            ],
        ),
        (
            "map = ['u:1:1:5', 'u:10:10:5', 'u:20:20:5', 'g:1:1:5', 'g:6:6:5']",
            vec![(Note, "hole", "3:19", "disk uids 6 to 9 are in no extent, and 2 holes in all")],
        ),
        (
            "map = ['1:1:5', '8:8:5']\ntable = ['6:6', 'u:7:7']",
            vec![(Note, "hole", "3:17", "disk gids 6 to 7 are in no extent")],
        ),
        (
            "map = ['1:10:5']\nunmapped = 'present-as=u:12'",
            vec![(Warning, "alias", "4:12", "uid 12 is shown as the owner of every unmapped file")],
        ),
        ("map = ['1:10:5']\nunmapped = 'present-as=99'", vec![]),
        (
            "map = ['1:10:5']\ncollapse = { present-as = 'u:12', store-as = '1' }",
            vec![
                (Warning, "alias", "4:27", "uid 12 has files of its own"),
                (Note, "elsewhere", "4:46", "shown as uid 10, not as 12"),
            ],
        ),
        (
            "collapse = { present-as = 1000 }",
            vec![
                (Note, "server", "3:27", "the server's own uid"),
                (Note, "server", "3:27", "the server's own gid"),
            ],
        ),
        (
            "collapse = { present-as = 'u:0', store-as = 'u:5' }",
            vec![
                (Warning, "one-kind", "3:27", "users are"),
                (Warning, "root", "3:27", "every other owner is shown as uid 0"),
            ],
        ),
        (
            "collapse = { store-as = 'u:0' }",
            vec![(Warning, "root", "3:25", "belongs to root on disk")],
        ),
        (
            "collapse = { store-as = 'u:65534' }",
            vec![(Warning, "overflow", "3:25", "nobody owns the files")],
        ),
        (
            "unmapped = 'present-as=u:99'",
            vec![
                (Warning, "alias", "3:12", "uid 99"),
                (Note, "dead", "3:12", "every disk uid is mapped"),
            ],
        ),
        ("map = ['1:1:0']", vec![(Error, "value", "3:8", "the count is 0")]),
        ("map = ['1:1:2', '2:5:1']", vec![(Error, "overlap", "3:17", "both have disk uid 2")]),
    ] {
        let found = check_file("p.toml", &format!("{HEAD}{ids}\n"), &Host);
        assert_eq!(found.len(), wanted.len(), "{ids}: {found:#?}");
        for (finding, (severity, code, at, what)) in found.iter().zip(wanted) {
            let text = finding.to_string();
            assert!(
                text.starts_with(&format!("p.toml:{at}: {severity}[{code}]: ")),
                "{ids}: {text}"
            );
            assert!(text.contains(what), "{ids}: {text}");
        }
    }
    let found = check_file("p.toml", "version = 2", &Host);
    assert_eq!(
        serde_json::to_string(&found).unwrap(),
        r#"[{"severity":"error","code":"version","at":"p.toml:1:11","what":"version `2` is not supported","hint":"write `version = 1` at the top"}]"#
    );
}
