//! Where a write goes: `O_APPEND` by open(2) and by fcntl(2), and what pwritev2(2) says of
//! one call, while the host appends too.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::rng::Rng;
use crate::support::{Sandbox, raw, run, sandbox, str};

/// One thing that is done, to a file that is open or by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `F_SETFL` with `O_APPEND`.
    Set,
    /// `F_SETFL` without it.
    Clear,
    /// lseek(2) and write(2).
    Write,
    /// pwrite(2).
    Pwrite,
    /// pwritev2(2) with `RWF_APPEND`.
    Append,
    /// pwritev2(2) with `RWF_NOAPPEND`.
    Noappend,
    /// The host appends.
    Host,
}

const STEPS: [Step; 7] =
    [Step::Set, Step::Clear, Step::Write, Step::Pwrite, Step::Append, Step::Noappend, Step::Host];

/// What a file has at first.
const START: &str = "0123456789";

fn open(path: &Path, append: bool) -> File {
    let flags = if append { libc::O_APPEND } else { 0 };
    File::options().read(true).write(true).custom_flags(flags).open(path).unwrap()
}

fn set_append(file: &File, on: bool) {
    let flags = if on { OFlag::O_APPEND } else { OFlag::empty() };
    fcntl(file, FcntlArg::F_SETFL(flags)).unwrap();
}

fn host_appends(path: &Path, data: &[u8]) {
    open(path, true).write_all(data).unwrap();
}

/// Opens a file at a path and does the steps, to it and to what the host has of it;
/// returns what each call said and where it left the position.
fn act(path: &Path, on_host: &Path, append: bool, steps: &[Step]) -> Vec<(raw::Sys, u64)> {
    let file = open(path, append);
    let done = steps.iter().zip(b'a'..).map(|(step, letter)| {
        let data = [letter; 2];
        let so = |off, flags| raw::write_so(file.as_fd(), &data, off, flags);
        let said = match step {
            Step::Set | Step::Clear => {
                set_append(&file, *step == Step::Set);
                Ok(0)
            }
            Step::Write => {
                (&file).seek(SeekFrom::Start(1)).unwrap();
                so(-1, 0)
            }
            Step::Pwrite => so(4, 0),
            Step::Append => so(4, libc::RWF_APPEND),
            Step::Noappend => so(7, libc::RWF_NOAPPEND),
            Step::Host => {
                host_appends(on_host, &data.map(|letter| letter.to_ascii_uppercase()));
                Ok(0)
            }
        };
        (said, (&file).stream_position().unwrap())
    });
    let done = done.collect();
    file.sync_all().unwrap();
    done
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// The kernel, by the host's file.
    Kernel,
    /// The server, what the kernel hands over.
    Server,
    /// The server, what the kernel has cached; nobody else changes the source.
    Cache,
}

impl Writer {
    /// What comes to the same on the source as these steps on a mount; `None` where there
    /// is no such thing.
    ///
    /// Every difference has a test of its own below.
    fn made(self, append: bool, steps: &[Step]) -> Option<Vec<Step>> {
        let (mut appends, mut moved) = (append, false);
        let made = steps.iter().map(|&step| {
            match step {
                Step::Set => appends = true,
                Step::Clear => appends = false,
                Step::Host => moved = true,
                // Goes to the end unbeknown to the kernel.
                Step::Noappend if appends => moved = true,
                _ => {}
            }
            match (self, step) {
                (Self::Kernel, Step::Clear) if append => Some(Step::Set),
                (Self::Kernel, Step::Noappend) if append => Some(Step::Append),
                (Self::Server, Step::Noappend) if appends => Some(Step::Append),
                (Self::Server, Step::Append) if moved && !appends => None,
                (Self::Cache, Step::Host) => None,
                _ => Some(step),
            }
        });
        made.collect()
    }

    /// Whether the position is that of the source after these steps.
    fn knows_position(self, steps: &[Step]) -> bool {
        self != Self::Server || !steps.iter().any(|s| matches!(s, Step::Host | Step::Noappend))
    }
}

/// Whether the kernel knows `RWF_NOAPPEND` (Linux 6.9).
fn has_noappend(sandbox: &Sandbox) -> bool {
    let file = open(&sandbox.file("noappend", ""), true);
    raw::write_so(file.as_fd(), b"x", 0, libc::RWF_NOAPPEND).is_ok()
}

/// All sequences of three steps, and some of eight.
fn sequences(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut all = vec![Vec::new()];
    for _ in 0..3 {
        let longer = |short: &Vec<Step>| {
            let short = short.clone();
            steps.iter().map(move |step| [&short[..], &[*step]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    let mut rng = Rng::new(11);
    all.extend((0..200).map(|_| (0..8).map(|_| rng.pick(steps)).collect()));
    all
}

/// Compares a mount of a source with the source itself, which another directory of the
/// same file system stands for.
fn compare(sandbox: &Sandbox, (source, ours): (&Path, &Ours), writer: Writer, looks: bool) {
    let model = sandbox.dir("model");
    let known = has_noappend(sandbox);
    let steps: Vec<Step> =
        STEPS.into_iter().filter(|step| known || *step != Step::Noappend).collect();
    let mut compared = 0;
    for (number, steps) in sequences(&steps).iter().enumerate() {
        for append in [false, true] {
            let Some(made) = writer.made(append, steps) else { continue };
            let name = format!("{number}-{append}");
            let (on_host, modelled) = (source.join(&name), model.join(&name));
            for path in [&on_host, &modelled] {
                fs::write(path, START).unwrap();
                raw::chmod(path, 0o666).unwrap();
            }
            let what = || format!("{writer:?}, O_APPEND: {append}, {steps:?}");
            let mut expected = act(&modelled, &modelled, append, &made);
            let mut said = act(&ours.at(&name), &on_host, append, steps);
            if !writer.knows_position(steps) {
                expected.iter_mut().chain(&mut said).for_each(|(_, position)| *position = 0);
            }
            assert_eq!(said, expected, "{}", what());
            let contents = fs::read_to_string(&modelled).unwrap();
            assert_eq!(fs::read_to_string(&on_host).unwrap(), contents, "{}", what());
            if looks {
                assert_eq!(fs::read_to_string(ours.at(&name)).unwrap(), contents, "{}", what());
            }
            for path in [&on_host, &modelled] {
                fs::remove_file(path).unwrap();
            }
            compared += 1;
        }
    }
    assert!(compared > 400, "{compared} sequences");
}

#[test]
fn writes_go_where_they_go_on_the_source() {
    require!(Root, Fuse, Passthrough);
    for (args, writer, looks) in [
        (&[][..], Writer::Kernel, true),
        (&["--passthrough", "off"], Writer::Server, false),
        (&["--passthrough", "off", "--cache", "none"], Writer::Server, true),
        (&["--passthrough", "off", "--cache", "ttl=1"], Writer::Server, false),
        (&["--passthrough", "off", "--cache", "exclusive"], Writer::Cache, false),
    ] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, args);
            compare(sandbox, (&source, &ours), writer, looks);
        });
    }
}

#[test]
fn writes_by_an_ordinary_users_server_go_where_they_go_on_the_source() {
    require!(Root, Fuse, Fusermount);
    for args in [&[][..], &["--owners", "xattr"]] {
        sandbox(move |sandbox| {
            let (source, point) = (sandbox.dir("src"), sandbox.dir("mnt"));
            let ours = Ours::of_user(sandbox, 34, &source, &point, args);
            compare(sandbox, (&source, &ours), Writer::Server, false);
        });
    }
}

/// Both sides append at the same time, one of them by a flag that came later: nothing is
/// lost. One call may be two requests, and the host append in between.
#[test]
fn what_both_sides_append_at_once_is_all_there() {
    require!(Root, Fuse);
    let [here, there] = ['0', 'a'].map(|first| {
        let shown = move |digit: u8| char::from(first as u8 + digit - b'0');
        move |n: usize| format!("{n:05}").bytes().map(shown).collect::<String>()
    });
    for args in [&[][..], &["--passthrough", "off"]] {
        sandbox(move |sandbox| {
            let (source, ours) = Ours::of_new(sandbox, args);
            let path = source.join("f");
            fs::write(&path, "").unwrap();
            let (on_mount, on_host) = (open(&ours.at("f"), false), open(&path, true));
            set_append(&on_mount, true);
            let append = |mut file: &File, words: &dyn Fn(usize) -> String| {
                (0..2000).for_each(|n| file.write_all(words(n).as_bytes()).unwrap());
            };
            std::thread::scope(|scope| {
                scope.spawn(|| append(&on_mount, &here));
                scope.spawn(|| append(&on_host, &there));
            });
            let text = fs::read_to_string(&path).unwrap();
            let (digits, letters): (String, String) =
                text.chars().partition(|letter| letter.is_ascii_digit());
            assert!(digits == (0..2000).map(here).collect::<String>(), "{args:?}");
            assert!(letters == (0..2000).map(there).collect::<String>(), "{args:?}");
        });
    }
}

/// The end on the host is not that of the file while the kernel has more in its cache.
#[test]
fn what_goes_past_a_cache_is_appended_to_what_is_in_it() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let args = ["--passthrough", "off", "--cache", "exclusive"];
        let (source, ours) = Ours::of_new(sandbox, &args);
        let cached = [b'c'; 8192];
        File::create(ours.at("f")).unwrap();
        let (mut file, mut past) = (open(&ours.at("f"), false), open(&ours.at("f"), false));
        let flags = OFlag::O_APPEND | OFlag::O_DIRECT;
        fcntl(&past, FcntlArg::F_SETFL(flags)).unwrap();
        file.write_all(&cached).unwrap();
        past.write_all(b"past").unwrap();
        file.sync_all().unwrap();
        let contents = fs::read(source.join("f")).unwrap();
        let (before, end) = contents.split_at(cached.len());
        assert!(before == cached, "not what was in the cache");
        assert_eq!(end, b"past");
    });
}

/// The kernel opens the host's file with the flags of open(2), and knows no others of it.
#[test]
fn where_the_kernel_writes_what_was_opened_to_append_goes_on_appending() {
    require!(Root, Fuse, Passthrough);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &[]);
        let path = sandbox.path("src/f");
        fs::write(&path, START).unwrap();
        let file = open(&ours.at("f"), true);
        if has_noappend(sandbox) {
            raw::write_so(file.as_fd(), b"a", 0, libc::RWF_NOAPPEND).unwrap();
        } else {
            raw::write_so(file.as_fd(), b"a", 0, 0).unwrap();
        }
        set_append(&file, false);
        host_appends(&path, b"HOST");
        raw::write_so(file.as_fd(), b"b", 0, 0).unwrap();
        assert_eq!(fs::read_to_string(source.join("f")).unwrap(), format!("{START}aHOSTb"));
    });
}

/// The request to write has the flags of the descriptor and an offset, nothing else.
#[test]
fn where_the_server_writes_it_is_not_told_that_one_call_appends() {
    require!(Root, Fuse);
    sandbox(|sandbox| {
        let (source, ours) = Ours::of_new(sandbox, &["--passthrough", "off", "--cache", "none"]);
        let path = source.join("f");
        let contents = || fs::read_to_string(&path).unwrap();
        fs::write(&path, START).unwrap();
        let mut file = open(&ours.at("f"), false);
        let append = |data| raw::write_so(file.as_fd(), data, 0, libc::RWF_APPEND).unwrap();
        append(b"a");
        assert_eq!(contents(), format!("{START}a"));
        host_appends(&path, b"HOST");
        append(b"b");
        assert_eq!(contents(), format!("{START}abOST"), "the end as the kernel knows it");
        assert_eq!(file.metadata().unwrap().len(), 15);
        append(b"c");
        assert_eq!(contents(), format!("{START}abOSTc"), "it knows better once it has looked");

        set_append(&file, true);
        host_appends(&path, b"HOST");
        file.write_all(b"d").unwrap();
        assert_eq!(contents(), format!("{START}abOSTcHOSTd"));
        assert_eq!(file.stream_position().unwrap(), 17, "the end as the kernel knew it");
        if has_noappend(sandbox) {
            raw::write_so(file.as_fd(), b"e", 0, libc::RWF_NOAPPEND).unwrap();
            assert_eq!(contents(), format!("{START}abOSTcHOSTde"));
        }
    });
}

/// The host does not let such a file lose `O_APPEND`; the mount's kernel does not know it.
#[test]
fn what_only_appends_is_never_written_over() {
    require!(Root, Fuse, Ext4Loop, Passthrough);
    // Opened before it became so, and kept by the kernel or by the server; and after.
    for (args, before) in [(&[][..], Ok(1)), (&["--passthrough", "off"], Err(libc::EPERM))] {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 16);
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), args);
            let path = image.root.join("f");
            let write = |file: &File, data| {
                set_append(file, false);
                let said = raw::write_so(file.as_fd(), data, 0, 0);
                set_append(file, true);
                raw::write_so(file.as_fd(), b"+", 0, 0).unwrap();
                said
            };
            fs::write(&path, START).unwrap();
            let file = open(&ours.at("f"), true);
            run("chattr", &["+a", str(&path)]);
            assert_eq!(write(&file, b"a"), before);
            let end = if before.is_ok() { "a+" } else { "+" };
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{START}{end}"));
            drop(file);
            let file = File::options().append(true).open(ours.at("f")).unwrap();
            assert_eq!(write(&file, b"b"), Err(libc::EPERM));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{START}{end}+"));
            run("chattr", &["-a", str(&path)]);
        });
    }
}
