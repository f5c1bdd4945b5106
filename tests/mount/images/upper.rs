//! A directory above an image, which takes what is written: of an ordinary user, of two
//! containers at once, and for one command.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::require;
use crate::support::images;
use crate::support::rootless::{ANN, Rootless, SUBORDINATE};
use crate::support::{Sandbox, ours, run, sandbox, sh, str, text, wait_for};

/// Runs a script as root of a namespace with all her ids.
fn inside(ann: &Rootless, script: &str) -> String {
    fs::write(ann.home.join("script"), script).unwrap();
    ann.does("unshare --map-auto --map-root-user -m bash -eu ~/script 2>&1")
}

/// A user, and in her home an image of a root directory with some more in it.
fn with_image(sandbox: &Sandbox, build: &str) -> Rootless {
    let ann = Rootless::new(sandbox);
    inside(
        &ann,
        &format!(
            "PATH=$PATH:/usr/sbin; cp -a $ROOTFS ~/tree; cd ~/tree; mkdir -p var/tmp files/d/e
            cd files; echo one >f; chown 33:33 f; chmod 4750 f; ln f hard
            echo two >acl; setfacl -m u:1000:rw acl; setfacl -d -m g:5:rwx d
            echo three >cap; setcap cap_net_raw+ep cap; echo four >d/e/deep; mkfifo p
            setfattr -n user.note -v kept f; echo five >plain; chown 1000:1000 plain
            cd; {build}; rm -r ~/tree; mkdir upper"
        ),
    );
    ann
}

/// How an image is made of `tree`.
const EROFS: &str = "mkfs.erofs -zlz4 image tree >/dev/null";
const SQUASHFS: &str = "mksquashfs tree image -noappend -quiet -no-progress 2>/dev/null";
const EXT4: &str = "mke2fs -q -t ext4 -d tree image 64M";

#[test]
fn an_upper_directory_takes_what_is_written() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs, Squashfs, Ext4Loop);
    for (build, acl) in [(EROFS, true), (SQUASHFS, false), (EXT4, true)] {
        sandbox(move |sandbox| {
            let ann = with_image(sandbox, build);
            let before = images::state(&ann.home.join("image"));
            let mounted = "idmapfs --upper ~/upper ~/image ~/.cache/view; cd ~/.cache/view/files\n";
            let unmount = "cd; umount -R ~/.cache/view\n";
            // Copied up: by a write, by a new attribute, by a rename.
            let out = inside(
                &ann,
                &format!(
                    "{mounted} setfattr -n user.new -v x f; setfattr -n user.new -v x acl
                    touch -d @5 cap; echo more >>plain; rm d/e/deep; rmdir d/e; mkdir d/e; echo new >d/e/new
                    mv d moved; echo hello >new; chown 7:8 new; chmod 2710 new; ln new new2
                    mknod null c 1 3 2>/dev/null || echo no device
                    stat -c '%n %u:%g %a' f cap plain new2; getfattr -d f | grep user; getcap cap
                    cat moved/e/*; {unmount}"
                ),
            );
            let want = "no device\nf 33:33 4750\ncap 0:0 644\nplain 1000:1000 644\nnew2 7:8 2710\n\
                        user.new=\"x\"\nuser.note=\"kept\"\ncap cap_net_raw=ep\nnew\n";
            assert_eq!(out, want, "{build}");
            // The next time all of it is there.
            let out = inside(
                &ann,
                &format!(
                    "{mounted} ls; ls moved/e; cat plain; getfacl -cn acl | grep user:1000 || echo none
                    getfacl -cn moved | grep default:group:5 || echo none; {unmount}"
                ),
            );
            let lists = if acl { "user:1000:rw-\ndefault:group:5:rwx\n" } else { "none\nnone\n" };
            let names = "acl\ncap\nf\nhard\nmoved\nnew\nnew2\np\nplain\n";
            assert_eq!(out, format!("{names}new\nfive\nmore\n{lists}"), "{build}");
            // And the image is what it was.
            let out = inside(
                &ann,
                "idmapfs ~/image ~/.cache/view; cat ~/.cache/view/files/d/e/deep; umount ~/.cache/view",
            );
            assert_eq!(out, "four\n", "{build}");
            assert_eq!(images::state(&ann.home.join("image")), before, "{build}");
        });
    }
}

#[test]
fn two_containers_with_a_shift_each_write_as_if_alone() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "mkdir one two u1 u2
            idmapfs --map 0:10000:5000 --upper u1 ./image one; idmapfs --map 0:20000:5000 --upper u2 ./image two
            as() { setpriv --reuid $1 --regid $1 --clear-groups bash -euc \"$2\"; }
            both() { as 1$1 \"cd one/files; $2\" & as 2$1 \"cd two/files; $2\"; wait $!; }
            chown 10000 u1 u2; stat -c %u:%g one/files/f two/files/f
            both 1000 'echo of $(id -u) >>plain; for n in {1..50}; do echo $n >>plain; done'
            as 10000 'cd one; rm files/cap; mkdir files/mine'; as 20000 'cd two; touch files/cap2'
            sed -n 1,2p one/files/plain; sed -n 1,2p two/files/plain; wc -l <one/files/plain
            ls one/files | tr '\\n' ' '; ls two/files | tr '\\n' ' '
            as 21000 'echo no >>one/files/plain' 2>/dev/null || echo refused
            stat -c %u:%g one/files/plain two/files/plain u1/files/plain u2/files/plain
            umount -R one two",
        );
        let want = "10033:10033\n20033:20033\nfive\nof 11000\nfive\nof 21000\n52\n\
                    acl d f hard mine p plain acl cap cap2 d f hard p plain refused\n\
                    11000:11000\n21000:21000\n11000:11000\n21000:21000\n";
        assert_eq!(out, want);
        let upper = fs::metadata(ann.home.join("u1/files/plain")).unwrap();
        assert_eq!(upper.uid(), SUBORDINATE + 11_000 - 1, "the host sees her subordinate ids");
    });
}

#[test]
fn one_command_has_the_image_as_its_root() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let mounted = || sh("cat /proc/self/mountinfo").matches("fuse.idmapfs").count();
        let before = mounted();
        let run = "idmapfs run --upper ~/upper ~/image --";
        let out = ann.does(&format!(
            "{run} /bin/sh -euc 'id -u; cd /files; stat -c %u:%g f; echo made >/made; chown 33 /made; \
             cat plain; test ! -e {home}'; cat ~/upper/made",
            home = str(&ann.home)
        ));
        assert_eq!(out, "0\n33:33\nfive\nmade\n");
        assert_eq!(fs::metadata(ann.home.join("upper/made")).unwrap().uid(), SUBORDINATE + 32);
        // Without a directory above it is mounted where the command starts.
        let plain =
            ann.does("idmapfs run ~/image -- sh -c 'stat -c %u:%g files/f; touch x 2>&1 || id -u'");
        assert!(
            plain.starts_with("33:33\n") && plain.ends_with("Read-only file system\n0\n"),
            "{plain}"
        );
        let done = ann.tries(&format!("{run} /bin/sh -c 'cat /made; exit 7'"));
        assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(7), b"made\n".as_slice()));
        // Nothing is left mounted, or running.
        assert_eq!(mounted(), before);
        wait_for("the server's end", || ann.processes().is_empty());
    });
}

#[test]
fn podman_runs_on_an_image_with_an_upper_directory() {
    require!(Root, Fuse, Podman, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        ann.does("idmapfs --in podman --upper ~/upper ~/image ~/.cache/view");
        let (podman, root) = ("podman run --rm", "--rootfs ~/.cache/view");
        let out = ann.does(&format!(
            "{podman} {root} sh -euc 'cd /files; id -u; stat -c %u:%g:%a f; echo more >>plain; rm acl; mv d e'
            {podman} --user 1000 {root} sh -euc 'cd /files; grep more plain; echo mine >>plain; ls e; ls acl 2>/dev/null || echo gone'
            podman unshare umount -R ~/.cache/view"
        ));
        assert_eq!(out, "0\n33:33:4750\nmore\ne\ngone\n");
        let plain = fs::metadata(ann.home.join("upper/files/plain")).unwrap();
        assert_eq!(plain.uid(), SUBORDINATE + 999);
        assert_eq!(fs::metadata(ann.home.join("upper")).unwrap().uid(), ANN);
    });
}

/// Has an overlay lose its server and its supervisor.
const KILL: &str = "kill -9 $(pgrep -f -- '--upper upper ./image .cache/view')
    until stat .cache/view/no 2>&1 | grep -q 'not connected'; do sleep 0.1; done";

#[test]
fn a_dead_overlay_is_cleared_by_the_next_mount_and_by_umount() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let script = format!(
            "mount_it() {{ idmapfs --upper upper ./image .cache/view; }}
             count() {{ grep -c $HOME/.cache/view /proc/self/mountinfo; }}
             mount_it; echo more >>.cache/view/files/plain; {KILL}
             idmapfs -o remount,ro ./image .cache/view; grep -o ' ro,[^ ]* - overlay' /proc/self/mountinfo
             mount_it; count; tail -1 .cache/view/files/plain; cat .cache/view/files/d/e/deep
             idmapfs -o remount,ro ./image .cache/view; touch .cache/view/x 2>&1 | grep -o 'Read-only'
             idmapfs -o remount,rw ./image .cache/view; touch .cache/view/x
             {KILL}; umount .cache/view; count || ls -A .cache/view"
        );
        let out = inside(&ann, &script);
        assert_eq!(out, " ro,nosuid,nodev,relatime - overlay\n1\nmore\nfour\nRead-only\n0\n");
        wait_for("the servers' end", || ann.processes().is_empty());
    });
}

#[test]
fn ids_that_a_namespace_has_not_are_refused_above() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        // One id alone: what the image has of others could not be copied up.
        let done = ann.tries(
            "unshare --map-root-user -m sh -c 'idmapfs --upper ~/upper ~/image ~/.cache/view'",
        );
        let said = text(&done);
        assert!(!done.status.success() && said.contains("33"), "{said}");
        // And without namespaces there is no overlay.
        let done = ann.tries("idmapfs --upper ~/upper ~/image ~/.cache/view");
        assert!(!done.status.success() && text(&done).contains("namespace"), "{}", text(&done));
    });
}

#[test]
fn ids_that_a_policy_does_not_map_are_refused_above() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let said = inside(
            &ann,
            "try() { idmapfs --upper new --map $1 ./image .cache/view || ls -d new* 2>/dev/null || echo none; }
             try 0:1000:10; try 0:70000:5000",
        );
        let lines: Vec<&str> = said.lines().collect();
        let [unmapped, "none", outside, "none"] = lines[..] else { panic!("{said}") };
        assert!(unmapped.contains("uid 33, which the policy does not map"), "{said}");
        let moved = "uid 0, shown as 70000, which this user namespace has not";
        assert!(outside.contains(moved), "{said}");
        // So they are where the host's root mounts.
        let [upper, image, view] = ["new", "image", ".cache/view"].map(|name| ann.home.join(name));
        let mount = |map: &str| {
            let options = format!("map={map},upper={}", str(&upper));
            ours::finish(&["-o", &options, str(&image), str(&view)])
        };
        let done = mount("0:524288:10");
        assert!(!done.status.success() && text(&done).contains("policy does not map"), "{done:?}");
        let done = mount("0:524288:5000");
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(fs::metadata(view.join("files/f")).unwrap().uid(), 524_321);
        run("umount", &[str(&view)]);
    });
}

/// Has root of the host make an image that names ids which her namespace has not: in
/// lists, as the root of a file capability, beside an attribute of the host's own.
fn with_ids_of_others(sandbox: &Sandbox) -> Rootless {
    let ann = Rootless::new(sandbox);
    sh(&format!(
        "PATH=$PATH:/usr/sbin; cd {home}; mkdir -p tree/d upper; cd tree
        echo two >acl; chmod 600 acl; setfacl -m u:70000:rw,g:80000:r,u:1000:r acl
        setfacl -d -m u:70000:rw,u:1000:rwx d; echo three >cap; setcap -n 70000 cap_net_raw+ep cap
        echo four >label; setfattr -n security.other -v x label; setfattr -n user.note -v kept label
        cd ..; mkfs.erofs image tree >/dev/null; chown -R {ANN}:{ANN} .",
        home = str(&ann.home)
    ));
    ann
}

#[test]
fn lists_that_name_ids_of_others_can_be_read() {
    require!(Root, Fuse, UserNamespaces, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_ids_of_others(sandbox);
        let out = inside(
            &ann,
            "acl() { getfacl -cn \"$@\" | grep -E 'r:[0-9]|p:[0-9]|^default:u|mask'; }
            as() { setpriv --reuid $1 --regid 1000 --clear-groups cat acl 2>/dev/null || echo refused; }
            idmapfs ./image .cache/view; cd .cache/view; acl acl; acl d; as 1000; as 1001
            getfattr -n security.capability cap 2>&1 | grep -o too.large
            cd; umount .cache/view
            # So are those that a policy gives, of a directory too.
            mkdir tree2; echo five >tree2/acl; setfacl -m u:1000:r,u:1001:r tree2/acl
            idmapfs --map 0:0:1001 --map 1001:70000:1 tree2 .cache/view 2>/dev/null
            acl .cache/view/acl; cat .cache/view/acl
            setfacl -m u:5:r .cache/view/acl 2>/dev/null || echo refused
            umount .cache/view; acl tree2/acl",
        );
        let want = "user:1000:r--\nmask::rw-\n\
                    default:user::rwx\ndefault:user:1000:rwx\ndefault:mask::rwx\ntwo\nrefused\ntoo large\n\
                    user:1000:r--\nuser:65535:r--\nmask::r--\nfive\nrefused\n\
                    user:1000:r--\nuser:1001:r--\nmask::r--\n";
        assert_eq!(out, want);
    });
}

#[test]
fn what_a_namespace_has_not_is_left_below() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_ids_of_others(sandbox);
        let out = inside(
            &ann,
            "acl() { getfacl -cn \"$@\" | grep -E 'r:[0-9]|mask'; }
            idmapfs --upper upper ./image .cache/view; cd .cache/view
            echo more >>acl; chmod 640 acl; touch d/new; touch cap label; mv d e
            cat acl; acl acl; acl e/new; cd; umount -R .cache/view
            getfattr -dm- upper/cap upper/label | grep -E 'security|user.note'
            getfacl -cn upper/e | grep default:user:",
        );
        let want = "two\nmore\nuser:1000:r--\nmask::r--\nuser:1000:rwx\t#effective:rw-\nmask::rw-\n\
                    user.note=\"kept\"\n\
                    default:user::rwx\ndefault:user:1000:rwx\n";
        assert_eq!(out, want);
    });
}

#[test]
fn a_policy_on_changes_is_refused_above() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let rules = [("ro", "read-only = true"), ("deny", "deny = [\"delete\"]")];
        for (name, rule) in rules {
            let text = format!("version = 1\n[[rules]]\npath = \"/files/f\"\n{rule}\n");
            fs::write(ann.home.join(name), text).unwrap();
        }
        fs::remove_dir(ann.home.join("upper")).unwrap();
        for (option, named) in [
            ("delete-deny", "option delete-deny: "),
            ("chmod-deny", "option chmod-deny: "),
            ("chown-deny", "option chown-deny: "),
            ("xattr-none", "option xattr-none: "),
            ("store-as=20:20", "option store-as: "),
            ("mirror=0", "option mirror: "),
            ("policy=ro", "ro:4:13: "),
            ("policy=deny", "deny:4:8: "),
        ] {
            let view = format!("idmapfs -o {option} --upper upper ./image .cache/view");
            for script in [
                format!("{view} || echo code $?"),
                format!("idmapfs run -o {option} --upper upper ./image -- /bin/sh || echo code $?"),
            ] {
                let said = inside(&ann, &script);
                let fits = said.contains(named) && said.contains("leave that or upper out");
                assert!(fits && said.ends_with("code 1\n"), "{option}: {said}");
            }
        }
        let left = ann.does("ls -d upper* 2>/dev/null || echo none");
        assert_eq!(left, "none\n");
    });
}

#[test]
fn what_is_hidden_can_be_made_anew_above() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "idmapfs --hide /files/plain --hide /files/d/e --upper upper ./image .cache/view; cd .cache/view/files
            ls; mkdir plain; rmdir d; echo anew >plain/x; ls; cd; umount -R .cache/view",
        );
        let want = "acl\ncap\nd\nf\nhard\np\nacl\ncap\nf\nhard\np\nplain\n";
        assert_eq!(out, want);
    });
}

#[test]
fn a_directory_above_is_of_one_mount_by_any_name() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "mkdir -p view2 up/a/sub; ln -s a up/link; ln -s up around; ln -s nowhere up/loose
            try() { idmapfs --upper $1 ./image view2 2>&1 | grep -oE 'another mount uses (it|[^;]*)|No such file.*' || echo made; }
            idmapfs --upper up/link ./image .cache/view
            for dir in up/a up/link around/a up/a/sub up/a/new up/a.work up/a.work/work up up/loose; do try $dir; done | sed s:$HOME::
            mv up/a up/b; try up/b; mv up/b up/a
            ls up; umount -R .cache/view; try up/a/sub; umount -R view2; try up/a; umount -R view2",
        );
        let (it, a, work) = ("another mount uses it\n", "/up/a", "/up/a.work");
        let at = |dir: &str| format!("another mount uses {dir}\n");
        let want = format!(
            "{it}{it}{it}{}{}{}{}{}No such file or directory\n{it}",
            at(a),
            at(a),
            at(work),
            at(work),
            at(a)
        );
        assert_eq!(out, format!("{want}a\na.work\nlink\nloose\nmade\nmade\n"));
        // Another namespace has another table of mounts, in which that is not.
        let namespace = "unshare --map-auto --map-root-user -m";
        let out = ann.does(&format!(
            "{namespace} sh -euc 'idmapfs --upper up/a ./image .cache/view; touch ready
                until test -e done; do sleep 0.1; done; umount .cache/view' &
             mkdir -p up/around; until test -e ready; do sleep 0.1; done
             for dir in up/a up/a/sub up/a.work/work up/around/new; do
                 {namespace} idmapfs --upper $dir ./image view2 >said 2>&1 || :
                 grep -o 'another mount' said || {{ cat said; echo made; }}
             done
             touch done; wait"
        ));
        assert_eq!(out, "another mount\nanother mount\nanother mount\nmade\n");
    });
}

#[test]
fn a_refused_mount_leaves_nothing() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "mkdir there; head -c 9999 /dev/zero >broken
            idmapfs --upper new --map 0:0:5 ./image .cache/view 2>/dev/null || echo $?
            idmapfs --upper there ./broken .cache/view 2>/dev/null || echo $?
            idmapfs run --upper new --map 0:0:5 ./image -- /bin/sh 2>/dev/null || echo $?
            ls -d new* there* 2>/dev/null || :",
        );
        let (codes, left) = out.split_at(out.find("there").unwrap_or(0));
        assert_eq!((codes.lines().count(), left), (3, "there\n"), "{out}");
    });
}

#[test]
fn an_upper_directory_belongs_to_an_image_and_to_owners() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "mkdir other; echo x >other/x; PATH=$PATH:/usr/sbin mkfs.erofs image2 other >/dev/null 2>&1
            try() {
                if idmapfs --upper up $1 ./$2 .cache/view >said 2>&1; then touch .cache/view/made; umount .cache/view; echo made
                else grep -o 'it has files [^;]*' said; fi
            }
            try '--map 0:10000:5000' image; try '--map 0:20000:5000' image; try '' image
            try '--map 0:10000:5000' image2; try '--map 0:10000:5000 --hide /files' image
            grep -o 'remove .*work/idmapfs' said || idmapfs --upper up ./image .cache/view 2>&1 | grep -o 'remove .*work/idmapfs'
            idmapfs run --upper up ./image -- /bin/true 2>&1 | grep -o 'it has files [^;]*'
            rm up.work/idmapfs; try '--map 0:20000:5000' image; try '--map 0:10000:5000' image
            # Where nothing is left of it, it is anybody's.
            rm -r up; try '' image2; try '' image2; rm -r up; mkdir up; try '' image; try '' image2",
        );
        let (owners, image) = (
            "it has files with owners that another policy showed\n",
            "it has files of another image\n",
        );
        let hint = format!("remove {}/up.work/idmapfs\n", str(&ann.home));
        let want = format!(
            "made\n{owners}{owners}{image}made\n{hint}{owners}made\n{owners}made\nmade\nmade\n{image}"
        );
        assert_eq!(out, want);
    });
}

#[test]
fn an_upper_directory_that_others_can_reach_is_warned_of() {
    require!(Root, Fuse, UserNamespaces, Overlay, AclTools, CapTools, Erofs);
    sandbox(|sandbox| {
        let ann = with_image(sandbox, EROFS);
        let out = inside(
            &ann,
            "for mode in 755 711 750; do
                chmod $mode ~; idmapfs --log warn,file=$HOME/log --upper upper ./image .cache/view
                grep -o 'chmod go-x .*' log || echo none; rm log; umount .cache/view
            done",
        );
        let hint = format!("chmod go-x {}\n", str(&ann.home));
        assert_eq!(out, format!("{hint}{hint}none\n"));
    });
}
