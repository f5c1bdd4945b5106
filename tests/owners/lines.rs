//! Records as JSON, for files that are there.

use std::collections::BTreeSet;

use super::ground::{Ground, STORES, contents, full};

#[test]
fn records_go_with_a_copy_of_the_files() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.good("import", "dir", &["--from", "-"], &full());
        let lines = ground.good("export", "dir", &[], b"");
        // A copy has lost all that is recorded.
        let mut copy = ground.command("cp");
        copy.args(["-r", "--preserve=mode,links,timestamps"]);
        copy.args([ground.at("dir"), ground.at("copy")]);
        assert!(copy.status().unwrap().success());
        ground.good("import", "copy", &["--from", "-"], &lines);
        let set = |lines: &[u8]| -> BTreeSet<String> {
            String::from_utf8(lines.to_vec()).unwrap().lines().map(str::to_owned).collect()
        };
        assert_eq!(set(&lines), set(&ground.good("export", "copy", &[], b"")), "{store}");
        let shown = contents(&ground.good("export", "copy", &["--tar", "-"], b""));
        assert!(shown["null"].starts_with("Char 0:0 666 1:3"), "{}", shown["null"]);
        ground.good("check", "copy", &[], b"");

        let told = ground.good("drop", "copy", &[], b"");
        let told = String::from_utf8(told).unwrap();
        assert!(told.ends_with(" files have no record any more\n"), "{told}");
        assert!(told.split(' ').next().unwrap().parse::<u32>().unwrap() > 10, "{told}");
        assert_eq!(ground.good("export", "copy", &[], b""), b"");
        let told = ground.good("drop", "copy", &[], b"");
        assert_eq!(told, b"0 files have no record any more\n");
    }
}

#[test]
fn lines_that_do_not_fit_are_said_and_the_rest_is_taken() {
    for store in STORES {
        let ground = Ground::new(store);
        ground.make("dir/sub");
        ground.file("dir/file", b"");
        ground.file("outside", b"");
        std::os::unix::fs::symlink(ground.at("outside"), ground.at("dir/link")).unwrap();
        let lines = br#"{"path":"no/such","uid":1,"gid":1,"mode":"0644"}
            {"path":"../outside","uid":1,"gid":1,"mode":"0644"}
            {"path":"/etc/passwd","uid":1,"gid":1,"mode":"0644"}
            {"path":"link/x","uid":1,"gid":1,"mode":"0644"}
            {"path":"sub","uid":1,"gid":1,"mode":"0644","kind":"char","device":[1,3]}

            {"path":"file","uid":1,"gid":2,"mode":"0644"}
            "#;
        let told = ground.bad("import", "dir", &["--from", "-"], lines);
        assert_eq!(told.lines().count(), 5, "{told}");
        for path in ["no/such", "../outside", "/etc/passwd", "link/x", "line 5: sub"] {
            assert!(told.contains(path), "{path}: {told}");
        }
        let lines = String::from_utf8(ground.good("export", "dir", &[], b"")).unwrap();
        let wanted = r#"{"path":"file","uid":1,"gid":2,"mode":"0644"}"#;
        assert!(lines.lines().any(|line| line == wanted), "{lines}");
        let told = ground.bad("import", "dir", &["--from", "-"], b"{\"path\":1}");
        assert!(told.contains("line 1"), "{told}");
    }
}

/// A symbolic link, which by then a file stands for, takes what its line says.
#[test]
fn links_take_any_owner_and_attributes() {
    for store in STORES {
        let ground = Ground::new(store);
        std::os::unix::fs::symlink("there", ground.at("dir/link")).unwrap();
        std::os::unix::fs::symlink("there", ground.at("dir/own")).unwrap();
        for link in ["dir/link", "dir/own"] {
            let path = ground.at(link);
            std::os::unix::fs::lchown(&path, Some(Ground::user()), Some(Ground::user())).unwrap();
        }
        let own = Ground::user();
        let lines = format!(
            r#"{{"path":".","uid":0,"gid":0,"mode":"0755"}}
            {{"path":"link","uid":3,"gid":4,"mode":"0777","kind":"symlink","attributes":{{"trusted.note":"78"}}}}
            {{"path":"own","uid":{own},"gid":{own},"mode":"0777","kind":"symlink"}}"#
        );
        ground.good("import", "dir", &["--from", "-"], lines.as_bytes());
        let shown = contents(&ground.good("export", "dir", &["--tar", "-"], b""));
        assert!(shown["link"].starts_with("Symlink 3:4 777 -> there"), "{}", shown["link"]);
        assert!(shown["link"].contains("trusted.note"), "{}", shown["link"]);
        assert!(shown["own"].starts_with(&format!("Symlink {own}:{own} 777 -> there")));
        assert!(ground.at("dir/own").is_symlink());
        assert!(!ground.at("dir/.idmapfs").exists());
        ground.good("check", "dir", &[], b"");
    }
}

/// Another user of the host may have written to a file that all may write.
#[test]
fn what_others_may_have_planted_does_not_come_along() {
    use std::os::unix::fs::PermissionsExt as _;
    let ground = Ground::new("xattr");
    ground.file("dir/file", b"");
    let path = ground.at("dir/file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let planted = [
        ("user.containers.override_stat", "0:0:4755"),
        ("user.idmapfs.security.capability", "planted"),
        ("user.idmapfs.trusted.x", "planted"),
    ];
    for (name, value) in planted {
        let set = ground.command("setfattr").args(["-n", name, "-v", value]).arg(&path).status();
        assert!(set.unwrap().success());
    }
    let lines = String::from_utf8(ground.good("export", "dir", &[], b"")).unwrap();
    assert!(!lines.contains("file"), "{lines}");
    let line = br#"{"path":"file","uid":1,"gid":2,"mode":"0640"}"#;
    ground.good("import", "dir", &["--from", "-"], line);
    let lines = String::from_utf8(ground.good("export", "dir", &[], b"")).unwrap();
    let wanted = std::str::from_utf8(line).unwrap();
    assert!(lines.lines().any(|line| line == wanted), "{lines}");
}
