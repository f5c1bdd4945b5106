//! A tar, unpacked as a mount would store it: by names below the directory only, and
//! through no link.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::super::fault::Fault;
use super::export::attribute;
use super::extension::{Noted, Records};
use super::{Opened, reach, warn};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::{FileKind, Mode, Name, Time};
use crate::error::Error;
use crate::id::{Disk, Ids};
use crate::source::{Change, File, New, NewKind, Node, Place, Rights, SetTime, Source, XattrSet};
use crate::text::{plain, shown};

/// The server's own doing.
const RIGHTS: Rights = Rights { keep_setid: true, reserve: false };

/// How much of a file is copied at once, in bytes.
const CHUNK: usize = 1 << 16;

/// Failures that the next file would meet too.
const ENDS: [i32; 4] = [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO];

/// Unpacks a tar; `false` if some of it could not be, which was said.
///
/// # Errors
/// If it cannot be read further, or nothing can be written any more.
pub(super) fn unpack(opened: &Opened, from: &Path, tar: impl Read) -> Result<bool, Fault> {
    let place = |why: io::Error| Fault::usage(format!("{}: {}", shown(from), plain(&why)));
    let (tar, tape) = Noted::new(tar);
    let mut archive = Archive::new(tar);
    let mut unpacking =
        Unpacking { opened, view: &*opened.view, parent: None, entered: Vec::new(), told: false };
    let mut all = true;
    for entry in archive.entries().map_err(place)? {
        let mut entry = entry.map_err(place)?;
        let records = tape.borrow_mut().take(entry.raw_header_position());
        let records = records.ok_or_else(|| place(malformed()))?;
        let said = |key: &[u8]| records.iter().rfind(|(known, _)| known == key);
        let path =
            said(b"path").map_or_else(|| entry.path_bytes().into_owned(), |(_, v)| v.clone());
        // The crate may not have found it, and would take contents for a header.
        let size = said(b"size").and_then(|(_, size)| std::str::from_utf8(size).ok()?.parse().ok());
        if size.is_some_and(|size: u64| size != entry.size()) {
            return Err(place(malformed()));
        }
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let taken = unpacking.take(&path, &records, &mut entry);
        // To the end, so that the notes begin there.
        io::copy(&mut entry, &mut io::sink()).map_err(place)?;
        tape.borrow_mut().begin();
        match taken {
            Ok(()) => {}
            Err(Failure::Tar(why)) => return Err(place(why)),
            Err(Failure::Store(error)) if ENDS.iter().any(|errno| error.is(*errno)) => {
                return Err(Fault::mount(format!("{}: {error}", shown(&path))));
            }
            Err(Failure::Store(error)) => {
                all = false;
                warn(&format!("{}: {error}; left out", shown(&path)));
            }
            Err(Failure::Refused(why)) => {
                all = false;
                warn(&format!("{}: {why}", shown(&path)));
            }
        }
    }
    unpacking.leave(Path::new("/"));
    Ok(all)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an extension of the tar makes no sense")
}

/// What keeps an entry from being unpacked.
enum Failure {
    /// The tar cannot be read.
    Tar(io::Error),
    /// It cannot be stored.
    Store(Error),
    /// It is not one to store.
    Refused(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(why: io::Error) -> Self {
        Self::Tar(why)
    }
}

/// What the header and the extension of an entry say of a file.
struct About {
    owner: Ids<Disk>,
    mode: Mode,
    mtime: Option<Time>,
    attributes: Vec<(OsString, Vec<u8>)>,
}

/// A directory that is filled: the next entry is likely to be in it, too.
struct Parent {
    path: PathBuf,
    node: Node,
    /// Whether new files get an ACL of it, that the tar knows nothing of.
    inherits: bool,
}

struct Unpacking<'a> {
    opened: &'a Opened,
    view: &'a dyn Source,
    parent: Option<Parent>,
    /// Directories on the way to the last entry, with the time that each is to have
    /// when nothing more comes into it.
    entered: Vec<(PathBuf, Node, Time)>,
    /// Whether it was said that ACLs in text are left out.
    told: bool,
}

impl Unpacking<'_> {
    fn take(
        &mut self,
        path: &Path,
        records: &Records,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Failure> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = clean(path)?;
        self.leave(&path);
        if records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse.")) {
            let why = "sparse as pax has it, which is not read; left out (tar without --sparse)";
            return Err(Failure::Refused(why.to_owned()));
        }
        let about = self.about(records, entry)?;
        let link =
            records.iter().rfind(|(key, _)| key == b"linkpath").map(|(_, link)| link.clone());
        let link = link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        let link = link.unwrap_or_default();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not ours and may grow")]
        let what = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                return self.file(&path, &about, entry);
            }
            EntryType::Directory => return self.directory(&path, &about),
            EntryType::Link => return self.link(&path, Path::new(OsStr::from_bytes(&link))),
            EntryType::Symlink => {
                let target = NewKind::Symlink(OsStr::from_bytes(&link));
                let node = self.make(&path, &about, target)?;
                return Ok(self.finish(&node.0, FileKind::Symlink, &about)?);
            }
            EntryType::Fifo => FileKind::Fifo,
            EntryType::Char => FileKind::CharDevice,
            EntryType::Block => FileKind::BlockDevice,
            _ => return Err(Failure::Refused("an entry of unknown kind; left out".to_owned())),
        };
        let header = entry.header();
        let number = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
        let device = || libc::makedev(number(header.device_major()), number(header.device_minor()));
        let rdev = if what == FileKind::Fifo { 0 } else { device() };
        let node = self.make(&path, &about, NewKind::Special(what, rdev))?;
        Ok(self.finish(&node.0, what, &about)?)
    }

    /// Sets the times of directories that an entry is not in.
    fn leave(&mut self, path: &Path) {
        while let Some((_, node, mtime)) =
            self.entered.pop_if(|(dir, ..)| !path.starts_with(dir) || path == Path::new("/"))
        {
            let change = Change { mtime: Some(SetTime::At(mtime)), ..Change::default() };
            if let Err(error) = self.view.setattr(&node, None, &change, RIGHTS) {
                warn(&format!("the time of a directory cannot be set: {error}"));
            }
        }
    }

    fn about(&mut self, records: &Records, entry: &Entry<'_, impl Read>) -> Result<About, Failure> {
        let header = entry.header();
        let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok());
        let (mut uid, mut gid) = (id(header.uid()), id(header.gid()));
        let mut mtime = None;
        let mut attributes = Vec::new();
        for (key, value) in records {
            let text = std::str::from_utf8(value).ok();
            match key.as_slice() {
                b"mtime" => mtime = text.and_then(time),
                b"uid" => uid = text.and_then(|text| text.parse().ok()),
                b"gid" => gid = text.and_then(|text| text.parse().ok()),
                key if key.starts_with(b"SCHILY.acl.")
                    && !self.told
                    && !has_attribute(records, key) =>
                {
                    self.told = true;
                    warn("ACLs that the tar has as text are left out");
                }
                key => {
                    attributes.extend(attribute(key).map(|name| (name.to_owned(), value.clone())))
                }
            }
        }
        let owner = uid.zip(gid).and_then(|(uid, gid)| Ids::new(uid, gid));
        let owner = owner.ok_or_else(|| Failure::Refused("no such owner; left out".to_owned()))?;
        let mode = Mode::new(header.mode()?);
        let whole = header.mtime().ok().and_then(|sec| i64::try_from(sec).ok());
        let mtime = mtime.or_else(|| whole.map(|sec| Time { sec, nsec: 0 }));
        Ok(About { owner, mode, mtime, attributes })
    }

    /// Makes sure that the directory of a path is the parent.
    fn enter(&mut self, path: &Path) -> Result<(), Failure> {
        let above = path.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_some_and(|parent| parent.path == above) {
            return Ok(());
        }
        let mut node = self.view.root()?.0;
        for part in above {
            let name = Name::new(part)?;
            node = match self.view.reach(&node, name) {
                Err(error) if error.is(libc::ENOENT) => {
                    // A tar may leave out what leads to its files.
                    self.create(
                        &node,
                        name,
                        (self.opened.own, Mode::new(0o755)),
                        NewKind::Directory,
                    )?
                    .0
                }
                Err(error) if error.is(libc::ENOTDIR) => return Err(error.into()),
                reached => {
                    let (node, found) = reached?;
                    if !found.attr.kind.is_dir() {
                        let why = "leads through what is no directory; left out";
                        return Err(Failure::Refused(why.to_owned()));
                    }
                    node
                }
            };
        }
        let inherits = match self.view.acl(&node, AclKind::Default) {
            Err(error) if error.is(libc::EOPNOTSUPP) => false,
            acl => acl?.is_some(),
        };
        self.parent = Some(Parent { path: above.to_owned(), node, inherits });
        Ok(())
    }

    fn create(
        &self,
        dir: &Node,
        name: Name<'_>,
        (owner, mode): (Ids<Disk>, Mode),
        what: NewKind<'_>,
    ) -> Result<(Node, Option<std::sync::Arc<dyn File>>), Error> {
        let new = New { what, owner, mode, umask: 0, reserve: false, prepare: None };
        let made = self.view.create(dir, name, &new)?;
        let node = self.view.open_by_name(dir, name, &made.found.key)?;
        let attr = self.view.getattr(&node)?;
        let (uid, gid) = (Some(owner.uid), Some(owner.gid));
        let differs = (attr.owner.uid, attr.owner.gid) != (uid, gid) || attr.mode != mode;
        if differs && attr.kind != FileKind::Symlink {
            let change = Change { uid, gid, mode: Some(mode), ..Change::default() };
            self.view.setattr(&node, None, &change, RIGHTS)?;
        } else if differs {
            let change = Change { uid, gid, ..Change::default() };
            self.view.setattr(&node, None, &change, RIGHTS)?;
        }
        Ok((node, made.file))
    }

    /// Makes what an entry is, in place of whatever else has the name.
    fn make(
        &mut self,
        path: &Path,
        about: &About,
        what: NewKind<'_>,
    ) -> Result<(Node, Option<std::sync::Arc<dyn File>>), Failure> {
        let name = Name::new(path.file_name().unwrap_or_default())?;
        self.enter(path)?;
        let Some(Parent { node: dir, inherits, .. }) = &self.parent else {
            return Err(Error::Internal.into());
        };
        let (dir, inherits) = (dir.clone(), *inherits);
        let as_said = (about.owner, about.mode);
        let made = match self.create(&dir, name, as_said, what) {
            Err(error) if error.is(libc::EEXIST) => {
                self.view.unlink(&dir, name)?;
                self.create(&dir, name, as_said, what)?
            }
            made => made?,
        };
        if inherits && what.kind() != FileKind::Symlink {
            let both = [AclKind::Access, AclKind::Default].into_iter();
            for kind in both.filter(|kind| *kind == AclKind::Access || what.kind().is_dir()) {
                self.view.set_acl(&made.0, kind, None, RIGHTS)?;
            }
            let change = Change { mode: Some(about.mode), ..Change::default() };
            self.view.setattr(&made.0, None, &change, RIGHTS)?;
        }
        Ok(made)
    }

    fn file(
        &mut self,
        path: &Path,
        about: &About,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), Failure> {
        // Before POSIX, a slash at the end was what made a directory.
        if entry.path_bytes().ends_with(b"/") {
            return self.directory(path, about);
        }
        let (node, file) = self.make(path, about, NewKind::Regular(Some(libc::O_WRONLY)))?;
        let file = file.ok_or(Error::Internal)?;
        let mut chunk = vec![0; CHUNK];
        let mut at = 0_u64;
        loop {
            let mut data = match entry.read(&mut chunk)? {
                0 => break,
                read => chunk.get(..read).unwrap_or_default(),
            };
            while !data.is_empty() {
                let written = file.write(Place::At(at), data, RIGHTS)?;
                if written == 0 {
                    return Err(Error::Internal.into());
                }
                at = at.saturating_add(u64::try_from(written).unwrap_or(0));
                data = data.get(written..).unwrap_or_default();
            }
        }
        file.flush()?;
        Ok(self.finish(&node, FileKind::Regular, about)?)
    }

    fn directory(&mut self, path: &Path, about: &About) -> Result<(), Failure> {
        let there = match reach(self.view, path) {
            Err(error) if error.is(libc::ENOENT) => None,
            there => Some(there?).filter(|(_, found)| found.attr.kind.is_dir()),
        };
        let node = if let Some((node, _)) = there {
            let (uid, gid) = (Some(about.owner.uid), Some(about.owner.gid));
            let change = Change { uid, gid, mode: Some(about.mode), ..Change::default() };
            self.view.setattr(&node, None, &change, RIGHTS)?;
            node
        } else {
            self.make(path, about, NewKind::Directory)?.0
        };
        self.attributes(&node, FileKind::Directory, about)?;
        // What was known of its default ACL may be another one now.
        self.parent = None;
        if let Some(mtime) = about.mtime {
            self.entered.push((path.to_owned(), node, mtime));
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Failure> {
        let target = clean(target)?;
        let (node, found) = reach(self.view, &target)?;
        if found.attr.kind.is_dir() || target == path {
            return Err(Failure::Refused(
                "a link to a directory, or to itself; left out".to_owned(),
            ));
        }
        let name = Name::new(path.file_name().unwrap_or_default())?;
        self.enter(path)?;
        let Some(Parent { node: dir, .. }) = &self.parent else {
            return Err(Error::Internal.into());
        };
        match self.view.link(&node, dir, name, RIGHTS) {
            Err(error) if error.is(libc::EEXIST) => {
                if self.view.lookup(dir, name)?.key == found.key {
                    return Ok(());
                }
                self.view.unlink(dir, name)?;
                self.view.link(&node, dir, name, RIGHTS)?;
            }
            linked => drop(linked?),
        }
        Ok(())
    }

    /// Gives a file what it can have only when its contents are there.
    fn finish(&mut self, node: &Node, kind: FileKind, about: &About) -> Result<(), Error> {
        self.attributes(node, kind, about)?;
        let Some(mtime) = about.mtime else { return Ok(()) };
        let change = Change { mtime: Some(SetTime::At(mtime)), ..Change::default() };
        self.view.setattr(node, None, &change, RIGHTS).map(drop)
    }

    fn attributes(&self, node: &Node, kind: FileKind, about: &About) -> Result<(), Error> {
        for (name, value) in &about.attributes {
            let acl = [AclKind::Access, AclKind::Default];
            if let Some(which) = acl.into_iter().find(|which| name == which.xattr()) {
                if kind.is_dir() || which == AclKind::Access {
                    let acl = Acl::<Disk>::decode(value)?;
                    self.view.set_acl(node, which, acl.as_ref(), RIGHTS)?;
                }
            } else if name == CAPABILITY_XATTR {
                let capability = Capability::<Disk>::decode(value)?;
                self.view.set_capability(node, Some(&capability), RIGHTS)?;
            } else if self.opened.store.is_own(name) {
                warn(&format!("attribute {}: a record, not an attribute; left out", shown(name)));
            } else {
                self.view.set_xattr(node, name, Some(value), XattrSet::Any, RIGHTS)?;
            }
        }
        Ok(())
    }
}

/// Reports whether an ACL that is there as text is there as an attribute, too.
fn has_attribute(records: &Records, text: &[u8]) -> bool {
    let kind = text.strip_prefix(b"SCHILY.acl.").unwrap_or_default();
    let is_one = |key: &[u8]| key.strip_prefix(b"SCHILY.xattr.system.posix_acl_") == Some(kind);
    records.iter().any(|(key, _)| is_one(key))
}

/// Returns a path below the directory; the directory itself is empty.
fn clean(path: &Path) -> Result<PathBuf, Failure> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                let why = "leads out of the directory; left out";
                return Err(Failure::Refused(why.to_owned()));
            }
        }
    }
    Ok(clean)
}

/// Reads a time: seconds, with a fraction.
fn time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sec: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nsec: u32 = digits.parse().ok()?;
    if !whole.starts_with('-') || nsec == 0 {
        return Some(Time { sec, nsec });
    }
    Some(Time { sec: sec.checked_sub(1)?, nsec: 1_000_000_000_u32.checked_sub(nsec)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_directory() {
        for (path, wanted) in [
            ("a/b", Some("a/b")),
            ("./a//./b/", Some("a/b")),
            (".", Some("")),
            ("/a", None),
            ("..", None),
            ("a/../b", None),
            ("a/b/..", None),
        ] {
            let got = clean(Path::new(path)).ok();
            assert_eq!(got.as_deref(), wanted.map(Path::new), "{path}");
        }
    }

    #[test]
    fn acls_are_left_out_only_where_text_is_all_there_is() {
        let record = |key: &str| (key.as_bytes().to_vec(), b"x".to_vec());
        let records: Records =
            vec![record("SCHILY.acl.access"), record("SCHILY.xattr.system.posix_acl_access")];
        assert!(has_attribute(&records, b"SCHILY.acl.access"));
        assert!(!has_attribute(&records, b"SCHILY.acl.default"));
    }

    #[test]
    fn times_are_read() {
        for (text, wanted) in [
            ("5", Some((5, 0))),
            ("5.5", Some((5, 500_000_000))),
            ("5.1234567899", Some((5, 123_456_789))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("-3", Some((-3, 0))),
            ("5.x", None),
            ("", None),
        ] {
            let got = time(text).map(|time| (time.sec, time.nsec));
            assert_eq!(got, wanted, "{text}");
        }
    }
}
