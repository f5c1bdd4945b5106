//! What the rules of the policy say of a file: whether it is there at all, as
//! whose and how it is shown, and what nobody may do with it.
//!
//! Rules by path go with names: the node of a directory keeps where its path
//! stands in them, and a name below it is one step on from there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::Fs;
use super::open::OPEN_TO_EXECUTE;
use crate::acl::Acl;
use crate::attr::{Attr, FileKind, Mode, Name};
use crate::error::{Errno, Error, Result};
use crate::id::{Disk, Owner, View};
use crate::policy::Policy;
use crate::policy::rules::{Deny, Hide, Rules, State, Subject, Verdict};
use crate::source::{Found, Node};

/// The error of a change to what a rule makes read-only.
const READ_ONLY: Error = Error::Os(Errno(libc::EROFS));

/// The error of a move to where other rules are in force: who moves can copy.
pub(super) const ELSEWHERE: Error = Error::Os(Errno(libc::EXDEV));

/// More names than a path can have in which each is looked up from the last;
/// what is recorded of several files may go round in a circle.
const DEEPEST: usize = 1 << 16;

/// A file as a request finds it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Its attributes on disk.
    pub attr: Attr<Disk>,
    /// Where the name by which it was found stands in the rules.
    pub state: State,
    /// The policy that this is a state of: a reload changes nothing for a
    /// request half way.
    pub policy: Arc<dyn Policy>,
}

/// A place where a name may be made.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// Where it stands in the rules.
    pub state: State,
    /// The policy that this is a state of.
    pub policy: Arc<dyn Policy>,
}

/// What a name has led to.
#[derive(Clone, Debug)]
pub(super) struct There {
    /// The file.
    pub found: Found,
    /// What rules see of it.
    pub seen: Seen,
}

impl Seen {
    /// Returns what rules may ask about it.
    pub(super) const fn subject(&self) -> Subject {
        Subject { kind: self.attr.kind, owner: self.attr.owner, mode: self.attr.mode }
    }
}

impl Fs {
    /// Returns the policy in force if it has any rules.
    pub(super) fn ruled(&self) -> Option<Arc<dyn Policy>> {
        self.in_force.ruled()
    }

    /// Reports whether the policy in force has any rules.
    pub(super) fn has_rules(&self) -> bool {
        self.ruled().is_some()
    }

    /// Returns a known file with these attributes.
    pub(super) fn seen(&self, number: u64, attr: Attr<Disk>) -> Seen {
        if attr.encrypted {
            self.tree.set_encrypted(number);
        }
        let policy = self.policy();
        Seen { attr, state: self.state(policy.rules(), number), policy }
    }

    /// Returns what a name has led to.
    ///
    /// # Errors
    /// `Hidden` (`ENOENT`) if a rule hides it.
    pub(super) fn visible(&self, parent: u64, name: Name<'_>, attr: Attr<Disk>) -> Result<Seen> {
        let policy = self.policy();
        let rules = policy.rules();
        let state = step(rules, &self.state(rules, parent), name, attr.kind);
        let seen = Seen { attr, state, policy };
        if self.is_gone(&seen) { Err(Error::Hidden) } else { Ok(seen) }
    }

    /// Checks that a name is not hidden whatever it leads to. Nothing has been
    /// asked of the source then, so that no answer and no delay tells whether it
    /// exists.
    ///
    /// # Errors
    /// `Hidden` (`ENOENT`).
    pub(super) fn lets_look(&self, parent: u64, name: Name<'_>) -> Result<()> {
        let Some(policy) = self.ruled() else { return Ok(()) };
        let rules = policy.rules();
        match rules.hides(&self.state(rules, parent), bytes(name)) {
            Hide::Always => Err(Error::Hidden),
            Hide::No | Hide::Depends => Ok(()),
        }
    }

    /// Checks that a known file is not hidden: one that was shown may be
    /// hidden since, and be reached without its name.
    ///
    /// # Errors
    /// `Stale` (`ESTALE`), for which the kernel looks its name up again.
    pub(super) fn lets_reach(&self, number: u64, node: &Node) -> Result<()> {
        let hides = self.ruled().is_some_and(|policy| {
            let rules = policy.rules();
            rules.hide_anything() || !self.state(rules, number).is_of(rules)
        });
        if hides && self.is_gone(&self.look(number, node)?) { Err(Error::Stale) } else { Ok(()) }
    }

    /// Checks that a name is not hidden whatever it leads to, before anything
    /// is asked of the source, where it is to be made.
    ///
    /// # Errors
    /// `Denied` (`EPERM`).
    pub(super) fn lets_name(&self, parent: u64, name: Name<'_>) -> Result<()> {
        self.lets_look(parent, name).map_err(|_hidden| Error::Denied)
    }

    /// Checks that a directory may get a name for such a file by what is denied
    /// in some places; returns where that name stands, and in which policy.
    ///
    /// # Errors
    /// `Denied` (`EPERM`) for a name that is hidden, be it there or not, and
    /// where a rule denies it; `EROFS` where one makes the directory or the name
    /// read-only.
    pub(super) fn lets_add(
        &self,
        (parent, dir): (u64, &Node),
        name: Name<'_>,
        new: &Subject,
        op: Deny,
    ) -> Result<Spot> {
        let policy = self.policy();
        let rules = policy.rules();
        if rules.is_empty() {
            return Ok(Spot { state: State::default(), policy });
        }
        let above = self.state(rules, parent);
        if self.is_hidden(&policy, &above, dir, name)? {
            return Err(Error::Denied);
        }
        let attr = self.source.getattr(dir)?;
        let subject = Subject { kind: attr.kind, owner: attr.owner, mode: attr.mode };
        let state = step(rules, &above, name, new.kind);
        for verdict in [rules.verdict(&above, &subject), rules.verdict(&state, new)] {
            allow(&verdict, op)?;
        }
        Ok(Spot { state, policy })
    }

    /// Checks that a directory may lose a name; returns what it leads to.
    ///
    /// # Errors
    /// `Hidden` (`ENOENT`) for a hidden name, `EROFS` where a rule makes the
    /// directory or the file read-only, `Denied` (`EPERM`) where one denies it.
    pub(super) fn lets_drop(
        &self,
        (parent, dir): (u64, &Node),
        name: Name<'_>,
        found: Found,
        op: Deny,
    ) -> Result<There> {
        let seen = self.visible(parent, name, found.attr)?;
        if self.has_rules() {
            let dir = self.look(parent, dir)?;
            self.lets_change(&dir)?;
            self.lets(&seen, op)?;
        }
        Ok(There { found, seen })
    }

    /// Compares places, again if the policy was replaced meanwhile: states of two
    /// policies are not the same.
    ///
    /// # Errors
    /// As `compare`.
    pub(super) fn under_one_policy<T>(&self, compare: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let since = self.replaced();
            match compare() {
                Err(ELSEWHERE) if self.replaced() != since => {}
                result => return result,
            }
        }
    }

    /// Checks that a file may be changed in this way.
    ///
    /// # Errors
    /// `EROFS` where a rule makes it read-only, `Denied` (`EPERM`) where one
    /// denies it.
    pub(super) fn lets(&self, seen: &Seen, op: Deny) -> Result<()> {
        self.ask(seen, |verdict| allow(&verdict, op)).unwrap_or(Ok(()))
    }

    /// Checks that a file may be changed at all.
    ///
    /// # Errors
    /// `EROFS` where a rule makes it read-only.
    pub(super) fn lets_change(&self, seen: &Seen) -> Result<()> {
        let read_only = self.ask(seen, |verdict| verdict.read_only) == Some(true);
        if read_only { Err(READ_ONLY) } else { Ok(()) }
    }

    /// Checks that a file may be opened with these flags, as in open(2).
    ///
    /// # Errors
    /// `EROFS` to write what a rule makes read-only, `EACCES` to execute what
    /// one does not let be executed, `Stale` for what is hidden by now.
    pub(super) fn lets_open(&self, (number, node): (u64, &Node), flags: i32) -> Result<()> {
        if self.ruled().is_none() {
            return Ok(());
        }
        let seen = self.look(number, node)?;
        if self.is_gone(&seen) {
            return Err(Error::Stale);
        }
        let Some((read_only, deny)) = self.ask(&seen, |verdict| (verdict.read_only, verdict.deny))
        else {
            return Ok(());
        };
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        if read_only && writes {
            return Err(READ_ONLY);
        }
        if flags & OPEN_TO_EXECUTE != 0 && deny.contains(Deny::EXEC) {
            return Err(Error::Os(Errno(libc::EACCES)));
        }
        Ok(())
    }

    /// Reports whether a rule hides a known file.
    pub(super) fn is_gone(&self, seen: &Seen) -> bool {
        self.ask(seen, |verdict| verdict.hide) == Some(true)
    }

    /// Returns the owner that a rule shows a file as, whatever is stored.
    pub(super) fn owner_by_rule(seen: &Seen) -> Owner<View> {
        seen.policy.rules().verdict(&seen.state, &seen.subject()).owner
    }

    /// Returns the mode that a file is shown with.
    pub(super) fn shown_mode(&self, seen: &Seen) -> Mode {
        let mode = |verdict: Verdict<'_>| {
            verdict.mode.map(|mode| mode.apply(seen.attr.mode, seen.attr.kind))
        };
        self.ask(seen, mode).flatten().unwrap_or(seen.attr.mode)
    }

    /// Returns a known file as it is now.
    ///
    /// # Errors
    /// As statx(2).
    pub(super) fn look(&self, number: u64, node: &Node) -> Result<Seen> {
        Ok(self.seen(number, self.source.getattr(node)?))
    }

    /// Shows mode and link count as the rules have it.
    pub(super) fn dress(&self, seen: &Seen, shown: &mut Attr<View>) {
        let rules = seen.policy.rules();
        shown.mode = self.shown_mode(seen);
        if !shown.kind.is_dir() {
            return;
        }
        // The count of a directory's links is that of the directories in it.
        if rules.may_hide_below(&seen.state) {
            shown.nlink = 1;
        }
        // On some file systems its size is that of the names in it.
        if rules.may_hide_names(&seen.state) {
            (shown.size, shown.blocks) = (0, 0);
        }
    }

    /// Reports whether names in a directory may be hidden.
    pub(super) fn hides_names(&self, number: u64) -> bool {
        self.ruled().is_some_and(|policy| {
            let rules = policy.rules();
            rules.may_hide_names(&self.state(rules, number))
        })
    }

    /// Shows an access ACL as if a rule's mode had been set by chmod(2).
    pub(super) fn dress_acl(&self, seen: &Seen, acl: Acl<View>) -> Acl<View> {
        let mode = self.shown_mode(seen);
        if mode == seen.attr.mode { acl } else { acl.chmod(mode) }
    }

    /// Asks the rules, if there are any, about a file.
    fn ask<T>(&self, seen: &Seen, answer: impl FnOnce(Verdict<'_>) -> T) -> Option<T> {
        let rules = Some(seen.policy.rules()).filter(|rules| !rules.is_empty())?;
        Some(answer(rules.verdict(&seen.state, &seen.subject())))
    }

    /// Reports whether a name is hidden: by itself, or through what is there.
    fn is_hidden(
        &self,
        policy: &Arc<dyn Policy>,
        above: &State,
        dir: &Node,
        name: Name<'_>,
    ) -> Result<bool> {
        let rules = policy.rules();
        match rules.hides(above, bytes(name)) {
            Hide::Always => return Ok(true),
            Hide::No => return Ok(false),
            Hide::Depends => {}
        }
        let there = self.existing(dir, name)?;
        Ok(there.is_some_and(|there| {
            let state = step(rules, above, name, there.attr.kind);
            self.is_gone(&Seen { state, attr: there.attr, policy: Arc::clone(policy) })
        }))
    }

    /// Returns where a known file stands in these rules.
    fn state(&self, rules: &Rules, number: u64) -> State {
        if rules.is_empty() {
            return State::default();
        }
        if number == self.tree.root().number {
            return rules.root();
        }
        match self.tree.state(number) {
            Ok(state) if state.is_of(rules) => state,
            Ok(_) | Err(_) => self.restate(rules, number),
        }
    }

    /// Reports whether a known directory stands in these rules where a name would
    /// put it.
    pub(super) fn stays(&self, rules: &Rules, (dir, name): (u64, Name<'_>), number: u64) -> bool {
        step(rules, &self.state(rules, dir), name, FileKind::Directory) == self.state(rules, number)
    }

    /// Makes sure that the number of a file with several names stands for the
    /// name that it stood for before a reload, not for the one looked up first.
    pub(super) fn settle_names(&self, found: &Found, seen: &Seen) {
        let rules = seen.policy.rules();
        if found.attr.nlink > 1 && !found.attr.kind.is_dir() && !rules.is_empty() {
            drop(self.state(rules, self.tree.number(&found.key)));
        }
    }

    /// Finds out where a known file stands, from the names on the way to it.
    ///
    /// Of what was found by its number alone nobody knows that, and so it is hidden until
    /// it is found by a name.
    fn restate(&self, rules: &Rules, number: u64) -> State {
        let places = self.places(number).unwrap_or_default();
        // The last one was found last.
        let state = places.into_iter().rev().find_map(|at| self.state_at(rules, number, at));
        let Some(state) = state else { return State::default() };
        self.tree.restate(number, &state);
        state
    }

    /// Returns where one of the names stands by which a file was found; `None` if the
    /// kernel has forgotten a directory on the way there.
    fn state_at(&self, rules: &Rules, number: u64, place: (u64, OsString)) -> Option<State> {
        let root = self.tree.root().number;
        let (mut at, name) = place;
        let mut path = vec![(number, name)];
        while at != root {
            let (parent, name) = self.tree.place(at).ok().flatten()?;
            if path.len() >= DEEPEST {
                return None;
            }
            path.push((at, name));
            at = parent;
        }
        let mut state = rules.root();
        for (at, name) in path.iter().rev() {
            let directory = *at != number || self.tree.is_dir(*at);
            state = rules.step(&state, name.as_bytes(), directory);
        }
        Some(state)
    }
}

/// Returns where a name in a directory stands.
fn step(rules: &Rules, dir: &State, name: Name<'_>, kind: FileKind) -> State {
    rules.step(dir, bytes(name), kind.is_dir())
}

fn bytes(name: Name<'_>) -> &[u8] {
    name.as_os_str().as_bytes()
}

/// # Errors
/// As [`Fs::lets`].
fn allow(verdict: &Verdict, op: Deny) -> Result<()> {
    if verdict.read_only {
        return Err(READ_ONLY);
    }
    if verdict.hide || !op.is_empty() && verdict.deny.contains(op) {
        Err(Error::Denied)
    } else {
        Ok(())
    }
}
