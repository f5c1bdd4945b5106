//! Findings that depend on the mount and on who serves it.

use idmapfs::policy::check::{Reach, Situation, check, check_for};
use idmapfs::policy::file;

use super::host::Host;

fn lines(text: &str, situation: &Situation) -> Vec<String> {
    let spec = file::parse("p.toml", &format!("version = 1\n{text}\n"), &Host).unwrap();
    let found = check_for(&spec, situation);
    let line = |f: &idmapfs::policy::check::Finding| {
        let at = f.at.to_string();
        format!("{} {}[{}] {}", at.trim_start_matches("p.toml:"), f.severity, f.code, f.what)
    };
    found.iter().map(line).collect()
}

/// An ordinary user, and one who has a few subordinate ids.
fn reach(users: &[(u32, u32)]) -> Situation {
    let reach = Reach { who: "a server".into(), users: users.to_vec(), groups: users.to_vec() };
    Situation { reach: Some(reach), ..Situation::default() }
}

#[test]
fn what_the_server_cannot_store_is_found() {
    let (own, some) = (reach(&[(1000, 1)]), reach(&[(0, 1), (100, 10), (110, 5)]));
    for (text, situation, wanted) in [
        ("", &own, ""),
        ("[ids]\ncollapse = { present-as = '7:7', store-as = '1000:1000' }", &own, ""),
        (
            "[ids]\ncollapse = { present-as = '7:7', store-as = '1000:5' }",
            &own,
            "3:45 warning[store] new files would belong to disk gid 5, which a server cannot store",
        ),
        (
            "[ids]\nmap = ['u:1000:1:2', 'g:1000:1:1']",
            &own,
            "3:8 note[store] uid 2, for one, cannot create: a server cannot store disk uid 1001",
        ),
        ("[ids]\nmap = ['100:1:15']\ntable = ['0:0']", &some, ""),
        (
            "[ids]\nmap = ['100:1:16']",
            &some,
            "3:8 note[store] uid 16, for one, cannot create: a server cannot store disk uid 115, \
             3:8 note[store] gid 16, for one, cannot create: a server cannot store disk gid 115",
        ),
        (
            "[ids]\ntable = ['u:0:0', 'g:0:0', 'u:99:3']",
            &some,
            "3:28 note[store] uid 3, for one, cannot create: a server cannot store disk uid 99",
        ),
        (
            "[ids]\nmap = ['1000:1:1']\ncollapse = { present-as = '7:7', store-as = '1000:1000' }",
            &own,
            "4:45 note[elsewhere] new files are shown as uid 1, not as 7, \
             4:45 note[elsewhere] new files are shown as gid 1, not as 7",
        ),
    ] {
        let found = lines(text, situation).join(", ");
        assert_eq!(found, wanted, "{text}");
    }
}

#[test]
fn root_in_the_view_is_an_error_where_set_id_bits_count() {
    let suid = Situation { suid: true, ..Situation::default() };
    for (text, wanted) in [
        ("[ids]\nmap = ['0:0:10']", ""),
        ("[ids]\nmap = ['u:5:0:1', 'g:5:5:1']", "3:8 E[root] disk uid 5 is shown as root"),
        (
            "[ids.collapse]\npresent-as = '0:5'\nstore-as = '1:1'",
            "3:14 E[root] every other owner is shown as uid 0, root",
        ),
        (
            "[ids]\nmap = ['5:5:5']\nunmapped = 'present-as=0:3'",
            "4:12 E[root] every unmapped owner is shown as uid 0, root",
        ),
        (
            "[[rules]]\npath = 'a'\npresent-owner = 'u:0'",
            "4:17 E[root] files of others are shown as uid 0, root, \
             4:17 note[alias] uid 0 is what disk uid 0 is shown as, and these files are too: \
             chown to it leaves them to whom they belong on disk",
        ),
        ("[callers]\nmirror = [5]", "3:11 error[conflict] suid is refused beside a mirror"),
    ] {
        let strict = lines(text, &suid);
        assert_eq!(strict.join(", "), wanted.replace("E[", "error["), "{text}");
        let found = lines(text, &Situation::default());
        let wanted = if wanted.contains("conflict") { "" } else { wanted };
        assert_eq!(found.join(", "), wanted.replace("E[", "warning["), "{text}");
    }
    let spec = file::parse("p.toml", "version = 1\n[ids]\nmap = ['5:0:1']\n", &Host).unwrap();
    assert_eq!(check(&spec).len(), check_for(&spec, &suid).len());
}

#[test]
fn an_alias_says_which_way_back_is_taken() {
    for (text, wanted) in [
        (
            "[ids]\nmap = ['10:20:5']\n[ids.collapse]\npresent-as = 'u:21'\nstore-as = 'u:1'",
            "chown to it stores disk uid 11",
        ),
        (
            "[ids]\nmap = ['10:20:5']\nunmapped = 'present-as=u:24'",
            "chown to it stores disk uid 14",
        ),
        (
            "[ids]\nmap = ['10:20:5']\n[[rules]]\nname = 'x'\npresent-owner = 'g:22'",
            "gid 22 is what disk gid 12 is shown as",
        ),
    ] {
        let found = lines(text, &Situation::default());
        let alias = found.iter().find(|line| line.contains("[alias]")).unwrap();
        assert!(alias.contains(wanted), "{text}: {alias}");
    }
}
