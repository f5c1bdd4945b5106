//! What is recorded in a directory, as far as it matters to who makes an image of it.

use std::path::{Path, PathBuf};

use super::super::fault::Fault;
use super::{Opened, Owners, failed};
use crate::acl::{AclKind, Tag};
use crate::source::host::{Host, HostOptions};
use crate::source::walk::Walk;
use crate::source::{Found, Node, Source};

/// What is known of the files of a directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// An id above the last, and a file that has it, or names it in its ACL.
    pub above: Option<(PathBuf, u32)>,
    /// A file with an ACL.
    pub acl: Option<PathBuf>,
    /// The owners and the mode of the directory itself.
    pub root: (u32, u32, u16),
}

/// Looks at the files of a directory: at their records, or at what they are on disk.
///
/// `last` is the last id that can be had.
///
/// # Errors
/// If nothing can be read. What cannot be is left out.
pub fn survey(dir: &Path, records: Option<&Owners>, last: u32) -> Result<Survey, Fault> {
    let Some(records) = records else {
        let host = Host::open(dir, &HostOptions::default());
        return look(&host.map_err(|why| Fault::usage(why.to_string()))?, |_| false, last);
    };
    let opened = Opened::new(records, false)?;
    look(&*opened.view, |found| opened.is_hidden(found), last)
}

fn look(
    source: &dyn Source,
    is_hidden: impl Fn(&Found) -> bool,
    last: u32,
) -> Result<Survey, Fault> {
    let top = Path::new("");
    let (node, found) = source.root().map_err(|error| failed(top, error))?;
    let mut survey = Survey::default();
    let owner = found.attr.owner;
    let (uid, gid) = (owner.uid.map_or(0, |id| id.raw()), owner.gid.map_or(0, |id| id.raw()));
    survey.root = (uid, gid, found.attr.mode.bits());
    survey.file(source, (top, &node, &found), last);
    let mut walk = Walk::new(source).map_err(|error| failed(top, error))?;
    while let Some(step) = walk.next() {
        match step {
            Ok(step) if is_hidden(&step.found) => walk.pass_by(),
            Ok(step) => survey.file(source, (&step.path, &step.node, &step.found), last),
            // Who makes the image meets it, too.
            Err((path, error)) => log::debug!("{}: {error}", path.display()),
        }
    }
    Ok(survey)
}

impl Survey {
    fn file(&mut self, source: &dyn Source, what: (&Path, &Node, &Found), last: u32) {
        let (path, node, found) = what;
        let owner = found.attr.owner;
        let mut ids = vec![owner.uid.map(|id| id.raw()), owner.gid.map(|id| id.raw())];
        for kind in [AclKind::Access, AclKind::Default] {
            let acl = match source.acl(node, kind) {
                Ok(Some(acl)) => acl,
                Ok(None) | Err(_) => continue,
            };
            self.acl.get_or_insert_with(|| path.to_owned());
            ids.extend(acl.entries().iter().map(|entry| match entry.tag {
                Tag::User(id) => id.map(|id| id.raw()),
                Tag::Group(id) => id.map(|id| id.raw()),
                Tag::UserObj | Tag::GroupObj | Tag::Mask | Tag::Other => None,
            }));
        }
        if let Ok(Some(capability)) = source.capability(node) {
            ids.push(capability.rootid.map(|id| id.raw()));
        }
        let above = ids.into_iter().flatten().find(|id| *id > last);
        if let (None, Some(id)) = (&self.above, above) {
            self.above = Some((path.to_owned(), id));
        }
    }
}
