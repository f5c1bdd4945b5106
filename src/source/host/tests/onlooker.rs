//! What is asked for as whoever a thread acts as has the answer that the server has.

use std::os::unix::fs::symlink;

use super::*;
use crate::acl::AclKind;
use crate::attr::Time;
use crate::source::{Change, SetTime};
use crate::sys::cred::{SetId, Who};

type Act = fn(&Host, &Node) -> String;

/// Changes attributes, and says what came of it.
fn change(host: &Host, node: &Node, change: &Change) -> String {
    let done = host.setattr(node, None, change, PLAIN);
    format!("{:?}", done.map(|attr| (attr.mode, attr.size)))
}

fn open(host: &Host, node: &Node, flags: i32) -> String {
    format!("{:?}", host.open(node, flags).map(drop))
}

fn acts() -> [(&'static str, Act); 13] {
    const THEN: Option<SetTime> = Some(SetTime::At(Time { sec: 7, nsec: 8 }));
    [
        ("read", |host, node| open(host, node, libc::O_RDONLY)),
        ("write", |host, node| open(host, node, libc::O_RDWR)),
        ("append", |host, node| open(host, node, libc::O_WRONLY | libc::O_APPEND)),
        ("noatime", |host, node| open(host, node, libc::O_RDONLY | libc::O_NOATIME)),
        ("opendir", |host, node| format!("{:?}", host.opendir(node).map(drop))),
        ("xattr", |host, node| format!("{:?}", host.xattr(node, OsStr::new("user.k")))),
        ("xattrs", |host, node| format!("{:?}", host.xattrs(node))),
        ("capability", |host, node| format!("{:?}", host.capability(node))),
        ("acl", |host, node| format!("{:?}", host.acl(node, AclKind::Access))),
        ("touch", |host, node| {
            let now = Some(SetTime::Now);
            change(host, node, &Change { atime: now, mtime: now, ..Change::default() })
        }),
        ("times", |host, node| change(host, node, &Change { mtime: THEN, ..Change::default() })),
        ("truncate", |host, node| {
            change(host, node, &Change { size: Some(1), ..Change::default() })
        }),
        ("chmod and link", |host, node| {
            let mode = Some(Mode::new(0o2640));
            let changed = change(host, node, &Change { mode, ..Change::default() });
            let twin = host.getattr(node).unwrap().ino.to_string();
            let link = host.link(node, &root(host), name(&twin), PLAIN);
            format!("{changed} {:?}", link.map(|found| found.attr.nlink))
        }),
    ]
}

/// Makes anew what is asked about.
fn fresh(fixture: &Fixture) {
    outside(|| {
        let shell = |script: &str| {
            let mut shell = Command::new("sh");
            let done = shell.args(["-euc", script]).current_dir(fixture.path()).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        shell("chattr -f -i -a -- t/* || true; rm -rf t [0-9]*; mkdir t; chmod 1777 t");
        symlink("plain", fixture.at("t/link")).unwrap();
        shell(
            "cd t; umask 0; for f in plain root fixed added setid; do echo xyz >$f; done; mkdir dir
            setfattr -n user.k -v v plain; setfacl -m u:9:rwx plain; chmod 0 plain root dir
            chown 1003:1004 plain fixed added setid dir; chown -h 1003:1004 link
            chmod 6755 setid; setcap cap_net_raw+ep added; chattr +i fixed; chattr +a added",
        );
    });
}

#[test]
fn answers_are_the_servers_whoever_the_thread_acts_as() {
    if !is_root() {
        return;
    }
    let Some(fixture) = Fixture::ext4() else { return };
    let host = fixture.host();
    let files = ["plain", "root", "fixed", "added", "setid", "dir", "link"];
    let said = |who, set_id, act: Act| {
        fresh(&fixture);
        files.map(|file| {
            let node = walk(&host, &format!("t/{file}")).0;
            host.context.credentials.assume(who, set_id).unwrap();
            (file, act(&host, &node))
        })
    };
    for (what, act) in acts() {
        let expected = said(Who::Server, SetId::Keep, act);
        for who in [Who::Nobody, Who::Owner(1003, 5), Who::Owner(5, 1004), Who::Owner(5, 0)] {
            assert_eq!(said(who, SetId::Clear, act), expected, "{what} as {who:?}");
        }
    }
}
