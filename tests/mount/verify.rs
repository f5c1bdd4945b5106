//! Random writes, mappings, truncations and copies, checked byte by byte
//! against what the file should hold.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::rng::Rng;
use crate::support::{Sandbox, raw, sandbox};

/// The files grow no longer than this.
const LIMIT: usize = 48 * 4096 + 123;
const PAGE: usize = 4096;
const STEPS: usize = 6000;

/// An open file, with the ways to reach it and what it should hold.
struct Subject {
    at: PathBuf,
    on_disk: PathBuf,
    /// Two descriptors of the same file.
    files: [File; 2],
    /// A page of it that stays mapped, and its number.
    page: Option<(raw::Page, usize)>,
    want: Vec<u8>,
}

impl Subject {
    fn new(ours: &Ours, source: &std::path::Path, name: &str) -> Self {
        let (at, on_disk) = (ours.at(name), source.join(name));
        File::options().append(true).create(true).open(&at).unwrap();
        let files = [open(&at, 0), open(&at, 0)];
        let want = fs::read(&at).unwrap();
        Self { at, on_disk, files, page: None, want }
    }

    fn any(&self, rng: &mut Rng) -> &File {
        &self.files[rng.below(2)]
    }

    /// Two descriptors, perhaps new ones.
    fn reopen(&mut self, flags: i32) {
        self.page = None;
        self.files = [open(&self.at, flags), open(&self.at, 0)];
    }

    fn resize(&mut self, size: usize) {
        // A store behind the end of the file goes nowhere.
        self.page = None;
        self.want.resize(size, 0);
    }

    /// Puts bytes where a write does.
    fn put(&mut self, offset: usize, data: &[u8]) {
        if self.want.len() < offset + data.len() {
            self.want.resize(offset + data.len(), 0);
        }
        self.want[offset..offset + data.len()].copy_from_slice(data);
    }

    /// Reads through a descriptor and compares.
    fn check(&self, rng: &mut Rng, what: &str) {
        let (offset, mut buf) = (rng.below(LIMIT), vec![0; 1 + rng.below(3 * PAGE)]);
        let read = self.any(rng).read_at(&mut buf, offset as u64).unwrap();
        let end = self.want.len().min(offset + buf.len());
        let want = self.want.get(offset..end).unwrap_or_default();
        compare(&buf[..read], want, &format!("{what}, read at {offset}"));
        let size = self.any(rng).metadata().unwrap().size();
        assert_eq!(size, self.want.len() as u64, "{what}");
    }

    /// Compares all of it, through the mount and on the host.
    fn check_all(&self, what: &str) {
        if let Some((page, _)) = &self.page {
            page.sync().unwrap();
        }
        self.files[0].sync_all().unwrap();
        compare(&fs::read(&self.at).unwrap(), &self.want, &format!("{what}, all"));
        compare(&fs::read(&self.on_disk).unwrap(), &self.want, &format!("{what}, on disk"));
    }
}

fn open(at: &std::path::Path, flags: i32) -> File {
    File::options().read(true).write(true).custom_flags(flags).open(at).unwrap()
}

fn compare(have: &[u8], want: &[u8], what: &str) {
    let differs = have.iter().zip(want).position(|(a, b)| a != b);
    assert!(
        have.len() == want.len() && differs.is_none(),
        "{what}: {} of {} bytes, first difference {differs:?}",
        have.len(),
        want.len()
    );
}

fn bytes(rng: &mut Rng) -> Vec<u8> {
    let seed = rng.next();
    (0..1 + rng.below(2 * PAGE)).map(|i| (seed.rotate_left(i as u32) as u8) | 1).collect()
}

/// Does one random thing to a file; returns what it was.
fn step(rng: &mut Rng, subjects: &mut [Subject; 2]) -> String {
    let this = rng.below(2);
    let kind = rng.below(12);
    if kind == 0 {
        return copy(rng, subjects, this);
    }
    let subject = &mut subjects[this];
    let said = match kind {
        1 => {
            let size = rng.below(LIMIT);
            raw::ftruncate(subject.any(rng).as_fd(), size as i64).unwrap();
            subject.resize(size);
            format!("truncate to {size}")
        }
        2 => allocate(rng, subject),
        3 => {
            let flags = rng.pick(&[0, 0, libc::O_SYNC, libc::O_DSYNC, libc::O_NOATIME]);
            subject.reopen(flags);
            format!("opened again with {flags:#o}")
        }
        4 | 5 => store(rng, subject),
        6 => {
            let mut file = File::options().append(true).open(&subject.at).unwrap();
            let data = bytes(rng);
            let room = LIMIT.saturating_sub(subject.want.len()).min(data.len());
            std::io::Write::write_all(&mut file, &data[..room]).unwrap();
            let end = subject.want.len();
            subject.put(end, &data[..room]);
            format!("append {room}")
        }
        7 => {
            subject.any(rng).sync_data().unwrap();
            "fdatasync".to_owned()
        }
        _ => {
            let data = bytes(rng);
            let offset = rng.below(LIMIT - data.len());
            subject.any(rng).write_all_at(&data, offset as u64).unwrap();
            subject.put(offset, &data);
            format!("write {} at {offset}", data.len())
        }
    };
    format!("file {this}: {said}")
}

/// Allocates, frees or zeroes a range.
fn allocate(rng: &mut Rng, subject: &mut Subject) -> String {
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    let modes = [
        0,
        keep,
        libc::FALLOC_FL_PUNCH_HOLE | keep,
        libc::FALLOC_FL_ZERO_RANGE,
        libc::FALLOC_FL_ZERO_RANGE | keep,
    ];
    let (mode, offset, length) = (rng.pick(&modes), rng.below(LIMIT / 2), 1 + rng.below(LIMIT / 2));
    raw::fallocate(subject.any(rng).as_fd(), mode, offset as i64, length as i64).unwrap();
    let old = subject.want.len();
    if mode & keep == 0 && offset + length > old {
        subject.want.resize(offset + length, 0);
    }
    if mode & !keep != 0 {
        let end = (offset + length).min(subject.want.len());
        if let Some(range) = subject.want.get_mut(offset..end) {
            range.fill(0);
        }
    }
    format!("fallocate {mode:#x} {offset} + {length}")
}

/// Stores bytes through a shared mapping, or looks at some.
fn store(rng: &mut Rng, subject: &mut Subject) -> String {
    let pages = subject.want.len() / PAGE;
    if pages == 0 {
        return "nothing to map".to_owned();
    }
    if subject.page.is_none() || rng.chance(30) {
        let page = rng.below(pages);
        let file = subject.any(rng).as_fd();
        subject.page = Some((raw::Page::map_at(file, true, (page * PAGE) as i64).unwrap(), page));
    }
    let Some((page, number)) = &mut subject.page else { return String::new() };
    let start = *number * PAGE;
    for _ in 0..20 {
        let at = rng.below(PAGE);
        assert_eq!(page.get(at), subject.want[start + at], "page {number}, byte {at}");
        page.set(at, at as u8);
        subject.want[start + at] = at as u8;
    }
    format!("stores to page {number}")
}

/// Copies a range from one file to the other, in the kernel.
fn copy(rng: &mut Rng, subjects: &mut [Subject; 2], from: usize) -> String {
    use std::io::{Seek, SeekFrom};
    let (offset, to) = (rng.below(LIMIT / 2), rng.below(LIMIT / 2));
    let length = 1 + rng.below(LIMIT / 2);
    let (mut source, mut target) = (open(&subjects[from].at, 0), open(&subjects[1 - from].at, 0));
    source.seek(SeekFrom::Start(offset as u64)).unwrap();
    target.seek(SeekFrom::Start(to as u64)).unwrap();
    let copied = raw::copy_range(source.as_fd(), target.as_fd(), length).unwrap() as usize;
    let whole = subjects[from].want.len().saturating_sub(offset).min(length);
    assert_eq!(copied, whole, "copied from {offset}");
    if copied > 0 {
        let data = subjects[from].want[offset..offset + copied].to_vec();
        subjects[1 - from].put(to, &data);
    }
    format!("copy {copied} from {offset} to {to} of the other")
}

/// Random steps with one seed, the mount made anew between rounds.
fn rounds(sandbox: &Sandbox, source: &std::path::Path, seed: u64, args: &[&str]) {
    let mut rng = Rng::new(seed);
    let mut held: [Vec<u8>; 2] = Default::default();
    for round in 0..3 {
        let ours = Ours::new(source, &sandbox.dir("mnt"), args);
        let mut subjects = ["one", "two"].map(|name| Subject::new(&ours, source, name));
        for (subject, held) in subjects.iter().zip(&held) {
            compare(&subject.want, held, "what the last mount wrote");
        }
        for number in 0..STEPS / 3 {
            let said = step(&mut rng, &mut subjects);
            let what = format!("seed {seed}, round {round}, step {number}, {said}");
            for subject in &subjects {
                subject.check(&mut rng, &what);
                if rng.chance(2) {
                    subject.check_all(&what);
                }
            }
        }
        subjects.iter().for_each(|subject| subject.check_all("at the end"));
        held = subjects.map(|subject| subject.want);
        assert_eq!(ours.unmount(), Some(0));
        for (name, want) in ["one", "two"].iter().zip(&held) {
            compare(&fs::read(source.join(name)).unwrap(), want, "after umount");
        }
    }
}

#[test]
fn files_hold_what_was_written() {
    require!(Root, Fuse, Ext4Loop);
    for (seed, args) in [
        (1, &["--map", "0:0:65536"][..]),
        (2, &["--cache", "none"]),
        (3, &["--map", "0:0:1", "--cache", "ttl=60"]),
        (4, &["--passthrough", "off"]),
        (5, &["--cache", "none", "--passthrough", "off"]),
        (6, &["--cache", "exclusive", "--passthrough", "off"]),
    ] {
        sandbox(move |sandbox| {
            let image = Ext4::new(sandbox, 64);
            rounds(sandbox, &image.root, seed, args);
        });
    }
}
