//! Reading and writing past caches (`O_DIRECT`), beside the same on the source.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::require;
use crate::support::image::Ext4;
use crate::support::ours::Ours;
use crate::support::rng::Rng;
use crate::support::{calls, raw, run, sandbox, sh, str};

const PAGE: usize = 4096;

/// Whose server has no privilege.
const USER: u32 = 34;

/// A file that is open, and memory that a disk may use.
struct Subject {
    file: File,
    memory: Vec<u8>,
}

impl Subject {
    fn new(path: &Path, flags: i32) -> Self {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).custom_flags(flags);
        Self { file: file.open(path).unwrap(), memory: vec![0; 20 * PAGE] }
    }

    fn direct(&self, on: bool) {
        let flags = if on { OFlag::O_DIRECT } else { OFlag::empty() };
        fcntl(&self.file, FcntlArg::F_SETFL(flags)).unwrap();
    }

    fn room(&mut self, length: usize) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(PAGE);
        &mut self.memory[start..start + length]
    }

    fn write(&mut self, at: i64, length: usize, byte: u8) -> Result<i64, i32> {
        let file = self.file.try_clone().unwrap();
        let room = self.room(length);
        room.fill(byte);
        calls::write(file.as_fd(), room, at, 0)
    }

    fn read(&mut self, at: i64, length: usize) -> Result<Vec<u8>, i32> {
        let file = self.file.try_clone().unwrap();
        let room = self.room(length);
        let read = calls::read(file.as_fd(), room, at, 0)?;
        Ok(room[..usize::try_from(read).unwrap()].to_vec())
    }
}

/// The flag is that of the moment, whatever the file was opened with.
#[test]
fn a_descriptor_goes_past_the_cache_while_it_has_the_flag() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let source = image.root.join("source");
        fs::create_dir(&source).unwrap();
        for (number, (args, first)) in [
            (&[][..], libc::O_DIRECT),
            (&["--passthrough", "off"], libc::O_DIRECT),
            (&["--passthrough", "off"], 0),
            (&["--cache", "exclusive", "--passthrough", "off"], libc::O_DIRECT),
            (&["--owners", "xattr"], libc::O_DIRECT),
        ]
        .into_iter()
        .enumerate()
        {
            let ours = Ours::new(&source, &sandbox.dir(&format!("mnt{number}")), args);
            let model = image.root.join("model");
            let (mut here, mut there) =
                (Subject::new(&ours.at("f"), first), Subject::new(&model, first));
            let mut rng = Rng::new(number as u64);
            for step in 0..300 {
                let what = format!("{args:?} {first:#x} {step}");
                let at = rng.pick(&[0, 512, 4096, 8192, 100, 4097]);
                let length = rng.pick(&[512, 4096, 8192, 3, 100, 65536]);
                match rng.below(4) {
                    0 => [&here, &there].iter().for_each(|s| s.direct(step % 3 == 0)),
                    1 | 2 => {
                        let byte = (step % 251) as u8;
                        let wrote = [&mut here, &mut there].map(|s| s.write(at, length, byte));
                        assert_eq!(wrote[0], wrote[1], "{what}: {length} at {at}");
                    }
                    _ => {
                        let read = [&mut here, &mut there].map(|s| s.read(at, length));
                        assert!(read[0] == read[1], "{what}: {length} at {at}: {read:?}");
                    }
                }
            }
            drop(here);
            assert_eq!(fs::read(source.join("f")).unwrap(), fs::read(&model).unwrap());
            ours.unmount();
            fs::remove_file(source.join("f")).unwrap();
        }
    });
}

/// What is open is used on, whatever may be opened by now.
#[test]
fn a_descriptor_outlives_the_right_to_open_the_file_past_the_cache() {
    require!(Root, Fuse, Ext4Loop, Fusermount);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let source = image.root.join("source");
        fs::create_dir(&source).unwrap();
        let ours = Ours::of_user(sandbox, USER, &source, &sandbox.dir("mnt"), &[]);
        fs::write(source.join("f"), "").unwrap();
        raw::chown(&source.join("f"), USER, USER, false).unwrap();
        let mut open = Subject::new(&ours.at("f"), libc::O_DIRECT);
        assert_eq!(open.write(0, PAGE, 1), Ok(4096));
        raw::chmod(&source.join("f"), 0).unwrap();
        assert_eq!(open.write(4096, PAGE, 2), Ok(4096));
        assert_eq!(open.read(0, 2 * PAGE).unwrap(), [[1; PAGE], [2; PAGE]].concat());
    });
}

/// As dd(1) does for the last part of a file that is not aligned.
#[test]
fn dd_writes_the_end_of_a_file_past_the_cache() {
    require!(Root, Fuse, Ext4Loop);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        let ours = Ours::new(&image.root, &sandbox.dir("mnt"), &[]);
        let to = ours.at("f");
        sh(&format!("dd if=/bin/ls of={0} bs=64k oflag=direct 2>&1 && cmp /bin/ls {0}", str(&to)));
        sh(&format!("dd if={} of=/dev/null bs=64k iflag=direct 2>&1", str(&to)));
    });
}

/// Where the kernel uses the file of the host by itself, all see at once what any of them
/// writes, past the cache or not.
#[test]
fn what_is_written_past_the_cache_is_seen_by_all() {
    require!(Root, Fuse, Ext4Loop, Passthrough);
    sandbox(|sandbox| {
        let image = Ext4::new(sandbox, 32);
        for args in [&[][..], &["--cache", "none"]] {
            let ours = Ours::new(&image.root, &sandbox.dir("mnt"), args);
            for first in [0, libc::O_DIRECT] {
                let mut one = Subject::new(&ours.at("f"), first);
                let mut other = Subject::new(&ours.at("f"), libc::O_DIRECT ^ first);
                let mut on_host = Subject::new(&image.root.join("f"), 0);
                for round in 0..20_u8 {
                    for turn in 0..3 {
                        let byte = round * 3 + turn + 1;
                        let all = [&mut one, &mut other, &mut on_host];
                        assert_eq!(all[usize::from(turn)].write(4096, 8192, byte), Ok(8192));
                        for subject in all {
                            let seen = subject.read(4096, 8192).unwrap();
                            let same = seen == vec![byte; 8192];
                            assert!(same, "{args:?} {first:#x} {turn}: {}", seen[0]);
                        }
                    }
                }
            }
            ours.unmount();
        }
        run("sync", &["-f", str(&image.root)]);
    });
}
