//! Many callers at once, for a while: nothing hangs, leaks or gets mixed up.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::require;
use crate::support::ours::{Ours, processes};
use crate::support::{holds_within, raw, sandbox, sh, str};

/// Descriptors that the processes of a mount hold.
fn descriptors(point: &Path) -> usize {
    processes(point)
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .map(Iterator::count)
        .sum()
}

/// Memory of the processes of a mount that is in RAM, in kB.
fn resident(point: &Path) -> usize {
    let of = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    processes(point)
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .map(of)
        .sum()
}

/// A shell that repeats a script for a few seconds, as a user.
fn busy(uid: u32, dir: &Path, script: &str) -> Child {
    let mut command = Command::new("bash");
    let script = format!(
        "cd {}; end=$((SECONDS + 4)); while ((SECONDS < end)); do {script}; done",
        str(dir)
    );
    command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
    // `ls` and `find` complain of names that others take away meanwhile.
    command.stderr(Stdio::null());
    raw::run_as(&mut command, uid, uid, &[]).spawn().unwrap()
}

/// Each caller has names of its own; all of them share directories.
const WORK: [&str; 6] = [
    "echo $$ > own.$$; [ $(cat own.$$) = $$ ] || echo mixed up >> fault; rm own.$$",
    "mkdir -p d.$$/e/f; touch d.$$/e/f/g; mv d.$$ m.$$; rm -rf m.$$",
    "ln -sf x l.$$; ln -f keep h.$$; readlink l.$$; rm -f l.$$ h.$$",
    "find . > /dev/null 2>&1; ls -ln . ; stat -c %u keep",
    "dd if=/dev/zero of=z.$$ bs=64k count=8 status=none; cmp -n 65536 z.$$ /dev/zero || echo bad > fault; rm z.$$",
    "for n in 1 2 3 4 5 6 7 8; do : > f.$$.$n; done; mv f.$$.1 f.$$.2; rm f.$$.*",
];

#[test]
fn many_callers_at_once() {
    require!(Root, Fuse);
    for cache in ["none", "ttl=1"] {
        sandbox(move |sandbox| {
            let source = sandbox.dir("src");
            raw::chmod(&source, 0o777).unwrap();
            fs::write(source.join("keep"), "kept").unwrap();
            raw::chmod(&source.join("keep"), 0o666).unwrap();
            let args = ["--map", "0:100000:1000", "--cache", cache];
            let ours = Ours::new(&source, &sandbox.dir("mnt"), &args);
            let before = descriptors(&ours.point);
            let callers: Vec<Child> = (0..12)
                .map(|n| busy(100_001 + n, &ours.point, WORK[n as usize % WORK.len()]))
                .collect();
            for mut caller in callers {
                caller.wait().unwrap();
            }
            assert!(!source.join("fault").exists(), "--cache {cache}");
            let left = sh(&format!("ls -A {}", str(&source)));
            assert_eq!(left.trim(), "keep", "--cache {cache}");
            assert_eq!(fs::metadata(source.join("keep")).unwrap().nlink(), 1);
            // Forgotten nodes give their descriptors back.
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let few = || descriptors(&ours.point) < before + 40;
            assert!(
                holds_within(std::time::Duration::from_secs(5), few),
                "{} descriptors, {before} before",
                descriptors(&ours.point)
            );
            assert_eq!(ours.unmount(), Some(0));
        });
    }
}

/// The allocator would keep it for later. Some megabytes it does keep: each thread has
/// pieces at hand, which may lie in many pages.
#[test]
fn the_memory_of_forgotten_files_is_given_back() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--map", "0:100000:1000"]);
        for n in 0..120_000 {
            fs::write(source.join(n.to_string()), "").unwrap();
        }
        let rest = resident(&ours.point);
        // Other tests drop caches too: what they drop during a walk is never many
        // at once, and its memory is kept for the next walk.
        let given_back = (0..3).any(|_| {
            sh(&format!("find {} -uid 0 | wc -l", str(&ours.point)));
            let full = resident(&ours.point);
            assert!(full > rest + 12_000, "{rest} kB at rest, {full} kB after a walk");
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let less = || resident(&ours.point) < rest.midpoint(full);
            holds_within(std::time::Duration::from_secs(20), less)
        });
        assert!(given_back, "{rest} kB at rest, {} kB now", resident(&ours.point));
    });
}

/// Writers that append to one file: every line arrives whole, and once.
#[test]
fn appends_do_not_overwrite_each_other() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let script = format!(
            "cd {}; for w in 1 2 3 4; do (for n in $(seq 300); do echo \"line $w $n\" >> f; done) & \
             done; wait",
            str(&ours.point)
        );
        sh(&script);
        let text = fs::read_to_string(source.join("f")).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 1200);
        assert!(lines.iter().all(|line| line.starts_with("line ")));
    });
}

/// A tree copied in and compared: contents, times, links, owners.
#[test]
fn a_tree_goes_in_and_out_unchanged() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let from = "/usr/share/zoneinfo /usr/share/perl5 /usr/lib/x86_64-linux-gnu/perl-base";
        let have = sh(&format!("ls -d {from} 2>/dev/null | head -1 || true"));
        let from = have.trim();
        assert!(!from.is_empty(), "no tree to copy");
        sh(&format!("cp -a {from} {}/tree", str(&ours.point)));
        let list = |dir: &str| {
            sh(&format!("cd {dir}; find . -printf '%P %y %m %n %U %G %s %T@ %l\\n' | sort"))
        };
        let (point, disk) = (ours.at("tree"), source.join("tree"));
        assert_eq!(list(str(&point)), list(str(&disk)));
        sh(&format!("diff -r --no-dereference {from} {}", str(&point)));
        sh(&format!("rm -rf {}", str(&point)));
        assert!(!disk.exists());
    });
}

/// One large copy is many requests: nobody waits behind it.
#[test]
fn a_large_copy_does_not_hold_a_worker() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let size = 200 << 20;
        fs::File::create(source.join("a")).unwrap().set_len(size).unwrap();
        let from = fs::File::open(ours.at("a")).unwrap();
        let to = fs::File::create(ours.at("b")).unwrap();
        let before = to.metadata().unwrap().len();
        raw::copy_range(from.as_fd(), to.as_fd(), usize::try_from(size).unwrap()).unwrap();
        let done = fs::metadata(source.join("b")).unwrap().len();
        assert!(before < done && done <= 64 << 20, "{done} bytes in one request");
        drop((from, to));
        sh(&format!("cp --reflink=auto {0}/a {0}/b; cmp {0}/a {0}/b", str(&ours.point)));
    });
}

/// A file system below the source does not answer, as a server that is far away.
#[test]
fn who_waits_for_a_file_system_that_hangs_holds_up_nobody_else() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, slow) = (sandbox.dir("src"), sandbox.dir("slow"));
        let below = Ours::new(&slow, &sandbox.dir("src/below"), &["--cache", "none"]);
        let ours = Ours::new(&source, &sandbox.dir("mnt"), &[]);
        // Both are known before.
        assert!(fs::read_dir(ours.at("below")).unwrap().next().is_none());
        below.signal_server(Signal::SIGSTOP);
        let mut wait: Vec<Child> = (0..12)
            .map(|number| {
                let name = ours.at("below").join(number.to_string());
                Command::new("stat").arg(name).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let (tell, told) = channel();
        let new = ours.at("new");
        std::thread::spawn(move || {
            for _ in 0..50 {
                fs::write(&new, "x").unwrap();
                fs::remove_file(&new).unwrap();
            }
            tell.send(()).unwrap();
        });
        let answered = told.recv_timeout(Duration::from_secs(20));
        below.signal_server(Signal::SIGCONT);
        assert!(answered.is_ok(), "{}", ours.log());
        for child in &mut wait {
            assert!(!child.wait().unwrap().success());
        }
    });
}

/// A lookup opens nothing: what it has found may be gone before it is opened.
#[test]
fn what_the_host_replaces_again_and_again_is_never_lost() {
    require!(Root, Fuse);
    for args in [&[][..], &["--cache", "none"], &["--passthrough", "off"]] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, args);
            let (new, name) = (source.join("new"), source.join("f"));
            fs::write(&name, "x").unwrap();
            let (ended, mut replaced) = (AtomicBool::new(false), 0);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        assert!(fs::metadata(ours.at("f")).unwrap().is_file());
                        assert_eq!(fs::read(ours.at("f")).unwrap(), b"x");
                    }
                });
                let begun = Instant::now();
                let goes_on = |replaced| begun.elapsed().as_secs() < 2 || replaced <= 100;
                while goes_on(replaced) && !reader.is_finished() {
                    fs::write(&new, "x").unwrap();
                    fs::rename(&new, &name).unwrap();
                    replaced += 1;
                }
                ended.store(true, Ordering::SeqCst);
            });
            assert!(replaced > 100, "{replaced}");
        });
    }
}
