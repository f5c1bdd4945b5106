//! What one caller may do with a file: by the kernel's rules on what it is
//! shown, then by the policy.
//!
//! Root of the view has every capability, others have none; flags of the mount
//! are not known here.

use std::fmt;

use serde::Serialize;

use crate::acl::Acl;
use crate::acl::permission::{
    Class, EXEC, READ, WRITE, acl_counts, granted, may_be_linked, overridden,
};
use crate::attr::{FileKind, Mode};
use crate::id::{Disk, Group, Id, Ids, Kind, User, View};
use crate::policy::explain::{Asker, Reason, Shown};
use crate::policy::rules::Deny;
use crate::policy::{Asked, Now, Pipeline, Policy as _, Server, Translate};

/// A file on the way to the one that is asked about.
#[derive(Debug)]
pub struct Place {
    /// Its name, for people.
    pub name: String,
    /// How it is shown.
    pub shown: Shown,
    /// The ACL that the caller sees.
    pub acl: Option<Acl<View>>,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done.
    Allowed,
    /// It succeeds and has no effect.
    Ignored,
    /// It fails.
    Refused,
}

/// An operation, what becomes of it, and what decided.
#[derive(Debug, Serialize)]
pub struct Access {
    /// The operation.
    pub operation: &'static str,
    /// What becomes of it.
    pub answer: Outcome,
    /// The error, where it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<&'static str>,
    /// What decided.
    pub by: Reason,
    /// The owner on disk that is stored, as `UID:GID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match self.answer {
            Outcome::Allowed => "allowed",
            Outcome::Ignored => "ignored",
            Outcome::Refused => "refused",
        };
        write!(f, "{:8} {answer} {:9}  {}", self.operation, self.errno.unwrap_or(""), self.by)?;
        self.stored.as_ref().map_or(Ok(()), |ids| write!(f, "; stored as disk {ids}"))
    }
}

/// What decided against an operation: the error, and the reason.
type Refusal = (&'static str, Reason);

type Decided<T = Reason> = Result<T, Refusal>;

/// What becomes of an operation, what decided, and what is stored.
type Row = (Outcome, Reason, Option<String>);

fn plain(stage: &'static str, text: impl Into<String>) -> Reason {
    Reason { stage, text: text.into(), rule: None, at: None }
}

/// What is needed to decide for a caller.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The policy.
    pub pipeline: &'a Pipeline,
    /// As whom the server would run.
    pub server: Server,
    /// The caller.
    pub asker: &'a Asker,
}

impl Judge<'_> {
    /// Returns what becomes of each operation on the last file of a way.
    pub fn all(&self, way: &[Place]) -> Vec<Access> {
        let Some((file, above)) = way.split_last() else { return Vec::new() };
        let kind = file.shown.subject.kind;
        let opens = matches!(kind, FileKind::Regular | FileKind::Directory);
        let reached = self.reach(above, file);
        let go = |operation, decide: &dyn Fn() -> Decided<Row>| {
            let decided = reached.clone().and_then(|()| decide());
            match decided {
                Ok((answer, by, stored)) => Access { operation, answer, errno: None, by, stored },
                Err((errno, by)) => Access {
                    operation,
                    answer: Outcome::Refused,
                    errno: Some(errno),
                    by,
                    stored: None,
                },
            }
        };
        let done = |decided: Decided| decided.map(|by| (Outcome::Allowed, by, None));
        let mut list = vec![go("read", &|| done(self.read(file)))];
        if kind.is_dir() {
            list.push(go("search", &|| done(self.permission(file, EXEC))));
            list.push(go("create", &|| self.create(file)));
        } else if kind != FileKind::Symlink {
            list.push(go("write", &|| done(self.write(file, opens))));
        }
        if kind == FileKind::Regular {
            list.push(go("execute", &|| done(self.execute(file))));
        }
        if let Some(dir) = above.last() {
            list.push(go("delete", &|| done(self.delete(dir, file))));
        }
        if !kind.is_dir() {
            list.push(go("link", &|| done(self.link(file))));
        }
        if kind != FileKind::Symlink {
            list.push(go("chmod", &|| self.chmod(file)));
        }
        list.push(go("chown", &|| self.chown(file)));
        list
    }

    /// Checks that the file is there, and that the caller may go to it.
    fn reach(&self, above: &[Place], file: &Place) -> Decided<()> {
        if let Some(refusal) = self.pipeline.explain_refusal(self.asker) {
            return Err(("EACCES", refusal));
        }
        for (at, place) in above.iter().chain([file]).enumerate() {
            if place.shown.hidden {
                let hidden = || plain("hide", format!("{} is hidden", place.name));
                return Err(("ENOENT", place.shown.reason("hide").cloned().unwrap_or_else(hidden)));
            }
            if at < above.len() {
                self.permission(place, EXEC).map_err(|(errno, by)| {
                    let text = format!("no search in {}: {}", place.name, by.text);
                    (errno, Reason { text, ..by })
                })?;
            }
        }
        Ok(())
    }

    /// Decides as `inode_permission` of fs/namei.c.
    fn permission(&self, place: &Place, want: u8) -> Decided {
        let Place { shown, acl, .. } = place;
        if want & WRITE != 0 && shown.is_unmapped() {
            return Err(("EACCES", plain("unmapped", "an id of it is unmapped")));
        }
        let acl = acl.as_ref().filter(|_| acl_counts(shown.mode));
        let (uid, is_member) = (Some(self.asker.ids.uid), |group| self.asker.is_in(group));
        let (yes, class) = granted(shown.mode, acl, || shown.seen, uid, is_member, want);
        let (reads, all) = overridden(shown.subject.kind, shown.mode, want);
        let mode = shown.mode.bits();
        let by = match class {
            Class::Everybody => plain("mode", format!("{mode:04o}, for everybody")),
            Class::Owner => plain("mode", format!("{mode:04o}, for the owner")),
            Class::Group => plain("mode", format!("{mode:04o}, for the group")),
            Class::Other => plain("mode", format!("{mode:04o}, for others")),
            Class::Acl => plain("acl", "the access ACL"),
        };
        match by {
            by if yes => Ok(by),
            _ if (reads || all) && self.has_over(shown) => Ok(root()),
            by => Err(("EACCES", by)),
        }
    }

    /// Reports whether capabilities of the caller count over a file.
    fn has_over(&self, shown: &Shown) -> bool {
        self.asker.ids.uid.is_root() && shown.common.uid.is_some() && shown.common.gid.is_some()
    }

    /// Reports whether the caller is shown as the owner of a file.
    fn owns(&self, shown: &Shown) -> bool {
        shown.seen.uid == Some(self.asker.ids.uid)
    }

    fn read(&self, file: &Place) -> Decided {
        if file.shown.subject.kind == FileKind::Symlink {
            return Ok(plain("mode", "links are read by everybody"));
        }
        self.permission(file, READ)
    }

    fn write(&self, file: &Place, opens: bool) -> Decided {
        let by = self.permission(file, WRITE)?;
        if opens {
            changeable(file)?
        }
        Ok(by)
    }

    fn execute(&self, file: &Place) -> Decided {
        let by = self.permission(file, EXEC)?;
        match denied(file, Deny::EXEC) {
            Some(by) => Err(("EACCES", by)),
            None => Ok(by),
        }
    }

    fn create(&self, dir: &Place) -> Decided<Row> {
        let by = self.permission(dir, WRITE | EXEC)?;
        let [user, group] = self.pipeline.explain_create(self.asker.ids);
        let lost = [&user, &group].into_iter().find(|decision| decision.answer.is_none());
        if let Some(reason) = lost.and_then(|decision| decision.reasons.last()) {
            return Err(("EOVERFLOW", reason.clone()));
        }
        lets(dir, Deny::CREATE)?;
        let Some(ids) = user.answer.zip(group.answer).and_then(|(u, g)| Ids::<Disk>::new(u, g))
        else {
            return Err(("EOVERFLOW", plain("unmapped", "no counterpart")));
        };
        let Server { ids: own, privileged } = self.server;
        if !privileged && own != ids {
            let text = format!("it would belong to {ids}, and the server stores as {own} alone");
            return Err(("EPERM", plain("server", text)));
        }
        let inherits = dir.shown.subject.mode.has(Mode::SETGID);
        let gid = dir.shown.subject.owner.gid.filter(|_| inherits).unwrap_or(ids.gid);
        let stored = Ids { gid, ..ids }.to_string();
        Ok((Outcome::Allowed, by, Some(stored)))
    }

    /// Decides as `may_delete` of fs/namei.c.
    fn delete(&self, dir: &Place, file: &Place) -> Decided {
        let shown = &file.shown;
        if shown.is_unmapped() {
            return Err(("EOVERFLOW", plain("unmapped", "an id of it is unmapped")));
        }
        let of = |by: Reason| Reason { text: format!("of {}: {}", dir.name, by.text), ..by };
        let by = self.permission(dir, WRITE | EXEC).map_err(|(errno, by)| (errno, of(by)))?;
        let sticky = dir.shown.subject.mode.has(Mode::STICKY);
        if sticky && !self.owns(shown) && !self.owns(&dir.shown) && !self.has_over(shown) {
            let text =
                format!("of {}: sticky, and neither it nor the file is the caller's", dir.name);
            return Err(("EPERM", plain("mode", text)));
        }
        changeable(dir)?;
        lets(file, Deny::DELETE)?;
        Ok(of(by))
    }

    /// Decides as `may_linkat` of fs/namei.c.
    fn link(&self, file: &Place) -> Decided {
        let shown = &file.shown;
        if shown.is_unmapped() {
            return Err(("EOVERFLOW", plain("unmapped", "an id of it is unmapped")));
        }
        let by = match self.as_owner(shown) {
            Some(by) => by,
            None if may_be_linked(shown.subject.kind, shown.mode) => self
                .permission(file, READ | WRITE)
                .map_err(|(_, by)| ("EPERM", protected(&by.text)))?,
            None => return Err(("EPERM", protected("it is another's, and no plain file"))),
        };
        lets(file, Deny::LINK)?;
        Ok(by)
    }

    /// Says that the caller may do what only the owner may, where it may.
    fn as_owner(&self, shown: &Shown) -> Option<Reason> {
        if self.owns(shown) {
            return Some(plain("owner", "it is the caller's own"));
        }
        (self.asker.ids.uid.is_root() && shown.common.uid.is_some()).then(root)
    }

    fn chmod(&self, file: &Place) -> Decided<Row> {
        let shown = &file.shown;
        if shown.is_unmapped() {
            return Err(("EOVERFLOW", plain("unmapped", "an id of it is unmapped")));
        }
        let Some(by) = self.as_owner(shown) else {
            return Err(("EPERM", plain("owner", "only the owner may")));
        };
        lets(file, Deny::CHMOD)?;
        let subject = shown.subject;
        let now = Now { kind: subject.kind, shown: shown.mode, disk: subject.mode };
        // Any change of the bits for reading and writing is decided alike.
        let asked = Mode::new(u32::from(shown.mode.bits() ^ 0o200));
        let by = self.rule("chmod").unwrap_or(by);
        match self.pipeline.changes().chmod(&now, asked) {
            Asked::Done(_) => Ok((Outcome::Allowed, by, None)),
            Asked::Ignored => Ok((Outcome::Ignored, by, None)),
            Asked::Refused => Err(("EPERM", by)),
        }
    }

    /// Decides about giving the file to the caller's own ids: `chown_ok` and
    /// `chgrp_ok` of fs/attr.c.
    fn chown(&self, file: &Place) -> Decided<Row> {
        let (shown, to) = (&file.shown, self.asker.ids);
        let by = if self.owns(shown) {
            plain("owner", "it is the caller's own")
        } else if !to.uid.is_root() {
            return Err(("EPERM", plain("owner", "only root gives files to others")));
        } else if self.has_over(shown) || shown.seen.uid.is_none() && shown.seen.gid.is_none() {
            root()
        } else {
            // What is mapped of it is not for capabilities either.
            return Err(("EPERM", plain("unmapped", "one id of it is unmapped")));
        };
        lets(file, Deny::CHOWN)?;
        let changes = self.pipeline.changes();
        let (user, group) = (changes.chown(to.uid), changes.chgrp(to.gid));
        for (key, refused) in
            [("chown", user == Asked::Refused), ("chgrp", group == Asked::Refused)]
        {
            if refused {
                return Err(("EPERM", self.rule(key).unwrap_or(by)));
            }
        }
        if user == Asked::Ignored && group == Asked::Ignored {
            return Ok((Outcome::Ignored, self.rule("chown").unwrap_or(by), None));
        }
        let owner = shown.subject.owner;
        let uid = kept::<User>(user, owner.uid, shown.seen.uid, shown.fixed.uid, |id| {
            self.pipeline.store(id)
        });
        let gid = kept::<Group>(group, owner.gid, shown.seen.gid, shown.fixed.gid, |id| {
            self.pipeline.store(id)
        });
        match (uid, gid) {
            (Some(uid), Some(gid)) => {
                Ok((Outcome::Allowed, by, Some(Ids::<Disk> { uid, gid }.to_string())))
            }
            _ => Err(("EOVERFLOW", self.lost(shown, uid.is_none()))),
        }
    }

    /// Says why an id cannot be stored.
    fn lost(&self, shown: &Shown, user: bool) -> Reason {
        let rule = if user { shown.fixed.uid.is_some() } else { shown.fixed.gid.is_some() };
        let [uid, gid] = &shown.owner;
        let [to_uid, to_gid] = self.pipeline.explain_store(self.asker.ids);
        let (now, to) = if user { (uid, to_uid) } else { (gid, to_gid) };
        let by_rule = now.reasons.iter().find(|reason| reason.stage == "present-owner");
        let found = by_rule.filter(|_| rule).or(to.reasons.last()).cloned();
        found.unwrap_or_else(|| plain("unmapped", "no counterpart"))
    }

    /// Returns what is said of changes of one kind, by its key in a policy.
    fn rule(&self, key: &str) -> Option<Reason> {
        self.pipeline.explain_changes().into_iter().find(|reason| reason.stage == key)
    }
}

/// Returns what is stored of one id by a change of owner.
fn kept<K: Kind>(
    asked: Asked<Id<K, View>>,
    now: Option<Id<K, Disk>>,
    seen: Option<Id<K, View>>,
    fixed: Option<Id<K, View>>,
    store: impl Fn(Id<K, View>) -> Option<Id<K, Disk>>,
) -> Option<Id<K, Disk>> {
    match asked {
        Asked::Done(view) if now.is_some() && seen == Some(view) => now,
        Asked::Done(_) if fixed.is_some() => None,
        Asked::Done(view) => store(view),
        Asked::Ignored | Asked::Refused => now,
    }
}

fn root() -> Reason {
    plain("root", "root may")
}

fn protected(why: &str) -> Reason {
    plain("hard links", format!("{why}; the host may leave them unprotected"))
}

/// Says that a rule denies an operation, where one does.
fn denied(file: &Place, op: Deny) -> Option<Reason> {
    file.shown.reason("deny").filter(|_| file.shown.denied.contains(op)).cloned()
}

/// Checks that rules let a file be changed at all.
fn changeable(file: &Place) -> Decided<()> {
    match file.shown.reason("read-only").filter(|_| file.shown.read_only) {
        Some(by) => Err(("EROFS", by.clone())),
        None => Ok(()),
    }
}

/// Checks that rules let an operation be done.
fn lets(file: &Place, op: Deny) -> Decided<()> {
    changeable(file)?;
    denied(file, op).map_or(Ok(()), |by| Err(("EPERM", by)))
}
