//! `idmapfs owners export`: records as JSON, or everything as a tar.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File as HostFile;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::super::fault::Fault;
use super::line::Line;
use super::{Opened, failed, named, warn};
use crate::acl::{AclKind, CAPABILITY_XATTR};
use crate::attr::{Attr, FileKind};
use crate::error::Error;
use crate::id::{Disk, NO_ID};
use crate::source::walk::Walk;
use crate::source::{File, Found, Key, Node, Source};
use crate::text::{plain, shown};

/// The most that a number of a header holds in octal digits.
const OCTAL: u64 = 0o7_777_777;

/// Writes a line for each file that has a record or attributes beside it; `false` if
/// some could not be read.
///
/// # Errors
/// If nothing can be read, or what is written to is full.
pub(super) fn json(opened: &Opened, out: &mut dyn Write) -> Result<bool, Fault> {
    let mut out = BufWriter::new(out);
    let mut all = true;
    each(opened, &*opened.below, &mut |path, node, found| match line(opened, path, node, found) {
        Ok(None) => Ok(()),
        Ok(Some(line)) => {
            let line = serde_json::to_string(&line).map_err(io::Error::other);
            Fault::printing(line.and_then(|line| writeln!(out, "{line}")))
        }
        Err(error) => {
            all = false;
            warn(&format!("{}: {error}; left out", shown(named(path))));
            Ok(())
        }
    })
    .and_then(|read| {
        Fault::printing(out.flush())?;
        Ok(read && all)
    })
}

fn line(opened: &Opened, path: &Path, node: &Node, found: &Found) -> Result<Option<Line>, Error> {
    let (below, store, key) = (&*opened.below, &opened.store, &found.key);
    // Anybody may have written what does not count; it would where it is imported.
    if !opened.view.counts(node, found)? {
        return Ok(None);
    }
    let record = match store.get(below, node, key) {
        // Such files have none.
        Err(error) if error.is(libc::EPERM) || error.is(libc::EOPNOTSUPP) => return Ok(None),
        record => record?,
    };
    let mut attributes = Vec::new();
    for name in store.attributes(below, node, key)? {
        let value = store.attribute(below, node, key, &name)?;
        attributes.push((name, value));
    }
    let any = record.is_some() || !attributes.is_empty();
    Ok(any.then(|| Line::new(path, record.as_ref(), &attributes)))
}

/// Calls for the root and everything below; `false` if some could not be looked at.
fn each(
    opened: &Opened,
    source: &dyn Source,
    call: &mut dyn FnMut(&Path, &Node, &Found) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let top = Path::new("");
    let (node, found) = source.root().map_err(|error| failed(top, error))?;
    call(top, &node, &found)?;
    let mut walk = Walk::new(source).map_err(|error| failed(top, error))?;
    let mut all = true;
    while let Some(step) = walk.next() {
        match step {
            Ok(step) if opened.is_hidden(&step.found) => walk.pass_by(),
            Ok(step) => call(&step.path, &step.node, &step.found)?,
            Err((path, error)) => {
                all = false;
                warn(&format!("{}: {error}; left out", shown(named(&path))));
            }
        }
    }
    Ok(all)
}

/// Writes a tar of everything, as callers of a mount see it with the ids of the
/// records; `false` if something had to be left out.
///
/// # Errors
/// If nothing can be read, or the tar cannot be written.
pub(super) fn tar(opened: &Opened, to: &Path) -> Result<bool, Fault> {
    let place = |why: io::Error| Fault::mount(format!("{}: {}", shown(to), plain(&why)));
    let file: Box<dyn Write> = if to == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(HostFile::create(to).map_err(place)?)
    };
    let mut tar = Builder::new(BufWriter::new(file));
    let mut packing = Packing { view: &*opened.view, names: HashMap::new() };
    let mut all = true;
    let read = each(opened, &*opened.view, &mut |path, node, found| match packing
        .add(&mut tar, path, node, found)
    {
        Ok(None) => Ok(()),
        Ok(Some(said)) => {
            all = false;
            warn(&format!("{}: {said}", shown(named(path))));
            Ok(())
        }
        Err(Failure::Read(error)) => {
            all = false;
            warn(&format!("{}: {error}; left out", shown(named(path))));
            Ok(())
        }
        Err(Failure::Write(why)) => Err(place(why)),
    })?;
    tar.into_inner().and_then(|mut inner| inner.flush()).map_err(place)?;
    Ok(read && all)
}

/// What keeps a file out of a tar.
enum Failure {
    /// It cannot be read.
    Read(Error),
    /// The tar cannot be written.
    Write(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Failure {
    fn from(why: io::Error) -> Self {
        Self::Write(why)
    }
}

/// A tar that is being written.
struct Packing<'a> {
    view: &'a dyn Source,
    /// Files with further names: the first one, and how many are still to come.
    names: HashMap<Key, (PathBuf, u32)>,
}

impl Packing<'_> {
    /// Adds a file; returns what is to be said of it.
    fn add<W: Write>(
        &mut self,
        tar: &mut Builder<W>,
        path: &Path,
        node: &Node,
        found: &Found,
    ) -> Result<Option<String>, Failure> {
        let attr = &found.attr;
        let mut header = header(attr);
        let kind = match attr.kind {
            FileKind::Regular => EntryType::Regular,
            FileKind::Directory => EntryType::Directory,
            FileKind::Symlink => EntryType::Symlink,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::CharDevice => EntryType::Char,
            FileKind::BlockDevice => EntryType::Block,
            FileKind::Socket => return Ok(Some("a tar has no sockets; left out".to_owned())),
        };
        if let Some(first) = self.earlier(path, found) {
            header.set_entry_type(EntryType::Link);
            tar.append_link(&mut header, member(path), &first)?;
            return Ok(None);
        }
        // All that can fail to be read comes before anything is written.
        let attributes = self.attributes(node)?;
        let is = |kind| attr.kind == kind;
        let target = is(FileKind::Symlink).then(|| self.view.readlink(node)).transpose()?;
        let open = || self.view.open(node, libc::O_RDONLY);
        let contents = is(FileKind::Regular).then(open).transpose()?;
        header.set_entry_type(kind);
        extend(tar, attr, &attributes, target.as_deref())?;
        if let Some(target) = target {
            // As it is: a target is no path of ours. A long one is in the extension.
            let (Ok(()) | Err(_)) = header.set_link_name_literal(target.as_bytes());
            tar.append_data(&mut header, member(path), io::empty())?;
        } else if let Some(file) = contents {
            header.set_size(attr.size);
            let mut contents = Contents { file: &*file, at: 0, end: attr.size, short: None };
            tar.append_data(&mut header, member(path), &mut contents)?;
            return Ok(contents.short.map(|why| format!("{why}; filled up with zeros")));
        } else {
            if matches!(attr.kind, FileKind::CharDevice | FileKind::BlockDevice) {
                header.set_device_major(libc::major(attr.rdev))?;
                header.set_device_minor(libc::minor(attr.rdev))?;
            }
            tar.append_data(&mut header, member(path), io::empty())?;
        }
        Ok(None)
    }

    /// Returns the name under which a file is in the tar already.
    fn earlier(&mut self, path: &Path, found: &Found) -> Option<PathBuf> {
        let more = found.attr.nlink.checked_sub(1).filter(|more| *more > 0)?;
        if found.attr.kind.is_dir() {
            return None;
        }
        let Some((first, left)) = self.names.get_mut(&found.key) else {
            self.names.insert(found.key.clone(), (path.to_owned(), more));
            return None;
        };
        *left = left.saturating_sub(1);
        let (first, left) = (first.clone(), *left);
        if left == 0 {
            self.names.remove(&found.key);
        }
        Some(first)
    }

    /// Returns all attributes of a file, with the ids of the disk.
    fn attributes(&self, node: &Node) -> Result<Vec<(OsString, Vec<u8>)>, Error> {
        let mut attributes = Vec::new();
        let names = match self.view.xattrs(node) {
            Err(error) if error.is(libc::EPERM) || error.is(libc::EOPNOTSUPP) => Vec::new(),
            names => names?,
        };
        for name in names {
            let kind = [AclKind::Access, AclKind::Default].into_iter();
            let kind = kind.into_iter().find(|kind| name == kind.xattr());
            let value = match kind {
                Some(kind) => self.view.acl(node, kind)?.map(|acl| acl.encode()),
                None if name == CAPABILITY_XATTR => {
                    self.view.capability(node)?.map(|capability| capability.encode())
                }
                None => match self.view.xattr(node, &name) {
                    // What only the host's root sees, or what is gone again.
                    Err(error) if error.is(libc::ENODATA) || error.is(libc::EPERM) => None,
                    value => Some(value?),
                },
            };
            attributes.extend(value.map(|value| (name, value)));
        }
        Ok(attributes)
    }
}

/// Returns how a file is called in a tar: mksquashfs takes no dot alone.
fn member(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("./") } else { path }
}

fn header(attr: &Attr<Disk>) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(attr.mode.bits().into());
    // What does not fit is in the extension.
    header.set_uid(u64::from(attr.owner.uid.map_or(NO_ID, |id| id.raw())).min(OCTAL));
    header.set_gid(u64::from(attr.owner.gid.map_or(NO_ID, |id| id.raw())).min(OCTAL));
    header.set_mtime(u64::try_from(attr.mtime.sec).unwrap_or(0).min(0o77_777_777_777));
    header.set_size(0);
    header
}

/// Writes what a header has no room for.
fn extend<W: Write>(
    tar: &mut Builder<W>,
    attr: &Attr<Disk>,
    attributes: &[(OsString, Vec<u8>)],
    target: Option<&OsStr>,
) -> io::Result<()> {
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let ids = [
        ("uid", attr.owner.uid.map_or(NO_ID, |id| id.raw())),
        ("gid", attr.owner.gid.map_or(NO_ID, |id| id.raw())),
    ];
    for (key, id) in ids {
        if u64::from(id) > OCTAL {
            records.push((key.to_owned(), id.to_string().into_bytes()));
        }
    }
    let (sec, nsec) = (attr.mtime.sec, attr.mtime.nsec);
    let time = if sec < 0 && nsec > 0 {
        let rest = 1_000_000_000_u32.saturating_sub(nsec);
        format!("-{}.{rest:09}", sec.saturating_add(1).unsigned_abs())
    } else {
        format!("{sec}.{nsec:09}")
    };
    records.push(("mtime".to_owned(), time.into_bytes()));
    if let Some(target) = target.filter(|target| target.len() > 100) {
        records.push(("linkpath".to_owned(), target.as_bytes().to_vec()));
    }
    for (name, value) in attributes {
        // The name is the key, and that is text.
        if let Some(name) = name.to_str().filter(|name| !name.contains('=')) {
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        } else {
            warn(&format!("attribute {}: a tar has no such names; left out", shown(name)));
        }
    }
    tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
}

/// The contents of a file, as long as its header says whatever happens meanwhile.
struct Contents<'a> {
    file: &'a dyn File,
    at: u64,
    end: u64,
    /// Why zeros take the place of contents.
    short: Option<String>,
}

impl Read for Contents<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = left.min(buf.len());
        let Some(buf) = buf.get_mut(..most).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        let read = if self.short.is_some() { Ok(0) } else { self.file.read(self.at, buf) };
        let read = match read {
            Ok(0) => {
                self.short.get_or_insert_with(|| "is shorter by now".to_owned());
                buf.fill(0);
                buf.len()
            }
            Ok(read) => read,
            Err(error) => {
                self.short = Some(error.to_string());
                buf.fill(0);
                buf.len()
            }
        };
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}

/// Returns the name of an attribute that a record of a tar is.
pub(super) fn attribute(key: &[u8]) -> Option<&OsStr> {
    key.strip_prefix(b"SCHILY.xattr.").map(OsStr::from_bytes)
}
