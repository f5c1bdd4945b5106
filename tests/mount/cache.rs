//! Changes behind the mount, and how soon they are seen.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::require;
use crate::support::ours::Ours;
use crate::support::{holds_within, raw, sandbox, sh, sh_as, str, try_sh_as};

const MAP: [&str; 2] = ["--map", "0:100000:1000"];

/// What may happen on the host, with what then must be seen in the view.
type Change = (&'static str, &'static str);

const CHANGES: [Change; 16] = [
    ("echo longer contents > f", "[ \"$(cat f)\" = 'longer contents' ]"),
    ("chmod 640 f", "[ $(stat -c %a f) = 640 ]"),
    ("chown 7:8 f", "[ $(stat -c %u:%g f) = 100007:100008 ]"),
    ("rm gone", "! [ -e gone ]"),
    ("echo x > new", "[ \"$(cat new)\" = x ]"),
    ("mv a b", "[ -e b ] && ! [ -e a ]"),
    ("echo second > r.tmp; mv r.tmp r", "[ \"$(cat r)\" = second ]"),
    ("truncate -s 3 t", "[ $(stat -c %s t) = 3 ] && [ $(wc -c < t) = 3 ]"),
    ("setfacl -m u:7:r f", "getfacl -nc f | grep -q ^user:100007:r"),
    ("setfattr -n user.a -v 2 f", "[ $(getfattr --only-values -n user.a f) = 2 ]"),
    ("ln f link", "[ $(stat -c %h f) = 2 ] && [ link -ef f ]"),
    ("rm link", "[ $(stat -c %h f) = 1 ] && ! [ -e link ]"),
    ("mv d/e d/n; mkdir d/e; echo other > d/e/x", "[ $(cat d/e/x) = other ]"),
    ("mv d moved", "[ $(cat moved/n/x) = below ] && ! [ -e d ] && ! [ -e d/n/x ]"),
    ("rm -r moved; mkdir moved", "[ -z \"$(ls moved)\" ] && ! [ -e moved/n ]"),
    ("rm list/2; touch list/4", "[ \"$(echo $(ls list))\" = '1 3 4' ]"),
];

const PLANT: &str = "echo contents > f; touch gone a; echo first > r; echo 123456789 > t; \
                     setfattr -n user.a -v 1 f; mkdir -p d/e list; echo below > d/e/x; touch list/{1,2,3}";

/// Looks at everything first, so that it is cached; `new` as missing.
const LOOK: &str = "{ cat f r t gone a d/e/x; ls -ln . * d/e moved/n; stat new link moved; getfacl f; \
                    getfattr -d f; } > /dev/null 2>&1";

fn host_changes_are_seen(cache: &'static str, within: Duration) {
    sandbox(move |sandbox| {
        let source = sandbox.dir("src");
        sh(&format!("cd {}; {PLANT}", str(&source)));
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &[MAP[0], MAP[1], "--cache", cache]);
        for (change, seen) in CHANGES {
            sh(&format!("cd {}; {LOOK} || true", str(&ours.point)));
            sh(&format!("cd {}; {change}", str(&source)));
            let look = format!("cd {}; {seen}", str(&ours.point));
            let ok = || try_sh_as(0, 0, &[], &look).status.success();
            assert!(holds_within(within, ok), "--cache {cache}: not seen: {change}");
        }
    });
}

#[test]
fn host_changes_are_seen_at_once_without_a_cache() {
    require!(Root, Fuse);
    host_changes_are_seen("none", Duration::ZERO);
}

#[test]
fn host_changes_are_seen_after_the_time_to_live() {
    require!(Root, Fuse);
    host_changes_are_seen("ttl=1", Duration::from_millis(2500));
}

/// Within milliseconds as a rule; what was not told would be believed for an hour.
#[test]
fn host_changes_are_seen_soon_where_they_are_watched() {
    require!(Root, Fuse, AclTools);
    host_changes_are_seen("watch", Duration::from_millis(600));
}

/// What a caller of the mount did is seen by all callers of it at once.
#[test]
fn own_changes_are_seen_at_once_with_any_time_to_live() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        sh(&format!("cd {}; {PLANT}", str(&source)));
        let args = [MAP[0], MAP[1], "--cache", "ttl=3600"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        for (change, seen) in CHANGES {
            let change = change.replace("7:8", "100000:100008").replace("u:7", "u:100007");
            let seen = seen.replace("100007:100008", "100000:100008");
            sh(&format!("cd {}; {LOOK} || true", str(&ours.point)));
            // The owner creates (mapped); only root has the capability to chown.
            let by_root = ["chown", "setf"].iter().any(|word| change.starts_with(word));
            let who = if by_root { 0 } else { 100_000 };
            sh_as(who, who, &[], &format!("cd {}; {change}", str(&ours.point)));
            let look = format!("cd {}; {seen}", str(&ours.point));
            assert!(try_sh_as(0, 0, &[], &look).status.success(), "not seen: {change}");
        }
    });
}

#[test]
fn a_right_taken_away_on_the_host_ends_after_the_time_to_live() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let source = sandbox.dir("src");
        sh(&format!("cd {}; mkdir d; echo secret > d/f", str(&source)));
        let args = [MAP[0], MAP[1], "--cache", "ttl=1"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        let read = format!("cat {}/d/f", str(&ours.point));
        sh_as(100_005, 100_005, &[], &read);
        raw::chmod(&source.join("d"), 0o700).unwrap();
        let refused = || !try_sh_as(100_005, 100_005, &[], &read).status.success();
        assert!(holds_within(Duration::from_millis(2500), refused));
        raw::chmod(&source.join("d"), 0o755).unwrap();
        let allowed = || try_sh_as(100_005, 100_005, &[], &read).status.success();
        assert!(holds_within(Duration::from_millis(2500), allowed));
    });
}

#[test]
fn link_counts_and_sizes_are_right_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--cache", "ttl=3600"]);
        fs::write(source.join("f"), "x").unwrap();
        assert_eq!(fs::metadata(ours.at("f")).unwrap().nlink(), 1);
        fs::hard_link(ours.at("f"), ours.at("g")).unwrap();
        assert_eq!(fs::metadata(ours.at("f")).unwrap().nlink(), 2);
        fs::remove_file(ours.at("f")).unwrap();
        assert_eq!(fs::metadata(ours.at("g")).unwrap().nlink(), 1);
        fs::write(ours.at("g"), "much longer").unwrap();
        assert_eq!(fs::metadata(ours.at("g")).unwrap().len(), 11);
        let links = || fs::metadata(&ours.point).unwrap().nlink();
        let before = links();
        fs::create_dir(ours.at("d")).unwrap();
        assert_eq!(links(), before + 1);
    });
}
