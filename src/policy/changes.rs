//! What callers may change, and how it is stored: owners, modes, the mode of
//! new files. Extended attributes are next door, in `xattrs`.

use std::borrow::Cow;
use std::fmt;

use super::error::{Origin, PolicyError, Written, set, unknown};
use super::mode::ModeExpr;
use super::names::Names;
use super::text;
use super::xattrs::{Xattr, Xattrs};
use crate::attr::{FileKind, Mode};
use crate::id::{Group, Id, Kind, User, View};

/// What becomes of something that a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<T> {
    /// It is done, with this value.
    Done(T),
    /// The caller is told that it was done; nothing is.
    Ignored,
    /// It is refused.
    Refused,
}

/// The first and the last of a range of view ids.
type Range<K> = (Id<K, View>, Id<K, View>);

/// A way to treat changes of one kind of owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chown<K: Kind> {
    /// What the kernel lets the caller do is done.
    Normal,
    /// They succeed and have no effect.
    Ignore,
    /// They are refused.
    Deny,
    /// Only these view ids may be given, as ranges from first to last id.
    Only(Box<[Range<K>]>),
}

impl<K: Kind> Chown<K> {
    fn decide(&self, wanted: Id<K, View>) -> Asked<Id<K, View>> {
        let listed = |ranges: &[Range<K>]| {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&wanted))
        };
        match self {
            Self::Normal => Asked::Done(wanted),
            Self::Ignore => Asked::Ignored,
            Self::Deny => Asked::Refused,
            Self::Only(ranges) if listed(ranges) => Asked::Done(wanted),
            Self::Only(_) => Asked::Refused,
        }
    }

    /// Returns the single ids that alone may be given.
    pub(super) fn singles(&self) -> impl Iterator<Item = Id<K, View>> {
        let ranges = if let Self::Only(ranges) = self { &**ranges } else { &[] };
        ranges.iter().filter(|(first, last)| first == last).map(|(first, _)| *first)
    }
}

impl<K: Kind> fmt::Display for Chown<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = match self {
            Self::Normal => return f.write_str("normal"),
            Self::Ignore => return f.write_str("ignore"),
            Self::Deny => return f.write_str("deny"),
            Self::Only(ranges) => ranges,
        };
        let words = ranges.iter().map(|(first, last)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        });
        write!(f, "only={}", words.collect::<Vec<_>>().join(","))
    }
}

/// A way to treat changes of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// What the kernel lets the caller do is done.
    Normal,
    /// They succeed and have no effect.
    Ignore,
    /// They are refused.
    Deny,
    /// The mode asked for is changed by this expression.
    Filter(ModeExpr),
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Ignore => f.write_str("ignore"),
            Self::Deny => f.write_str("deny"),
            Self::Filter(filter) => write!(f, "filter={filter}"),
        }
    }
}

/// What callers may change; by default, what the kernel lets them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub(super) chown: Option<Written<Chown<User>>>,
    pub(super) chgrp: Option<Written<Chown<Group>>>,
    pub(super) chmod: Option<Written<Chmod>>,
    /// Whether the execute bits of files are changed whatever `chmod` says.
    pub(super) allow_x: Option<Written<()>>,
    pub(super) create_mode: Option<Written<ModeExpr>>,
    pub(super) xattrs: Xattrs,
}

/// The changes of a policy that says nothing of them.
pub(super) static NORMAL: Changes = Changes {
    chown: None,
    chgrp: None,
    chmod: None,
    allow_x: None,
    create_mode: None,
    xattrs: Xattrs::NONE,
};

/// A change as a policy file writes it: its key, its value, and where it is.
pub(super) type Word<'a> = (&'static str, String, &'a Origin);

fn word<'a, T: fmt::Display>(
    key: &'static str,
    change: Option<&'a Written<T>>,
) -> Option<Word<'a>> {
    change.map(|Written { value, at }| (key, value.to_string(), at))
}

/// A file whose mode is to change.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What it is.
    pub kind: FileKind,
    /// Its mode as callers see it.
    pub shown: Mode,
    /// Its mode on disk.
    pub disk: Mode,
}

impl Changes {
    /// Returns what becomes of a new owning user.
    pub fn chown(&self, uid: Id<User, View>) -> Asked<Id<User, View>> {
        self.chown.as_ref().map_or(Asked::Done(uid), |chown| chown.value.decide(uid))
    }

    /// Returns what becomes of a new owning group.
    pub fn chgrp(&self, gid: Id<Group, View>) -> Asked<Id<Group, View>> {
        self.chgrp.as_ref().map_or(Asked::Done(gid), |chgrp| chgrp.value.decide(gid))
    }

    /// Reports whether every change of a mode is done as asked for.
    pub const fn chmod_is_normal(&self) -> bool {
        self.chmod.is_none()
    }

    /// Returns what becomes of a new mode of a file.
    pub fn chmod(&self, now: &Now, asked: Mode) -> Asked<Mode> {
        let free = self.allow_x.is_some() && now.kind == FileKind::Regular;
        self.decide(now, asked, if free { Mode::EXECUTE } else { 0 })
    }

    /// Returns what becomes of a new access ACL that says more than a mode, by
    /// the mode that it comes with.
    pub fn set_acl(&self, now: &Now, asked: Mode) -> Asked<Mode> {
        self.decide(now, asked, 0)
    }

    /// Decides about a mode; the bits `free` may be changed in any case.
    fn decide(&self, now: &Now, asked: Mode, free: u16) -> Asked<Mode> {
        let differ = now.shown.bits() ^ asked.bits();
        match self.chmod.as_ref().map(|chmod| &chmod.value) {
            None | Some(Chmod::Normal) => Asked::Done(asked),
            Some(Chmod::Filter(filter)) => Asked::Done(filter.apply(asked, now.kind)),
            Some(Chmod::Ignore) if differ & free != 0 => {
                let bits = (now.disk.bits() & !free) | (asked.bits() & free);
                Asked::Done(Mode::new(u32::from(bits)))
            }
            Some(Chmod::Ignore) => Asked::Ignored,
            Some(Chmod::Deny) if free != 0 && differ & !free == 0 => Asked::Done(asked),
            Some(Chmod::Deny) => Asked::Refused,
        }
    }

    /// Returns the mode and the umask with which a new file is to be made, of
    /// those that its creator has.
    ///
    /// The expression changes what the umask leaves. Where a default ACL takes
    /// the umask's place, which only whoever makes the file can tell, it
    /// changes the mode asked for, and the ACL limits what comes of it. One
    /// mode and one umask say both: the mode is that for an ACL, and the umask
    /// takes what the other one lacks. (An expression that gives more for less,
    /// as `o-g` may, so gives what both agree on.)
    pub fn create(&self, kind: FileKind, mode: Mode, umask: u16) -> (Mode, u16) {
        let Some(create) = &self.create_mode else { return (mode, umask) };
        let masked = create.value.apply(mode.without(umask & 0o777), kind);
        let whole = create.value.apply(mode, kind);
        (whole, whole.without(masked.bits()).bits() & 0o777)
    }

    /// Returns what becomes of an extended attribute, by its name in the view.
    pub fn xattr<'a>(&self, name: &'a [u8]) -> Xattr<'a> {
        self.xattrs.decide(name)
    }

    /// Returns the names under which the view has an attribute of the disk.
    pub fn shown_xattrs<'a>(&'a self, disk: &'a [u8]) -> Vec<Cow<'a, [u8]>> {
        self.xattrs.shown(disk)
    }

    /// Brings two ways of saying the same into one form: the last step of
    /// every parser.
    pub(super) fn finish(&mut self) {
        self.chown.take_if(|chown| chown.value == Chown::Normal);
        self.chgrp.take_if(|chgrp| chgrp.value == Chown::Normal);
        self.chmod.take_if(|chmod| chmod.value == Chmod::Normal);
        let strict = |chmod: &Written<Chmod>| matches!(chmod.value, Chmod::Ignore | Chmod::Deny);
        if !self.chmod.as_ref().is_some_and(strict) {
            self.allow_x = None;
        }
    }

    /// Returns each change that is not as the kernel would have it.
    pub(super) fn words(&self) -> Vec<Word<'_>> {
        let mut chmod = word("chmod", self.chmod.as_ref());
        if let (Some((_, value, _)), Some(_)) = (&mut chmod, &self.allow_x) {
            value.push_str(",allow-x");
        }
        let single = [
            word("chown", self.chown.as_ref()),
            word("chgrp", self.chgrp.as_ref()),
            chmod,
            word("create.mode", self.create_mode.as_ref()),
        ];
        let xattrs = self.xattrs.rules().iter().map(|rule| word("xattrs", Some(rule)));
        single.into_iter().chain(xattrs).flatten().collect()
    }

    /// Sets what becomes of new owning users.
    pub(super) fn set_chown(
        &mut self,
        at: &Origin,
        value: &str,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let user = |name: &str| text::user(at, name, names).map(|ids| ids.uid);
        let value = owner(at, "chown", value, user)?;
        set(&mut self.chown, at, Some(value))
    }

    /// Sets what becomes of new owning groups.
    pub(super) fn set_chgrp(
        &mut self,
        at: &Origin,
        value: &str,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let value = owner(at, "chgrp", value, |name| text::group(at, name, names))?;
        set(&mut self.chgrp, at, Some(value))
    }

    /// Sets what becomes of new modes.
    pub(super) fn set_chmod(&mut self, at: &Origin, value: &str) -> Result<(), PolicyError> {
        let (chmod, allow_x) = match value {
            "normal" => (Chmod::Normal, false),
            "ignore" => (Chmod::Ignore, false),
            "deny" => (Chmod::Deny, false),
            "ignore,allow-x" => (Chmod::Ignore, true),
            "deny,allow-x" => (Chmod::Deny, true),
            _ => match value.strip_prefix("filter=") {
                Some(text) => (Chmod::Filter(ModeExpr::parse(at, text)?), false),
                None => {
                    let known = ["normal", "ignore", "deny", "filter=EXPRESSION"];
                    let known = known.into_iter().chain(["ignore,allow-x", "deny,allow-x"]);
                    return Err(unknown(at, "chmod", value, known));
                }
            },
        };
        set(&mut self.chmod, at, Some(chmod))?;
        set(&mut self.allow_x, at, allow_x.then_some(()))
    }
}

/// Reads a way to treat changes of one kind of owner.
fn owner<K: Kind>(
    at: &Origin,
    word: &str,
    value: &str,
    id: impl Fn(&str) -> Result<Id<K, View>, PolicyError>,
) -> Result<Chown<K>, PolicyError> {
    let list = match value {
        "normal" => return Ok(Chown::Normal),
        "ignore" => return Ok(Chown::Ignore),
        "deny" => return Ok(Chown::Deny),
        _ => value.strip_prefix("only="),
    };
    let Some(list) = list else {
        return Err(unknown(at, word, value, ["normal", "ignore", "deny", "only=ID[,ID-ID]"]));
    };
    let mut ranges =
        list.split(',').map(|word| text::range(at, word, &id)).collect::<Result<Vec<_>, _>>()?;
    ranges.sort_unstable();
    ranges.dedup();
    Ok(Chown::Only(ranges.into()))
}
