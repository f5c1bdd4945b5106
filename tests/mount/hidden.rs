//! Ways around rules: what is hidden must not be found, and nobody makes more of
//! a rule than it says.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::{Ours, finish};
use crate::support::{
    Sandbox, mount_at, raw, run, sandbox, sh, sh_as, str, text, try_sh_as, wait_for,
};

/// A mount by a policy file, believed for an hour.
struct Live {
    file: PathBuf,
    source: PathBuf,
    ours: Ours,
}

impl Live {
    /// Mounts a source that a script fills, under this policy.
    fn new(sandbox: &Sandbox, fill: &str, policy: &str) -> Self {
        let source = sandbox.dir("src");
        sh(&format!("cd {}; {fill}", str(&source)));
        let file = sandbox.file("p.toml", &format!("version = 1\n{policy}"));
        let args = ["--policy", str(&file), "--cache", "ttl=3600"];
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
        Self { file, source, ours }
    }

    /// Puts another policy in force.
    fn reload(&self, policy: &str) {
        fs::write(&self.file, format!("version = 1\n{policy}")).unwrap();
        let mut said = String::new();
        // In the foreground the mount is there before it can be asked; what it is asked by may
        // be there of another one's, that was killed.
        wait_for("a reload", || {
            let done = finish(&["reload", str(&self.ours.point)]);
            said = text(&done);
            done.status.success() || !(said.contains("no socket") || said.contains("has ended"))
        });
        assert!(said.trim_end().ends_with("exit status: 0"), "{said}");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.ours.at(name)
    }
}

/// The error of what fails, else 0.
fn errno<T>(done: std::io::Result<T>) -> i32 {
    done.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

const KEYS: &str = "[[rules]]\nname = '*.key'\nhide = true";

#[test]
fn what_a_reload_hides_is_out_of_reach_at_once() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "mkdir d d/dir.key d/mnt.key; echo k > d/a.key; ln -s a.key d/l.key
                    echo in > d/dir.key/in; echo p > d/b.key; ln d/b.key d/pub";
        let live = Live::new(sandbox, fill, "");
        sh(&format!("setfattr -n user.x -v 1 {}/d/a.key", str(&live.source)));
        let path = |name: &str| {
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let file = File::options().read(true).custom_flags(flags).open(live.at(name)).unwrap();
            let again = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            (file, again)
        };
        let (file, by_fd) = path("d/a.key");
        let (_dir, dir_by_fd) = path("d/dir.key");
        let open_dir = File::open(live.at("d/dir.key")).unwrap();
        let mut open = File::open(live.at("d/a.key")).unwrap();
        for name in ["d/a.key", "d/b.key", "d/pub", "d/l.key"] {
            fs::symlink_metadata(live.at(name)).unwrap();
        }
        live.reload(KEYS);
        for name in ["d/a.key", "d/b.key", "d/l.key", "d/dir.key", "d/dir.key/in"] {
            assert_eq!(errno(fs::symlink_metadata(live.at(name))), libc::ENOENT, "{name}");
        }
        // The other name of the one is none of the hidden.
        assert_eq!(fs::read(live.at("d/pub")).unwrap(), b"p\n");
        assert_eq!(errno(fs::symlink_metadata(live.at("d/b.key"))), libc::ENOENT);
        assert_eq!(sh(&format!("ls -A {}", str(&live.at("d")))), "pub\n");
        // A descriptor that stands for a name is as good as the name.
        assert_eq!(errno(File::open(&by_fd)), libc::ESTALE);
        assert_eq!(errno(fs::metadata(&by_fd)), libc::ESTALE);
        let by_pid = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        for how in ["getfattr -n user.x", "getfattr -d -m -", "setfattr -n user.y -v 1"] {
            let done = try_sh_as(0, 0, &[], &format!("{how} {by_pid}"));
            assert!(!done.status.success() && !text(&done).contains("user.x="), "{}", text(&done));
        }
        for (what, done) in [
            ("chmod", raw::chmod(&by_fd, 0o600).map(drop)),
            ("truncate", raw::truncate(&by_fd, 0).map(drop)),
        ] {
            assert!(done.is_err(), "{what}");
        }
        assert!(fs::read_dir(&dir_by_fd).is_err() && File::open(dir_by_fd.join("in")).is_err());
        let by_dir = PathBuf::from(format!("/proc/self/fd/{}", open_dir.as_raw_fd()));
        assert!(File::open(by_dir.join("in")).is_err() && File::create(by_dir.join("n")).is_err());
        let refused = Err(libc::EPERM);
        assert_eq!(raw::mkdir(&live.at("d/a.key"), 0o755).map(drop), refused);
        assert_eq!(raw::rename(&live.at("d/pub"), &live.at("d/b.key"), 0).map(drop), refused);
        // What is open for reading stays so.
        let mut contents = String::new();
        std::io::Read::read_to_string(&mut open, &mut contents).unwrap();
        assert_eq!(contents, "k\n");
        live.reload("");
        assert_eq!(fs::read(live.at("d/a.key")).unwrap(), b"k\n");
        assert_eq!(fs::read(&by_fd).unwrap(), b"k\n");
        assert_eq!(sh(&format!("getfattr --only-values -n user.x {by_pid}")), "1");
        assert_eq!(fs::read_link(live.at("d/l.key")).unwrap(), Path::new("a.key"));
    });
}

/// Each name of a listing with the offset of the next.
fn listing(dir: &Path) -> Vec<(String, i64)> {
    let stream = raw::Directory::open(dir).unwrap();
    std::iter::from_fn(|| stream.next().map(|name| (name, stream.tell()))).collect()
}

#[test]
fn a_listing_is_as_if_what_is_hidden_were_not_there() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        // An offset of ext4 is a hash of the next name.
        let fill = "for d in with without; do mkdir $d; (cd $d; seq -f v%g 400 | xargs touch); done
                    for n in $(seq 40); do : > with/hidden$n; mkdir with/hidden-dir$n; done";
        for (at, source) in [image.root.clone(), sandbox.dir("src")].into_iter().enumerate() {
            sh(&format!("cd {}; {fill}", str(&source)));
            let point = sandbox.dir(&format!("mnt{at}"));
            let ours = Ours::new(&source, &point, &["--hide", "with/hidden*"]);
            let [with, without] = ["with", "without"].map(|name| ours.at(name));
            let names = |dir: &Path| listing(dir).into_iter().map(|line| line.0);
            assert!(names(&with).eq(names(&without)));
            if at == 0 {
                assert!(listing(&with) == listing(&without), "offsets tell of hidden names");
            }
            let (with, without) = (fs::metadata(with).unwrap(), fs::metadata(without).unwrap());
            assert_eq!((with.nlink(), with.size(), with.blocks()), (1, 0, 0));
            assert_eq!(without.nlink(), 2);
        }
    });
}

#[test]
fn any_number_of_hidden_names_ends_no_listing() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "mkdir d; cd d; seq -f hidden%g 5000 | xargs touch; touch one two
                    seq -f hidden%g 5001 12000 | xargs touch; seq -f shown%g 600 | xargs touch
                    seq -f hidden%g 12001 15000 | xargs touch";
        let live = Live::new(sandbox, fill, "[[rules]]\nname = 'hidden*'\nhide = true");
        let dir = live.at("d");
        let lines = listing(&dir);
        let mut names: Vec<_> = lines.iter().map(|line| line.0.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), lines.len()), (604, 604));
        // From every position a listing goes on where it was.
        let stream = raw::Directory::open(&dir).unwrap();
        for (at, line) in lines.iter().enumerate().step_by(37) {
            stream.seek(line.1);
            let next = stream.next();
            assert_eq!(next.as_ref(), lines.get(at + 1).map(|next| &next.0), "after {}", line.0);
        }
        sh(&format!("rm {}/[ost]*", str(&dir)));
        let left = text(&crate::support::output("rmdir", &[str(&dir)]));
        assert!(left.contains("not empty"), "{left}");
    });
}

#[test]
fn no_rule_gives_a_set_id_program_to_somebody_else() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = "[[rules]]\npath = 'modes/**'\nmode = '/6000'\npresent-owner = '0:0'\n\
                      [[rules]]\npath = 'masked/**'\npresent-mode = 'ug-s'\n\
                      [[rules]]\npath = 'lent/**'\npresent-owner = '1000:1000'";
        let fill = "mkdir modes masked lent; chmod 777 modes masked; cp /bin/true masked/p
                    chown 7:7 masked/p; chmod 6777 masked/p
                    for f in p q r; do cp /bin/true lent/$f; done; chmod 6755 lent/p lent/q";
        let live = Live::new(sandbox, fill, policy);
        let bits = |name: &str| fs::metadata(live.source.join(name)).unwrap().mode() & 0o7777;
        let as_user = |script: &str| {
            try_sh_as(1000, 1000, &[], &format!("cd {}; {script}", str(&live.ours.point)))
        };
        // With these bits it would be shown as a program of root.
        as_user("cp /bin/true modes/p; chmod 4755 modes/p; install -m 6755 /bin/true modes/q");
        assert_eq!((bits("modes/p"), bits("modes/q")), (0o755, 0o755));
        as_user("python3 -c 'import os; os.close(os.open(\"modes/r\", os.O_CREAT, 0o6755))'");
        assert_eq!(bits("modes/r") & 0o6000, 0);
        // A write takes bits that the kernel does not know of.
        assert_eq!(fs::metadata(live.at("masked/p")).unwrap().mode() & 0o7777, 0o777);
        let done = as_user("printf x >> masked/p");
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(bits("masked/p"), 0o777);
        // What is shown as one's own is, on the host, a program of root.
        let store = "import mmap; f = open(\"lent/p\", \"r+b\"); mmap.mmap(f.fileno(), 0)[0] = 1";
        for script in [&format!("python3 -c '{store}'"), "chmod 6711 lent/q", "chmod 4755 lent/r"] {
            let done = as_user(script);
            assert!(done.status.success(), "{}", text(&done));
        }
        assert_eq!([bits("lent/p"), bits("lent/q"), bits("lent/r")], [0o755, 0o711, 0o755]);
    });
}

#[test]
fn a_whiteout_is_a_new_file() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = "[[rules]]\npath = 'a/*'\ntype = 'char-device'\nhide = true\n\
                      [[rules]]\npath = 'b/*'\ntype = 'char-device'\ndeny = ['create']";
        let live = Live::new(sandbox, "mkdir a b c; touch a/f b/f c/f", policy);
        for (dir, want) in [("a", Err(libc::EPERM)), ("b", Err(libc::EPERM)), ("c", Ok(()))] {
            let (from, to) = (live.at(&format!("{dir}/f")), live.at(&format!("{dir}/g")));
            assert_eq!(raw::rename(&from, &to, libc::RENAME_WHITEOUT).map(drop), want, "{dir}");
        }
    });
}

/// Programs that change, copy and move whole trees.
#[test]
fn programs_work_on_trees_with_hidden_parts() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill = "mkdir -p t/deep/.ssh t/deep/er; echo s > t/deep/.ssh/id; echo f > t/deep/er/f
                    echo g > t/g; ln t/g t/deep/h; touch t/x.key";
        let policy = format!("{KEYS}\n[[rules]]\nname = '.ssh'\nhide = true");
        let live = Live::new(sandbox, fill, &policy);
        let (point, out) = (str(&live.ours.point).to_owned(), str(&sandbox.dir("out")).to_owned());
        let script = format!(
            "cd {point}; cp -a t {out}/cp; tar cf - t | tar xf - -C {out}; rsync -aHAX t {out}/rs
             mkdir -p t/deep/er/new/er; mv t/deep/er t/moved; mv t/moved/f t/deep/; find . -name nothing
             cp -a {out}/cp again; rm -rf again; chmod -R u+rwX t; du -s t > /dev/null"
        );
        sh(&script);
        for copy in ["cp", "t", "rs/t"] {
            let found = sh(&format!("cd {out}/{copy}; find . | sort | tr '\\n' ' '"));
            assert_eq!(found, ". ./deep ./deep/er ./deep/er/f ./deep/h ./g ", "{copy}");
        }
        let left = try_sh_as(0, 0, &[], &format!("cd {point}; rm -rf t"));
        assert!(text(&left).contains("not empty"), "{}", text(&left));
        let kept = sh(&format!("cd {}; find t -type f | sort", str(&live.source)));
        assert_eq!(kept, "t/deep/.ssh/id\nt/x.key\n");
    });
}

/// Callers at work while rules come and go, with what is open and mounted.
#[test]
fn rules_come_and_go_under_callers_at_work() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let fill =
            "mkdir -p d/mounted d/work; chmod 777 d/work; echo s > d/secret; chmod 600 d/secret
                    echo o > d/open; mkdir d/shut; chmod 755 d/shut; echo i > d/shut/in";
        // In each of them `shut` is for its owner alone, and the secret for root.
        let base = "[[rules]]\npath = 'd/shut'\npresent-mode = 'go='\n";
        let live = Live::new(sandbox, fill, base);
        run("mount", &["-t", "tmpfs", "none", str(&live.at("d/mounted"))]);
        fs::write(live.at("d/mounted/x"), "x").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (stop, live) = (&stop, &live);
            for worker in 0..3 {
                scope.spawn(move || {
                    let at = |name: &str| live.at(&format!("d/work/{name}{worker}"));
                    while !stop.load(Ordering::Relaxed) {
                        fs::write(at("a"), "x").unwrap();
                        fs::create_dir_all(at("dir")).unwrap();
                        fs::rename(at("a"), at("dir").join("b")).unwrap();
                        assert_eq!(fs::read(at("dir").join("b")).unwrap(), b"x");
                        fs::hard_link(at("dir").join("b"), at("c")).unwrap();
                        fs::remove_file(at("c")).unwrap();
                        fs::remove_file(at("dir").join("b")).unwrap();
                        assert_eq!(fs::read(live.at("d/mounted/x")).unwrap(), b"x");
                    }
                });
            }
            // A stranger never gets in, whatever is in force.
            let shut = live.at("d/shut/in");
            let script = format!(
                "while [ ! -e {0}/stop ]; do cat {1} 2>&- && exit 1; done; :",
                str(&live.at("d/work")),
                str(&shut)
            );
            let stranger = scope.spawn(move || try_sh_as(1000, 1000, &[], &script));
            for round in 0..100 {
                let hide = ["d/open", "d/other/**", "d/secret", "**/nothing"][round % 4];
                live.reload(&format!("[[rules]]\npath = '{hide}'\nhide = true\n{base}"));
                assert_eq!(live.at("d/open").exists(), hide != "d/open", "{round}");
                assert_eq!(live.at("d/secret").exists(), hide != "d/secret", "{round}");
                assert_eq!(mount_at(&live.at("d/mounted")).unwrap().kind, "tmpfs");
            }
            fs::write(live.at("d/work/stop"), "").unwrap();
            stop.store(true, Ordering::Relaxed);
            let done = stranger.join().unwrap();
            assert!(done.status.success(), "{}", text(&done));
        });
        run("umount", &[str(&live.at("d/mounted"))]);
    });
}

#[test]
fn a_mirror_sees_rules_and_changes_and_new_ones() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = |rules: &str, mirror: &str| {
            format!(
                "[changes]\nchown = 'ignore'\n[callers]\nmirror = ['{mirror}']\n\
                 [[rules]]\npath = 'd/shown'\npresent-owner = '7:8'\n{rules}"
            )
        };
        let fill = "mkdir d; echo x > d/shown; echo k > d/a.key; ln d/a.key d/pub; echo r > d/ro
                    chown -R 5:6 d; chmod 700 d; chmod 600 d/*";
        let live = Live::new(sandbox, fill, &policy("", "1001"));
        let dir = str(&live.at("d")).to_owned();
        let on = |uid, script: &str| try_sh_as(uid, 500, &[], &format!("cd {dir} && {script}"));
        let works = |uid, script: &str| on(uid, script).status.success();
        assert_eq!(sh_as(1001, 500, &[], &format!("stat -c %u:%g {dir}/shown")), "1001:8\n");
        assert!(works(1001, "cat a.key pub shown ro && chown 1001 ro"));
        assert!(!works(1002, "true"));
        assert_eq!(sh(&format!("stat -c %u:%g {dir}/shown")), "7:8\n");
        live.reload(&policy(
            &format!("{KEYS}\n[[rules]]\npath = 'd/ro'\nread-only = true"),
            "1002",
        ));
        assert!(!works(1001, "true"));
        assert!(works(1002, "cat pub shown ro && chmod 640 shown && ! cat a.key 2>&-"));
        for wrong in ["echo x >> ro", "touch a.key", "mkdir a.key", "rm -f ro", "mv pub ro"] {
            assert!(!works(1002, wrong) && !works(0, wrong), "{wrong}");
        }
        let disk = fs::metadata(live.source.join("d/shown")).unwrap();
        assert_eq!((disk.uid(), disk.gid(), disk.mode() & 0o7777), (5, 6, 0o640));
        // Without the part about callers it is another mount.
        fs::write(&live.file, "version = 1\n").unwrap();
        let refused = finish(&["reload", str(&live.ours.point)]);
        assert!(text(&refused).contains("depend on the caller"), "{}", text(&refused));
        assert!(works(1002, "cat ro") && !works(1001, "cat ro"));
    });
}

#[test]
fn an_overlay_keeps_what_it_needs_under_another_name() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let policy = "[[changes.xattrs]]\nname = 'trusted.overlay.*'\naction = 'rename'\n\
                      to = 'user.overlay.'";
        let live =
            Live::new(sandbox, "mkdir lower upper work; mkdir lower/d; echo 1 > lower/d/f", policy);
        let merged = sandbox.dir("merged");
        let at = |name: &str| str(&live.at(name)).to_owned();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let tried = crate::support::output(
            "mount",
            &["-t", "overlay", "-o", &options, "overlay", str(&merged)],
        );
        assert!(tried.status.success(), "{}", text(&tried));
        sh(&format!("cd {}; rm -r d; mkdir d; echo 2 > d/g; mkdir e; mv e f", str(&merged)));
        assert_eq!(sh(&format!("ls {}/d", str(&merged))), "g\n");
        let stored = sh(&format!("getfattr -m - -d -R --absolute-names {}", str(&live.source)));
        assert!(stored.contains("user.overlay.opaque") && !stored.contains("trusted."), "{stored}");
        run("umount", &[str(&merged)]);
    });
}

/// What the host does with hidden names, and what a reload hides, is told to
/// nobody: neither by events, nor in the log and the table of mounts.
#[test]
fn nobody_is_told_of_hidden_names() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let live = Live::new(
            sandbox,
            "mkdir d; echo x > d/open-secret; echo x > d/plain",
            "[[rules]]\nname = 'top-secret'\nhide = true",
        );
        let look =
            || sh(&format!("ls {0}/d; stat {0}/d/top-secret || true", str(&live.ours.point)));
        look();
        let events = raw::watch(&live.ours.at("d")).unwrap();
        let dir = live.source.join("d");
        fs::write(dir.join("top-secret"), "x").unwrap();
        look();
        fs::rename(dir.join("top-secret"), dir.join("x")).unwrap();
        fs::rename(dir.join("x"), dir.join("top-secret")).unwrap();
        look();
        assert_eq!(raw::mkdir(&live.ours.at("d/top-secret"), 0o755), Err(libc::EPERM));
        fs::remove_file(dir.join("top-secret")).unwrap();
        look();
        live.reload("[[rules]]\nname = '*-secret'\nhide = true");
        assert_eq!(look(), "plain\n");
        assert!(!raw::readable(events.as_fd(), 300), "no event");
        fs::write(live.ours.at("d/new"), "x").unwrap();
        assert!(raw::readable(events.as_fd(), 2000), "but one of what is made in the view");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for told in [live.ours.log(), mounts] {
            assert!(!told.contains("secret"), "{told}");
        }
    });
}
