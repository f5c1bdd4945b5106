//! `idmapfs owners drop`: no record is left.

use std::ffi::OsStr;
use std::io::Write;

use super::super::fault::Fault;
use super::{Opened, failed, warn};
use crate::error::Error;
use crate::source::walk::Walk;
use crate::source::{Node, Rights, XattrSet};
use crate::text::shown;

/// The server's own doing.
const RIGHTS: Rights = Rights { keep_setid: true, reserve: false };

/// Removes all records, and says of how many files.
///
/// # Errors
/// Names the first file whose records cannot be removed.
pub(super) fn remove(opened: &Opened, out: &mut dyn Write) -> Result<(), Fault> {
    let files = match &opened.db {
        Some(db) => db.clear().map_err(|error| failed(db.file(), error))?,
        None => of_files(opened)?,
    };
    Fault::printing(writeln!(out, "{files} files have no record any more"))
}

fn of_files(opened: &Opened) -> Result<u64, Fault> {
    let below = &*opened.below;
    let (root, _) = below.root().map_err(|error| failed("".as_ref(), error))?;
    let mut files = u64::from(of_file(opened, &root).map_err(|error| failed("".as_ref(), error))?);
    for step in Walk::new(below).map_err(|error| failed("".as_ref(), error))? {
        match step {
            Ok(step) => {
                let had = of_file(opened, &step.node).map_err(|error| failed(&step.path, error))?;
                files = files.saturating_add(u64::from(had));
            }
            Err((path, error)) => warn(&format!("{}: {error}; not looked into", shown(path))),
        }
    }
    Ok(files)
}

/// Removes the attributes that are records; says whether there were any.
fn of_file(opened: &Opened, node: &Node) -> Result<bool, Error> {
    let below = &*opened.below;
    let names = match below.xattrs(node) {
        // Some kinds of file have none.
        Err(error) if error.is(libc::EPERM) || error.is(libc::EOPNOTSUPP) => return Ok(false),
        names => names?,
    };
    let own = names.iter().filter(|name| opened.store.is_own(OsStr::new(name)));
    let mut had = false;
    for name in own {
        match below.set_xattr(node, name, None, XattrSet::Any, RIGHTS) {
            // By another of its names, meanwhile.
            Err(error) if error.is(libc::ENODATA) => {}
            done => done?,
        }
        had = true;
    }
    Ok(had)
}
