//! What a private mount needs, decided before anything is made.

use std::ffi::OsStr;
use std::fmt;
use std::fs;

use nix::unistd::{User as Account, geteuid};

use super::error::RunError;
use super::layout::{Own, Span, layout};
use super::maps;
use super::subid;
use crate::id::{Disk, Ids, NO_ID, Owner, View};
use crate::policy::{Pipeline, Policy};
use crate::sys::cred::{may_mount, own_ids};
use crate::sys::id_map::{IdMap, Line};

/// Which namespaces the command gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Space {
    /// A mount namespace.
    Mount,
    /// A mount namespace in a user namespace with these maps.
    User {
        /// The uid map.
        users: Vec<Line>,
        /// The gid map.
        groups: Vec<Line>,
    },
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::User { users, groups } = self else {
            return f.write_str("a mount namespace of its own; ids are those it was started with");
        };
        let text =
            |lines: &[Line]| lines.iter().map(Line::to_string).collect::<Vec<_>>().join(", ");
        let single = |lines: &[Line]| matches!(lines, [Line { count: 1, .. }]);
        let why = if single(users) && single(groups) {
            "a single id, which takes no helper"
        } else {
            "by newuidmap and newgidmap"
        };
        let (users, groups) = (text(users), text(groups));
        write!(f, "a user and a mount namespace of its own; uids {users}; gids {groups} ({why})")
    }
}

/// As whom the command runs, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The namespaces.
    pub space: Space,
    /// The ids of the command.
    pub ids: Ids<View>,
    /// Whether the supplementary groups stay: the ids stand for the user who
    /// asks, or the kernel lets nobody leave a group there.
    pub keep_groups: bool,
}

/// Whose the ids are that the files have on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// The host's: those of the user who asks are among them.
    Host,
    /// Those of an image: its root stands for the user who asks.
    Image,
}

impl Files {
    /// Returns the ids on disk that stand for the user who has these.
    fn standing_for(self, own: Ids<Disk>) -> Ids<Disk> {
        match self {
            Self::Host => own,
            Self::Image => Ids::new(0, 0).unwrap_or(own),
        }
    }
}

/// The ids of the user who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asker {
    ids: Ids<Disk>,
    files: Files,
    subuids: Vec<Span>,
    subgids: Vec<Span>,
    /// Whether the programs are there that lay ids on subordinate ones.
    helpers: bool,
}

/// Reports whether a program is in one of these directories.
fn is_in(program: &str, path: &OsStr) -> bool {
    std::env::split_paths(path).any(|dir| dir.join(program).is_file())
}

/// Plans a private mount of files, by a policy, for the user of this process.
///
/// `wanted` are the ids that the command is to run as.
///
/// # Errors
/// The ids are not shown, or there are too few to lay the view ids on.
pub fn plan(
    pipeline: &Pipeline,
    files: Files,
    wanted: Option<Ids<View>>,
) -> Result<Plan, RunError> {
    let ids = own_ids().map_err(RunError::doing("own ids"))?;
    let uid = ids.uid.raw();
    if may_mount().map_err(RunError::doing("capabilities"))? {
        let plan = as_root(pipeline, files.standing_for(ids), wanted)?;
        // Root of a user namespace may lack the ids; then it is a user like any other.
        let has = |kind, id| IdMap::read("self", kind).is_ok_and(|map| map.outside(id).is_some());
        if has("uid", plan.ids.uid.raw()) && has("gid", plan.ids.gid.raw()) {
            return Ok(plan);
        }
    }
    let name = Account::from_uid(geteuid()).ok().flatten().map(|account| account.name);
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let asker = Asker {
        ids,
        files,
        subuids: subid::ranges(&read(SUBUID), name.as_deref(), uid),
        subgids: subid::ranges(&read(SUBGID), name.as_deref(), uid),
        helpers: [maps::USERS, maps::GROUPS].into_iter().all(|program| is_in(program, &path)),
    };
    as_user(pipeline, &asker, wanted)
}

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// Returns the view ids that stand for ids on disk.
fn shown(pipeline: &Pipeline, disk: Ids<Disk>) -> Owner<View> {
    let policy: &dyn Policy = pipeline;
    policy.present_owner(disk.into())
}

/// Returns the ids to run as: those wanted, the present-as ids, or what the
/// user's own are shown as.
fn chosen(
    pipeline: &Pipeline,
    disk: Ids<Disk>,
    wanted: Option<Ids<View>>,
) -> Result<Ids<View>, RunError> {
    if let Some(wanted) = wanted {
        return Ok(wanted);
    }
    let spec = pipeline.spec();
    let Owner { uid, gid } = shown(pipeline, disk);
    let uid = spec.users().present_as().or(uid);
    let gid = spec.groups().present_as().or(gid);
    Ok(Ids {
        uid: uid.ok_or(RunError::NoOwn { word: "uid", id: disk.uid.raw() })?,
        gid: gid.ok_or(RunError::NoOwn { word: "gid", id: disk.gid.raw() })?,
    })
}

fn as_root(
    pipeline: &Pipeline,
    disk: Ids<Disk>,
    wanted: Option<Ids<View>>,
) -> Result<Plan, RunError> {
    let ids = chosen(pipeline, disk, wanted)?;
    let keep_groups = (ids.uid.raw(), ids.gid.raw()) == (disk.uid.raw(), disk.gid.raw());
    Ok(Plan { space: Space::Mount, ids, keep_groups })
}

fn as_user(
    pipeline: &Pipeline,
    asker: &Asker,
    wanted: Option<Ids<View>>,
) -> Result<Plan, RunError> {
    let disk = asker.files.standing_for(asker.ids);
    let ids = chosen(pipeline, disk, wanted)?;
    let Owner { uid, gid } = shown(pipeline, disk);
    let users = spans(&pipeline.presentable_users());
    let groups = spans(&pipeline.presentable_groups());
    let among = |spans: &[Span], id| spans.iter().any(|s| (s.first..=s.last).contains(&id));
    if !among(&users, ids.uid.raw()) {
        return Err(RunError::NotShown { word: "uid", id: ids.uid.raw() });
    }
    if !among(&groups, ids.gid.raw()) {
        return Err(RunError::NotShown { word: "gid", id: ids.gid.raw() });
    }
    let own_uid = uid.map(|view| Own { view: view.raw(), disk: asker.ids.uid.raw() });
    let own_gid = gid.map(|view| Own { view: view.raw(), disk: asker.ids.gid.raw() });
    let users = reached(users, own_uid, &asker.subuids, asker);
    let groups = reached(groups, own_gid, &asker.subgids, asker);
    let users = lay("uid", &users, own_uid, &asker.subuids, SUBUID)?;
    let groups = lay("gid", &groups, own_gid, &asker.subgids, SUBGID)?;
    // Groups of the host are nobody's in an image.
    let own = asker.files == Files::Host && (uid, gid) == (Some(ids.uid), Some(ids.gid));
    let fixed = maps::is_own(&groups, asker.ids.gid.raw());
    Ok(Plan { space: Space::User { users, groups }, ids, keep_groups: own || fixed })
}

/// Returns the view ids that the namespace is to have.
///
/// A policy that moves no ids shows all that there are. Then it has the own id, and of
/// the others those that are subordinate, which stay what they are; files of the rest
/// are shown as nobody's, as in any user namespace. Ids of an image are no ids of the host:
/// then the lowest ones are laid on the subordinate ones.
fn reached(views: Vec<Span>, own: Option<Own>, subordinate: &[Span], asker: &Asker) -> Vec<Span> {
    if count(&views) < u64::from(u32::MAX) {
        return views;
    }
    let own = own.map(|own| Span { first: own.view, last: own.view });
    let others = if asker.helpers { subordinate } else { &[] };
    match asker.files {
        Files::Host => own.into_iter().chain(others.iter().copied()).collect(),
        Files::Image => {
            let lowest = u32::try_from(count(others)).unwrap_or(NO_ID).min(NO_ID.saturating_sub(1));
            own.into_iter().chain([Span { first: 0, last: lowest }]).collect()
        }
    }
}

fn lay(
    word: &'static str,
    views: &[Span],
    own: Option<Own>,
    subordinate: &[Span],
    file: &'static str,
) -> Result<Vec<Line>, RunError> {
    layout(views, own, subordinate).map_err(|shortage| RunError::Short {
        word,
        shortage,
        wanted: count(views),
        have: count(subordinate),
        file,
    })
}

fn count(spans: &[Span]) -> u64 {
    spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.count()))
}

/// Turns ranges, first id and count, into spans.
fn spans(ranges: &[(u32, u64)]) -> Vec<Span> {
    let span = |(first, count): &(u32, u64)| {
        let last = u64::from(*first).checked_add(*count)?.checked_sub(1)?;
        Some(Span { first: *first, last: u32::try_from(last).ok()? })
    };
    ranges.iter().filter_map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::options::Options;
    use crate::policy::{NoNames, Server, Spec};

    fn asker(uid: u32, subs: &[(u32, u32)]) -> Asker {
        let subs: Vec<Span> =
            subs.iter().map(|(first, last)| Span { first: *first, last: *last }).collect();
        Asker {
            ids: Ids::new(uid, uid).unwrap(),
            files: Files::Host,
            subuids: subs.clone(),
            subgids: subs,
            helpers: true,
        }
    }

    fn pipeline(options: &[(&str, &str)], asker: &Asker, privileged: bool) -> Pipeline {
        let mut raw = Options::default();
        for (name, value) in options {
            assert!(raw.set(name, Some(value)).unwrap());
        }
        let spec = Spec::from_options(&raw, &NoNames).unwrap();
        spec.build(&Server { ids: asker.ids, privileged }).unwrap()
    }

    fn planned(options: &[(&str, &str)], asker: &Asker, wanted: Option<(u32, u32)>) -> String {
        let wanted = wanted.map(|(uid, gid)| Ids::new(uid, gid).unwrap());
        match as_user(&pipeline(options, asker, false), asker, wanted) {
            Ok(Plan { space: Space::User { users, groups }, ids, keep_groups }) => {
                let text = |lines: &[Line]| {
                    lines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                format!("{} / {} as {ids} keep={keep_groups}", text(&users), text(&groups))
            }
            Ok(plan) => format!("{plan:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_user_gets_a_namespace_of_what_is_shown() {
        let poor = asker(1000, &[]);
        let rich = asker(1000, &[(100_000, 165_535)]);
        let helpless = Asker { helpers: false, ..rich.clone() };
        for (options, who, wanted, want) in [
            (&[("present-as", "1:2")][..], &poor, None, "1 1000 1 / 2 1000 1 as 1:2 keep=true"),
            (&[("map", "1000:0:1")], &poor, None, "0 1000 1 / 0 1000 1 as 0:0 keep=true"),
            (
                &[("map", "0:0:65536")],
                &rich,
                None,
                "0 100000 1000, 1000 1000 1, 1001 101000 64535 / \
                 0 100000 1000, 1000 1000 1, 1001 101000 64535 as 1000:1000 keep=true",
            ),
            (
                &[("map", "1000:0:2")],
                &rich,
                Some((1, 1)),
                "0 1000 1, 1 100000 1 / 0 1000 1, 1 100000 1 as 1:1 keep=false",
            ),
            (
                &[("map", "0:0:65536")],
                &poor,
                None,
                "the policy can show 65536 uids; beside your own you have 0 subordinate ones in \
                 /etc/subuid: 65535 are missing (root adds them with usermod --add-subuids \
                 FIRST-LAST; or show fewer: a smaller --map, or --present-as)",
            ),
            // All ids there are: those that can be had.
            (&[], &poor, None, "1000 1000 1 / 1000 1000 1 as 1000:1000 keep=true"),
            (&[], &helpless, None, "1000 1000 1 / 1000 1000 1 as 1000:1000 keep=true"),
            (
                &[],
                &rich,
                None,
                "1000 1000 1, 100000 100000 65536 / 1000 1000 1, 100000 100000 65536 as 1000:1000 \
                 keep=true",
            ),
            (
                &[("map", "5:5:1")],
                &rich,
                None,
                "the policy does not show uid 1000, your own; name the ids to run as with --as",
            ),
            (
                &[("map", "1000:0:1")],
                &rich,
                Some((7, 0)),
                "uid 7 is no uid that the policy can show, so nothing can run as it",
            ),
        ] {
            assert_eq!(planned(options, who, wanted), want, "{options:?}");
        }
    }

    #[test]
    fn the_root_of_an_image_is_the_user() {
        let rich = Asker { files: Files::Image, ..asker(1000, &[(100_000, 165_535)]) };
        let poor = Asker { files: Files::Image, ..asker(1000, &[]) };
        let all = "0 1000 1, 1 100000 65536";
        let want = format!("{all} / {all} as 0:0 keep=false");
        assert_eq!(planned(&[], &rich, None), want);
        assert_eq!(planned(&[], &poor, None), "0 1000 1 / 0 1000 1 as 0:0 keep=true");
        let moved = "5000 1000 1, 5001 100000 9";
        let want = format!("{moved} / {moved} as 5000:5000 keep=false");
        assert_eq!(planned(&[("map", "0:5000:10")], &rich, None), want);
    }

    #[test]
    fn root_needs_no_user_namespace() {
        let root = asker(0, &[]);
        for (options, want, keep_groups) in [
            (&[("present-as", "1:2")][..], (1, 2), false),
            (&[("map", "0:100000:65536")], (100_000, 100_000), false),
            (&[], (0, 0), true),
        ] {
            let plan = as_root(&pipeline(options, &root, true), root.ids, None).unwrap();
            let ids = Ids::new(want.0, want.1).unwrap();
            assert_eq!(plan, Plan { space: Space::Mount, ids, keep_groups }, "{options:?}");
        }
    }
}
