//! Options in the spelling of other programs: those that can only mean one
//! thing are taken, the others are answered with ours.

use super::changes::Chmod;
use super::clauses::expression;
use super::error::{Code, Origin, PolicyError, Written, quote, set};
use super::names::Names;
use super::rules::{Deny, Rule};
use super::spec::{Rules, Spec};
use super::text::{self, SomeIds};
use crate::id::{Extent, Id, Kind};

/// An option of another program that is taken as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Familiar {
    /// `uidmapping=A:B:N[:A:B:N...]`, disk first, of fuse-overlayfs.
    UidMapping,
    /// `gidmapping=A:B:N[:A:B:N...]`, disk first, of fuse-overlayfs.
    GidMapping,
    /// `X-mount.idmap=[u:|g:|b:]A:B:N ...`, disk first, of mount(8).
    XMountIdmap,
    /// `force-user=USER` of bindfs: every file is shown as this user's.
    ForceUser,
    /// `force-group=GROUP` of bindfs: every file is shown as this group's.
    ForceGroup,
    /// `create-for-user=USER` of bindfs: new files are this user's on disk.
    CreateForUser,
    /// `create-for-group=GROUP` of bindfs: new files are this group's on disk.
    CreateForGroup,
    /// `chown-normal`, `-ignore`, `-deny` of bindfs, and so for chgrp, chmod.
    ChownNormal,
    /// Changes of the owning user have no effect.
    ChownIgnore,
    /// Changes of the owning user are refused.
    ChownDeny,
    /// Changes of the owning group are done.
    ChgrpNormal,
    /// Changes of the owning group have no effect.
    ChgrpIgnore,
    /// Changes of the owning group are refused.
    ChgrpDeny,
    /// Changes of the mode are done.
    ChmodNormal,
    /// Changes of the mode have no effect.
    ChmodIgnore,
    /// Changes of the mode are refused.
    ChmodDeny,
    /// `chmod-filter=EXPRESSION` of bindfs: applied to modes asked for.
    ChmodFilter,
    /// `chmod-allow-x` of bindfs: but execute bits of files can be changed.
    ChmodAllowX,
    /// `create-with-perms=EXPRESSION` of bindfs: applied to new files' modes.
    CreateWithPerms,
    /// `create-as-user` of bindfs: new files are their creator's.
    CreateAsUser,
    /// `perms=EXPRESSION` of bindfs: applied to every mode that is shown.
    Perms,
    /// `delete-deny` of bindfs: nothing can be removed.
    DeleteDeny,
    /// `rename-deny` of bindfs: nothing can be given another name.
    RenameDeny,
    /// `xattr-none` of bindfs: there are no extended attributes.
    XattrNone,
    /// `xattr-ro` of bindfs: extended attributes can only be read.
    XattrRo,
    /// `xattr-rw` of bindfs: extended attributes are as on the source.
    XattrRw,
    /// `squash_to_uid=N` of fuse-overlayfs: shown as.
    SquashToUid,
    /// `squash_to_gid=N` of fuse-overlayfs: shown as.
    SquashToGid,
    /// `squash_to_root` of fuse-overlayfs: shown as 0:0.
    SquashToRoot,
    /// `uid-offset=N` of bindfs: the view uid is the disk uid plus N.
    UidOffset,
    /// `gid-offset=N` of bindfs: the view gid is the disk gid plus N.
    GidOffset,
    /// `map-passwd=FILE` of bindfs: disk users by their names in a file.
    MapPasswd,
    /// `map-group=FILE` of bindfs: disk groups by their names in a file.
    MapGroup,
    /// `map-passwd-rev=FILE` of bindfs: view users by their names in a file.
    MapPasswdRev,
    /// `map-group-rev=FILE` of bindfs: view groups by their names in a file.
    MapGroupRev,
    /// `mirror=USER:@GROUP` of bindfs: these see every file as their own.
    Mirror,
    /// `mirror-only=USER:@GROUP` of bindfs: nobody else gets in, but root.
    MirrorOnly,
}

/// Every spelling that is taken, by its name.
const TAKEN: &[(&str, Familiar)] = &[
    ("uidmapping", Familiar::UidMapping),
    ("gidmapping", Familiar::GidMapping),
    ("X-mount.idmap", Familiar::XMountIdmap),
    ("force-user", Familiar::ForceUser),
    ("force-group", Familiar::ForceGroup),
    ("create-for-user", Familiar::CreateForUser),
    ("create-for-group", Familiar::CreateForGroup),
    ("chown-normal", Familiar::ChownNormal),
    ("chown-ignore", Familiar::ChownIgnore),
    ("chown-deny", Familiar::ChownDeny),
    ("chgrp-normal", Familiar::ChgrpNormal),
    ("chgrp-ignore", Familiar::ChgrpIgnore),
    ("chgrp-deny", Familiar::ChgrpDeny),
    ("chmod-normal", Familiar::ChmodNormal),
    ("chmod-ignore", Familiar::ChmodIgnore),
    ("chmod-deny", Familiar::ChmodDeny),
    ("chmod-filter", Familiar::ChmodFilter),
    ("chmod-allow-x", Familiar::ChmodAllowX),
    ("create-with-perms", Familiar::CreateWithPerms),
    ("create-as-user", Familiar::CreateAsUser),
    ("perms", Familiar::Perms),
    ("delete-deny", Familiar::DeleteDeny),
    ("rename-deny", Familiar::RenameDeny),
    ("xattr-none", Familiar::XattrNone),
    ("xattr-ro", Familiar::XattrRo),
    ("xattr-rw", Familiar::XattrRw),
    ("squash_to_uid", Familiar::SquashToUid),
    ("squash_to_gid", Familiar::SquashToGid),
    ("squash_to_root", Familiar::SquashToRoot),
    ("uid-offset", Familiar::UidOffset),
    ("gid-offset", Familiar::GidOffset),
    ("map-passwd", Familiar::MapPasswd),
    ("map-group", Familiar::MapGroup),
    ("map-passwd-rev", Familiar::MapPasswdRev),
    ("map-group-rev", Familiar::MapGroupRev),
    ("mirror", Familiar::Mirror),
    ("mirror-only", Familiar::MirrorOnly),
];

/// Spellings that are refused: programs read them in opposite orders, or they
/// name files of their own; with what to write instead.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["uidmap", "uid-map", "map-users", "map-user", "translate-uid"],
        "programs disagree on the order of its numbers; write map=u:disk:view:count",
    ),
    (
        &["gidmap", "gid-map", "map-groups", "translate-gid"],
        "programs disagree on the order of its numbers; write map=g:disk:view:count",
    ),
    (&["raw.idmap", "idmapped-mounts"], "write map=[u:|g:]disk:view:count, once for each extent"),
    (&["uidfile", "gidfile"], "write the pairs into the table of a policy file"),
    (&["create-as-mounter"], "write store-as=USER:GROUP with the user who mounts"),
];

/// What bindfs has and we have not, with the reason.
const ABSENT: &[(&[&str], &str)] = &[
    (
        &["resolve-symlinks", "resolved-symlink-deletion"],
        "the server follows no link: it would leave the source with its own rights, not with those \
         of the caller",
    ),
    (
        &["hide-hard-links"],
        "the kernel counts links itself: when one of two names goes, the other would have none left",
    ),
    (&["ctime-from-mtime"], "a change that ctime hides is missed by those who look for changes"),
    (
        &["block-devices-as-files"],
        "a file of size 0 is what programs would see; losetup shows a device",
    ),
    (&["read-rate", "write-rate"], "limit the server by io.max of its control group"),
    (
        &["enable-lock-forwarding", "disable-lock-forwarding"],
        "locks of fcntl are always those of the source, and flock is always the mount's alone",
    ),
    (
        &["direct-io"],
        "files could not be mapped; a program that wants it for a file of its own opens it with O_DIRECT",
    ),
    (&["forward-odirect"], "an O_DIRECT open is past the caches"),
    (
        &["realistic-permissions"],
        "what the server may not do fails when it is tried; perms= or a rule can show other modes",
    ),
];

/// Returns the error for an option that means something else elsewhere.
pub(super) fn refused(name: &str) -> Option<PolicyError> {
    let of = |table: &[(&'static [&'static str], &'static str)]| {
        table.iter().find_map(|(names, why)| {
            let name = names.iter().find(|known| **known == name)?;
            Some((Origin::Option(name), *why))
        })
    };
    let spelling = || {
        let (at, instead) = of(REFUSED)?;
        Some(PolicyError::new(Code::Spelling, at, "not taken in this spelling").hint(instead))
    };
    let absent = || {
        let (at, why) = of(ABSENT)?;
        Some(PolicyError::new(Code::Spelling, at, "is not there").hint(why))
    };
    spelling().or_else(absent)
}

impl Familiar {
    /// Finds a spelling by the name of its option.
    pub fn by_name(name: &str) -> Option<Self> {
        TAKEN.iter().find_map(|(known, spelling)| (*known == name).then_some(*spelling))
    }

    /// Returns the name of the option.
    pub fn name(self) -> &'static str {
        TAKEN.iter().find_map(|(name, known)| (*known == self).then_some(*name)).unwrap_or_default()
    }

    /// Reports whether the option has a value.
    pub const fn takes_value(self) -> bool {
        match self {
            Self::UidMapping
            | Self::GidMapping
            | Self::XMountIdmap
            | Self::ForceUser
            | Self::ForceGroup
            | Self::CreateForUser
            | Self::CreateForGroup
            | Self::ChmodFilter
            | Self::CreateWithPerms
            | Self::Perms
            | Self::SquashToUid
            | Self::SquashToGid
            | Self::UidOffset
            | Self::GidOffset
            | Self::MapPasswd
            | Self::MapGroup
            | Self::MapPasswdRev
            | Self::MapGroupRev
            | Self::Mirror
            | Self::MirrorOnly => true,
            Self::ChownNormal
            | Self::ChownIgnore
            | Self::ChownDeny
            | Self::ChgrpNormal
            | Self::ChgrpIgnore
            | Self::ChgrpDeny
            | Self::ChmodNormal
            | Self::ChmodIgnore
            | Self::ChmodDeny
            | Self::ChmodAllowX
            | Self::CreateAsUser
            | Self::DeleteDeny
            | Self::RenameDeny
            | Self::XattrNone
            | Self::XattrRo
            | Self::XattrRw
            | Self::SquashToRoot => false,
        }
    }

    /// Reports whether the option says extents of a map.
    pub(super) const fn is_map(self) -> bool {
        matches!(
            self,
            Self::UidMapping
                | Self::GidMapping
                | Self::XMountIdmap
                | Self::UidOffset
                | Self::GidOffset
        )
    }

    /// Reports whether the option names a file of users or groups.
    pub const fn is_list(self) -> bool {
        matches!(self, Self::MapPasswd | Self::MapGroup | Self::MapPasswdRev | Self::MapGroupRev)
    }

    /// Adds what the option says to a policy.
    pub(super) fn apply(
        self,
        spec: &mut Spec,
        value: &str,
        names: &dyn Names,
    ) -> Result<(), PolicyError> {
        let at = &Origin::Option(self.name());
        let only_user = |uid| SomeIds { uid: Some(uid), gid: None };
        match self {
            Self::UidMapping => triples(&mut spec.users, at, value),
            Self::GidMapping => triples(&mut spec.groups, at, value),
            Self::XMountIdmap => x_mount_idmap(spec, at, value),
            Self::ForceUser => {
                let uid = text::user(at, value, names)?.uid;
                spec.set_present(at, only_user(uid))
            }
            Self::ForceGroup => {
                let gid = text::group(at, value, names)?;
                spec.set_present(at, SomeIds { uid: None, gid: Some(gid) })
            }
            Self::CreateForUser => {
                let uid = text::user(at, value, names)?.uid;
                spec.set_store(at, SomeIds { uid: Some(uid), gid: None })
            }
            Self::CreateForGroup => {
                let gid = text::group(at, value, names)?;
                spec.set_store(at, SomeIds { uid: None, gid: Some(gid) })
            }
            Self::ChownNormal => spec.changes.set_chown(at, "normal", names),
            Self::ChownIgnore => spec.changes.set_chown(at, "ignore", names),
            Self::ChownDeny => spec.changes.set_chown(at, "deny", names),
            Self::ChgrpNormal => spec.changes.set_chgrp(at, "normal", names),
            Self::ChgrpIgnore => spec.changes.set_chgrp(at, "ignore", names),
            Self::ChgrpDeny => spec.changes.set_chgrp(at, "deny", names),
            Self::ChmodNormal => spec.changes.set_chmod(at, "normal"),
            Self::ChmodIgnore => spec.changes.set_chmod(at, "ignore"),
            Self::ChmodDeny => spec.changes.set_chmod(at, "deny"),
            Self::ChmodFilter => {
                set(&mut spec.changes.chmod, at, Some(Chmod::Filter(expression(at, value)?)))
            }
            Self::ChmodAllowX => set(&mut spec.changes.allow_x, at, Some(())),
            Self::CreateWithPerms => {
                set(&mut spec.changes.create_mode, at, Some(expression(at, value)?))
            }
            Self::XattrNone => xattrs(spec, at, &[("system.posix_acl_*", "pass"), ("*", "hide")]),
            Self::XattrRo => xattrs(spec, at, &[("*", "refuse")]),
            Self::XattrRw | Self::CreateAsUser => Ok(()),
            // Together they are one stage, see `bindfs::lists`.
            Self::MapPasswd | Self::MapGroup | Self::MapPasswdRev | Self::MapGroupRev => Ok(()),
            Self::Perms => {
                let mode = Some(expression(at, value)?);
                everything(spec, at, |rule| set(&mut rule.present_mode, at, mode))
            }
            Self::DeleteDeny => deny(spec, at, Deny::DELETE),
            Self::RenameDeny => deny(spec, at, Deny::RENAME),
            Self::SquashToUid => spec.set_present(at, only_user(number(at, value)?)),
            Self::SquashToGid => {
                spec.set_present(at, SomeIds { uid: None, gid: Some(number(at, value)?) })
            }
            Self::SquashToRoot => {
                let (uid, gid) = (number(at, "0")?, number(at, "0")?);
                spec.set_present(at, SomeIds { uid: Some(uid), gid: Some(gid) })
            }
            Self::UidOffset => offset(&mut spec.users, at, value),
            Self::GidOffset => offset(&mut spec.groups, at, value),
            Self::Mirror => mirror(spec, at, value, names),
            Self::MirrorOnly => {
                spec.callers.refuse_others(at);
                mirror(spec, at, value, names)
            }
        }
    }
}

/// Changes the one rule for every file that these options make.
///
/// They come before all options that make other rules.
fn everything(
    spec: &mut Spec,
    at: &Origin,
    change: impl FnOnce(&mut Rule) -> Result<(), PolicyError>,
) -> Result<(), PolicyError> {
    let new = || Written { value: Rule::default(), at: at.clone() };
    let mut rule = spec.rules.pop().unwrap_or_else(new);
    change(&mut rule.value)?;
    spec.rules.push(rule);
    Ok(())
}

/// Denies an operation on every file, beside those that are denied already.
fn deny(spec: &mut Spec, at: &Origin, operation: Deny) -> Result<(), PolicyError> {
    everything(spec, at, |rule| {
        let value = rule.deny.as_ref().map_or(operation, |deny| deny.value.with(operation));
        rule.deny = Some(Written { value, at: at.clone() });
        Ok(())
    })
}

/// Adds rules about extended attributes, which no other option may have added.
fn xattrs(spec: &mut Spec, at: &Origin, rules: &[(&str, &str)]) -> Result<(), PolicyError> {
    if let Some(rule) = spec.changes.xattrs.rules().first() {
        let what = format!("said before by {}", rule.at);
        return Err(PolicyError::new(Code::Conflict, at.clone(), what).hint("leave one out"));
    }
    let mut rules = rules.iter();
    rules.try_for_each(|(name, how)| spec.changes.xattrs.add(at, (at, name), (at, how), None))
}

/// Reads users, and groups with an `@` before them, with colons between.
fn mirror(spec: &mut Spec, at: &Origin, value: &str, names: &dyn Names) -> Result<(), PolicyError> {
    value.split(':').try_for_each(|caller| spec.callers.add(at, caller, names))
}

fn number<K: Kind>(at: &Origin, value: &str) -> Result<Id<K, crate::id::View>, PolicyError> {
    Id::from_decimal(value).ok_or_else(|| {
        let what = format!("{} is not a {}", quote(value), K::WORD);
        PolicyError::new(Code::Value, at.clone(), what).hint("give a plain decimal number")
    })
}

/// Reads `A:B:N[:A:B:N...]`, disk ids first.
fn triples<K: Kind>(rules: &mut Rules<K>, at: &Origin, value: &str) -> Result<(), PolicyError> {
    let fields: Vec<&str> = value.split(':').collect();
    for triple in fields.chunks(3) {
        let value = text::extent(at, value, &triple.join(":"))?;
        rules.map.push(Written { value, at: at.clone() });
    }
    Ok(())
}

/// Reads extents with spaces between; `b:` before one is both kinds.
fn x_mount_idmap(spec: &mut Spec, at: &Origin, value: &str) -> Result<(), PolicyError> {
    if value.contains('/') {
        let what = format!("{} names a user namespace, which only mount(8) takes", quote(value));
        return Err(PolicyError::new(Code::Spelling, at.clone(), what)
            .hint("write its extents as disk:view:count"));
    }
    let mut words = value.split_whitespace().peekable();
    if words.peek().is_none() {
        return spec.add_extent(at, value);
    }
    words.try_for_each(|word| spec.add_extent(at, word.strip_prefix("b:").unwrap_or(word)))
}

/// Reads a distance between disk and view ids, which may be negative.
fn offset<K: Kind>(rules: &mut Rules<K>, at: &Origin, value: &str) -> Result<(), PolicyError> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let by = Id::<K, crate::id::View>::from_decimal(digits).map(|id| i64::from(id.raw()));
    let by = by.map(|by| if value.starts_with('-') { by.saturating_neg() } else { by });
    let value = by.and_then(Extent::offset).ok_or_else(|| {
        let what = format!("{} is not a distance between ids", quote(value));
        PolicyError::new(Code::Value, at.clone(), what)
            .hint("give a plain decimal number, with - before it to go down")
    })?;
    rules.map.push(Written { value, at: at.clone() });
    Ok(())
}
