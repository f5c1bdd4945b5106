//! `idmapfs owners check`: what is wrong with records, one line each.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use super::super::fault::Fault;
use super::{Opened, failed, named};
use crate::acl::{Acl, AclKind, CAPABILITY_XATTR, Capability};
use crate::attr::{FileKind, Mode};
use crate::error::Error;
use crate::id::Disk;
use crate::source::owners::db::Seen;
use crate::source::owners::{Record, is_exposed, real_mode};
use crate::source::walk::Walk;
use crate::source::{Change, Found, Node, Rights};
use crate::text::shown;

/// Bits of the mode on disk that a file with a record has not.
const OPEN: u16 = Mode::SETUID | Mode::SETGID | 0o077;

/// The longest target of a symbolic link (`PATH_MAX` with its NUL).
const LONGEST: u64 = 4095;

/// What was found, as it is found.
struct Findings<'a> {
    out: &'a mut dyn Write,
    /// Whether what can be mended is.
    fix: bool,
    /// How many are left.
    left: u64,
    printed: io::Result<()>,
}

impl Findings<'_> {
    fn say(&mut self, path: &Path, what: &str) {
        self.left = self.left.saturating_add(1);
        self.line(path, what);
    }

    /// Says what can be mended, and what came of that.
    fn mendable(&mut self, path: &Path, what: &str, mend: impl FnOnce() -> Result<(), Error>) {
        if !self.fix {
            self.say(path, &format!("{what} (--fix mends it)"));
            return;
        }
        match mend() {
            Ok(()) => self.line(path, &format!("{what}: mended")),
            Err(error) => self.say(path, &format!("{what}; it cannot be mended: {error}")),
        }
    }

    fn line(&mut self, path: &Path, what: &str) {
        let line = writeln!(self.out, "{}: {what}", shown(named(path)));
        if self.printed.is_ok() {
            self.printed = line;
        }
    }
}

/// Says what is wrong, and mends what needs no guess if `fix`; `true` if nothing is
/// left.
///
/// # Errors
/// If the records cannot be read at all.
pub(super) fn check(opened: &Opened, fix: bool, out: &mut dyn Write) -> Result<bool, Fault> {
    let mut findings = Findings { out, fix, left: 0, printed: Ok(()) };
    let top = Path::new("");
    let root = opened.below.root().map_err(|error| failed(top, error))?;
    let database = |why: crate::source::owners::db::DbError| Fault::mount(why.to_string());
    let seen = match &opened.db {
        Some(db) => {
            db.check().map_err(database)?;
            Some(db.seen().map_err(database)?)
        }
        None => None,
    };
    file(opened, seen.as_ref(), (top, &root.0, &root.1), &mut findings)?;
    let mut walk = Walk::new(&*opened.below).map_err(|error| failed(top, error))?;
    let mut whole = true;
    while let Some(step) = walk.next() {
        match step {
            Ok(step) if opened.is_hidden(&step.found) => walk.pass_by(),
            Ok(step) => {
                let what = (step.path.as_path(), &step.node, &step.found);
                file(opened, seen.as_ref(), what, &mut findings)?;
            }
            Err((path, error)) => {
                whole = false;
                findings.say(&path, &format!("cannot be looked at: {error}"));
            }
        }
    }
    if let Some(seen) = &seen {
        orphans(opened, seen, whole, &mut findings)?;
    }
    Fault::printing(findings.printed)?;
    Ok(findings.left == 0)
}

/// Looks at one file.
fn file(
    opened: &Opened,
    seen: Option<&Seen>,
    (path, node, found): (&Path, &Node, &Found),
    findings: &mut Findings<'_>,
) -> Result<(), Fault> {
    if let (Some(seen), Some(db)) = (seen, &opened.db) {
        let below = &*opened.below;
        seen.add(db, below, &found.key).map_err(|error| failed(db.file(), error))?;
    }
    match opened.store.get(&*opened.below, node, &found.key) {
        Ok(Some(record)) => of_record(opened, (path, node, found), &record, findings),
        Ok(None) => {}
        // Such files have none.
        Err(error) if error.is(libc::EPERM) || error.is(libc::EOPNOTSUPP) => return Ok(()),
        Err(error) if error.is(libc::EIO) => findings.say(path, "its record makes no sense"),
        Err(error) => findings.say(path, &format!("its record cannot be read: {error}")),
    }
    attributes(opened, (path, node, found), findings);
    Ok(())
}

fn of_record(
    opened: &Opened,
    (path, node, found): (&Path, &Node, &Found),
    record: &Record,
    findings: &mut Findings<'_>,
) {
    let attr = &found.attr;
    if attr.owner.uid != Some(opened.own.uid) {
        let whose = attr.owner.uid.map_or("nobody here".to_owned(), |uid| uid.raw().to_string());
        let own = opened.own.uid.raw();
        let what = format!("its record does not count: on disk it is of {whose}, not of {own}");
        return findings.say(path, &what);
    }
    // Every symbolic link has this mode, and it means nothing.
    let mode = if attr.kind == FileKind::Symlink { Mode::new(0) } else { attr.mode };
    if is_exposed(attr.kind, mode) {
        let what = format!(
            "its record does not count: on disk others may write it (mode {:04o}); if it is \
             sound: chmod go-w",
            mode.bits()
        );
        return findings.say(path, &what);
    }
    if mode.has(OPEN) {
        let real = real_mode(attr.kind, record.mode);
        let what = format!("mode {:04o} on disk is too open", mode.bits());
        findings.mendable(path, &what, || {
            let change = Change { mode: Some(real), ..Change::default() };
            let rights = Rights { keep_setid: true, reserve: false };
            opened.below.setattr(node, None, &change, rights).map(drop)
        });
    }
    let Some((kind, _)) = record.kind.filter(|(kind, _)| *kind != attr.kind) else { return };
    let wrong = match (attr.kind, kind, attr.size) {
        (FileKind::Regular, FileKind::Symlink, 0) => "stands for a symbolic link without a target",
        (FileKind::Regular, FileKind::Symlink, size) if size > LONGEST => {
            "stands for a symbolic link and is too long for one"
        }
        (FileKind::Regular, FileKind::Directory, _) => "a file, and recorded as a directory",
        (FileKind::Regular, FileKind::Symlink, _) | (FileKind::Regular, _, 0) => return,
        (FileKind::Regular, ..) => "stands for a file without contents and has some",
        _ => "recorded as another kind of file than it is",
    };
    findings.say(path, wrong);
}

/// Looks at the attributes that are kept with the record.
fn attributes(
    opened: &Opened,
    (path, node, found): (&Path, &Node, &Found),
    findings: &mut Findings<'_>,
) {
    let (below, store) = (&*opened.below, &opened.store);
    let names = match store.attributes(below, node, &found.key) {
        Ok(names) => names,
        Err(error) => {
            return findings.say(path, &format!("its attributes cannot be read: {error}"));
        }
    };
    for name in names {
        let value = store.attribute(below, node, &found.key, &name);
        let sense = match value {
            Err(error) => Err(error),
            Ok(value) => sense(&name, &value),
        };
        if let Err(error) = sense {
            findings.say(path, &format!("its attribute {} makes no sense: {error}", shown(name)));
        }
    }
}

fn sense(name: &OsStr, value: &[u8]) -> Result<(), Error> {
    if name == CAPABILITY_XATTR {
        return Capability::<Disk>::decode(value).map(drop);
    }
    if [AclKind::Access, AclKind::Default].iter().any(|kind| name == kind.xattr()) {
        return Acl::<Disk>::decode(value).map(drop);
    }
    Ok(())
}

/// Says which records are of files that are gone.
fn orphans(
    opened: &Opened,
    seen: &Seen,
    whole: bool,
    findings: &mut Findings<'_>,
) -> Result<(), Fault> {
    let Some(db) = &opened.db else { return Ok(()) };
    let fault = |error| failed(db.file(), error);
    let fix = findings.fix && whole;
    let mut each = |ino: u64| {
        let what = format!("inode {ino} is gone and has a record");
        if fix {
            findings.line(db.file(), &format!("{what}: removed"));
        } else if whole {
            findings.say(db.file(), &format!("{what} (--fix removes it)"));
        } else {
            findings.say(db.file(), &format!("{what}, or is where this user may not look"));
        }
    };
    seen.orphans(db, &mut each).map_err(fault)?;
    if fix && seen.remove_orphans(db).map_err(fault)? > 0 {
        seen.end(db).map_err(fault)?;
        db.compact().map_err(fault)?;
    }
    Ok(())
}
