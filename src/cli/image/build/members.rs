//! What is in a tar archive, as far as it matters to who makes an image of it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType, Header};

/// The owners and the mode of a root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mode: u32,
}

impl Root {
    /// What the root is where nothing says it.
    pub(super) const USUAL: Self = Self { uid: 0, gid: 0, mode: 0o755 };
}

/// What an archive has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// What its root directory is, if that is a member.
    pub(super) root: Option<Root>,
    /// A member whose time is before 1970.
    pub(super) early: Option<PathBuf>,
    /// A path that two members have.
    pub(super) twice: Option<PathBuf>,
    /// A member with an ACL.
    pub(super) acl: Option<PathBuf>,
}

/// Reads all headers; `None`: it is no archive, or has no member.
pub(super) fn members(mut archive: impl Read) -> Option<Members> {
    let mut first = [0; 512];
    archive.read_exact(&mut first).ok().filter(|()| is_header(&first))?;
    let mut archive = Archive::new(first.as_slice().chain(archive));
    let (mut found, mut paths) = (Members::default(), HashSet::new());
    // What breaks off is for the program to refuse, which reads it, too.
    for mut entry in archive.entries().ok()?.map_while(Result::ok) {
        let Ok(path) = entry.path().map(|path| clean(&path)) else { continue };
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        found.note(&path, &mut entry);
        if !path.as_os_str().is_empty() && found.twice.is_none() && !paths.insert(path.clone()) {
            found.twice = Some(path);
        }
    }
    Some(found)
}

impl Members {
    fn note(&mut self, path: &Path, entry: &mut Entry<'_, impl Read>) {
        let header = entry.header();
        // A time below zero comes as a number above those of 63 bits.
        let mut early = header.mtime().is_ok_and(|time| time > i64::MAX.unsigned_abs());
        let (mut uid, mut gid) = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        let mode = header.mode().unwrap_or(Root::USUAL.mode) & 0o7777;
        let mut acl = false;
        let records = entry.pax_extensions().ok().flatten().into_iter().flatten();
        for record in records.map_while(Result::ok) {
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match key {
                b"uid" => uid = number().unwrap_or(uid),
                b"gid" => gid = number().unwrap_or(gid),
                b"mtime" => early = value.starts_with(b"-"),
                _ => {
                    acl |= key.starts_with(b"SCHILY.acl.")
                        || key.starts_with(b"SCHILY.xattr.system.posix_acl_");
                }
            }
        }
        if path.as_os_str().is_empty() {
            self.root = Some(Root { uid, gid, mode });
        }
        let named = |is: bool, known: &mut Option<PathBuf>| {
            if is && known.is_none() {
                *known = Some(path.to_owned());
            }
        };
        named(early, &mut self.early);
        named(acl, &mut self.acl);
    }
}

/// Returns a path without what means nothing in it; that of the root is empty.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// Reports whether a block has the checksum of a header.
fn is_header(block: &[u8; 512]) -> bool {
    let header = Header::from_byte_slice(block);
    let summed = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    });
    header.cksum().is_ok_and(|said| said == summed.sum::<u32>())
}

/// Returns an archive with a root directory in front of what it has.
pub(super) fn with_root(archive: OwnedFd) -> io::Result<OwnedFd> {
    let mut header = Header::new_ustar();
    header.set_path("./")?;
    header.set_entry_type(EntryType::Directory);
    header.set_uid(Root::USUAL.uid);
    header.set_gid(Root::USUAL.gid);
    header.set_mode(Root::USUAL.mode);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let (output, mut input) = io::pipe()?;
    std::thread::Builder::new().name("archive".to_owned()).spawn(move || {
        let all = input.write_all(header.as_bytes());
        // Who reads it may have enough, and says so itself.
        let (Ok(_) | Err(_)) = all.and_then(|()| io::copy(&mut File::from(archive), &mut input));
    })?;
    Ok(output.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path, a time, and records of its extension.
    type Member<'a> = (&'a str, u64, &'a [(&'a str, &'a str)]);

    fn archive(of: &[Member<'_>]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, mtime, records) in of {
            let mut header = Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o640);
            header.set_uid(5);
            header.set_gid(6);
            header.set_mtime(*mtime);
            if name.ends_with('/') {
                header.set_entry_type(EntryType::Directory);
                header.set_size(0);
            }
            if !records.is_empty() {
                let records = records.iter().map(|(key, value)| (*key, value.as_bytes()));
                archive.append_pax_extensions(records).unwrap();
            }
            let contents: &[u8] = if name.ends_with('/') { b"" } else { b"x" };
            archive.append_data(&mut header, name, contents).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn found(of: &[Member<'_>]) -> Members {
        members(archive(of).as_slice()).unwrap()
    }

    #[test]
    fn a_member_from_before_1970_is_found() {
        let early = |time, records: &[_]| found(&[("new", 5, &[]), ("old", time, records)]).early;
        assert_eq!(early(7, &[]), None);
        assert_eq!(early(7, &[("mtime", "1.5")]), None);
        assert_eq!(early(7, &[("mtime", "-1.5")]), Some("old".into()));
        assert_eq!(early(u64::MAX - 5, &[]), Some("old".into()));
    }

    #[test]
    fn roots_second_members_and_acls_are_found() {
        assert_eq!(found(&[("a", 1, &[]), ("b", 1, &[])]), Members::default());
        let root = Some(Root { uid: 5, gid: 6, mode: 0o640 });
        assert_eq!(found(&[("./", 1, &[]), ("a", 1, &[])]).root, root);
        let root = Some(Root { uid: 3_000_000_000, gid: 6, mode: 0o640 });
        assert_eq!(found(&[("./", 1, &[("uid", "3000000000")])]).root, root);
        assert_eq!(found(&[("./a", 1, &[]), ("a", 1, &[])]).twice, Some("a".into()));
        let acl = ("SCHILY.acl.access", "user::rw-");
        assert_eq!(found(&[("a", 1, &[acl])]).acl, Some("a".into()));
    }

    #[test]
    fn what_is_no_archive_has_no_members() {
        for bytes in [&[][..], &[0; 10240], &[b'x'; 10240], &[0; 100]] {
            assert_eq!(members(bytes), None);
        }
    }
}
