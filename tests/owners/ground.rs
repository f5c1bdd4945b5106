//! A user, the user's directories, and tars.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use idmapfs::source::owners::live::{Hold, Place};
use nix::unistd::geteuid;
use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;

fn private() -> fs::Permissions {
    fs::Permissions::from_mode(0o700)
}

/// Both stores.
pub const STORES: [&str; 2] = ["xattr", "db"];

/// Directories of an ordinary user.
pub struct Ground {
    dir: TempDir,
    store: &'static str,
}

/// A tar being made: entries, each with what the extension says.
pub struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry as it is, whatever its name.
    pub fn add(
        mut self,
        kind: EntryType,
        path: &[u8],
        (uid, gid, mode): (u64, u64, u32),
        more: (&[u8], &[(&str, &[u8])]),
    ) -> Self {
        let (data, extension) = more;
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        let link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let device = matches!(kind, EntryType::Char | EntryType::Block);
        header.set_size(if link || device { 0 } else { data.len() as u64 });
        if link {
            header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
        }
        if device {
            header.set_device_major(u32::from(data[0])).unwrap();
            header.set_device_minor(u32::from(data[1])).unwrap();
        }
        header.set_cksum();
        self.0.append_pax_extensions(extension.iter().copied()).unwrap();
        self.0.append(&header, if link || device { &[] } else { data }).unwrap();
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// What a tar says, by path.
pub fn contents(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = Archive::new(tar);
    let mut all = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let header = entry.header().clone();
        let mut about = format!(
            "{:?} {}:{} {:o}",
            header.entry_type(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mode().unwrap()
        );
        if let Some(link) = entry.link_name_bytes() {
            about += &format!(" -> {}", String::from_utf8_lossy(&link));
        }
        if matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
            let (major, minor) = (header.device_major().unwrap(), header.device_minor().unwrap());
            about += &format!(" {}:{}", major.unwrap(), minor.unwrap());
        }
        let mut extension: Vec<String> = Vec::new();
        // The crate takes values apart at newlines.
        for record in entry.pax_extensions().unwrap().into_iter().flatten().flatten() {
            let key = String::from_utf8_lossy(record.key_bytes()).into_owned();
            if key.starts_with("SCHILY") || header.entry_type() == EntryType::Regular {
                extension.push(format!("{key}={:?}", record.value_bytes()));
            }
        }
        extension.sort();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        about += &format!(" {extension:?} {data:?}");
        assert!(all.insert(path, about).is_none());
    }
    all
}

impl Ground {
    pub fn new(store: &'static str) -> Self {
        let ground = Self { dir: tempfile::tempdir().unwrap(), store };
        ground.own(ground.dir.path());
        fs::set_permissions(ground.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        ground.make("dir");
        ground
    }

    /// The user: root does not test what this is for.
    pub fn user() -> u32 {
        if geteuid().is_root() { 54_321 } else { geteuid().as_raw() }
    }

    pub fn own(&self, path: &Path) {
        if geteuid().is_root() {
            chown(path, Some(Self::user()), Some(Self::user())).unwrap();
        }
    }

    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.at(name);
        fs::create_dir(&path).unwrap();
        self.own(&path);
        path
    }

    pub fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, contents).unwrap();
        self.own(&path);
        path
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Holds the records of a directory as a server of the user's does.
    pub fn serve(&self, dir: &str) -> Hold {
        let lock = match self.store {
            "xattr" => {
                fs::set_permissions(self.make(&format!("{dir}/.idmapfs")), private()).unwrap();
                format!("{dir}/.idmapfs/lock")
            }
            _ => {
                let state = ".local/state/idmapfs/owners";
                let mut entries = fs::read_dir(self.at(state)).unwrap();
                let name = entries.next().unwrap().unwrap().file_name();
                format!("{state}/{}.lock", name.to_str().unwrap())
            }
        };
        let file = self.file(&lock, b"");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (dir, name) = (file.parent().unwrap(), file.file_name().unwrap());
        let place = || Ok(Some(Place { dir: fs::File::open(dir)?.into(), name: name.to_owned() }));
        Hold::shared(&place).unwrap()
    }

    /// A command of the user's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if geteuid().is_root() {
            command.uid(Self::user()).gid(Self::user());
        }
        command.current_dir("/").env("HOME", self.dir.path()).env_remove("XDG_STATE_HOME");
        command
    }

    /// Runs `idmapfs owners ACTION dir ARGS`.
    pub fn run(&self, action: &str, dir: &str, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_idmapfs"));
        command.args(["owners", action]).arg(self.at(dir)).args(["--owners", self.store]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs it and expects it to do everything.
    pub fn good(&self, action: &str, dir: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.run(action, dir, args, input);
        let told = String::from_utf8_lossy(&output.stderr);
        let good = output.status.success() && told.is_empty();
        assert!(good, "{action} {}: {told}{}", self.store, String::from_utf8_lossy(&output.stdout));
        output.stdout
    }

    /// Runs it and expects a failure; returns what it says.
    pub fn bad(&self, action: &str, dir: &str, args: &[&str], input: &[u8]) -> String {
        let output = self.run(action, dir, args, input);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{action} {}", self.store);
        told + &String::from_utf8_lossy(&output.stdout)
    }
}

/// A tar with all that one can have.
pub fn full() -> Vec<u8> {
    let acl = [
        2_u32.to_le_bytes().as_slice(),
        &[1, 0, 7, 0, 0xff, 0xff, 0xff, 0xff],
        &[2, 0, 5, 0, 0x88, 0x13, 0, 0],
        &[4, 0, 5, 0, 0xff, 0xff, 0xff, 0xff],
        &[16, 0, 5, 0, 0xff, 0xff, 0xff, 0xff],
        &[32, 0, 4, 0, 0xff, 0xff, 0xff, 0xff],
    ]
    .concat();
    let capability = [
        1_u32.to_le_bytes().as_slice(),
        &[0, 4, 0, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 0],
    ]
    .concat();
    // Revision 2, effective.
    let capability = [&[1, 0, 0, 2], &capability[4..]].concat();
    let name = [b'n'; 90];
    Tar::new()
        .add(EntryType::Directory, b"./", (0, 0, 0o755), (b"", &[]))
        .add(EntryType::Directory, b"etc", (0, 0, 0o755), (b"", &[("mtime", b"5.25")]))
        .add(
            EntryType::Directory,
            b"etc/shared",
            (7, 50, 0o2775),
            (b"", &[("SCHILY.xattr.system.posix_acl_default", &acl)]),
        )
        .add(EntryType::Regular, b"etc/shared/plain", (1, 2, 0o640), (b"inherits nothing", &[]))
        .add(
            EntryType::Regular,
            b"etc/su",
            (0, 0, 0o4755),
            (b"#!/bin/sh\n", &[("mtime", b"123.456")]),
        )
        .add(
            EntryType::Regular,
            b"etc/ping",
            (0, 0, 0o755),
            (
                b"x",
                &[
                    ("SCHILY.xattr.security.capability", &capability),
                    ("SCHILY.xattr.user.note", b"a=b\0"),
                ],
            ),
        )
        .add(
            EntryType::Regular,
            b"etc/acl",
            (5, 6, 0o754),
            (b"", &[("SCHILY.xattr.system.posix_acl_access", &acl)]),
        )
        .add(EntryType::Link, b"etc/again", (0, 0, 0o755), (b"./etc/su", &[]))
        .add(EntryType::Symlink, b"etc/link", (3, 4, 0o777), (b"/no//such/./place/", &[]))
        .add(EntryType::Char, b"null", (0, 0, 0o666), (&[1, 3], &[]))
        .add(EntryType::Block, b"sda", (0, 6, 0o660), (&[8, 0], &[]))
        .add(EntryType::Fifo, b"fifo", (9, 9, 0o644), (b"", &[]))
        .add(
            EntryType::Regular,
            b"big",
            (0, 0, 0o600),
            (b"", &[("uid", b"4000000000"), ("gid", b"3000000000")]),
        )
        .add(EntryType::Regular, b"late/\xff", (0, 0, 0o400), (&[7; 100_000], &[]))
        .add(EntryType::Regular, &name, (0, 0, 0), (b"no rights at all", &[]))
        .end()
}
