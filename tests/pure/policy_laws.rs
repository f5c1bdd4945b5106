//! The laws that every policy keeps, on random policies and ids.

use std::collections::BTreeSet;

use idmapfs::id::{Disk, Extent, Group, Id, Ids, Kind, NO_ID, User, View};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Inputs, Pipeline, Policy, Rules, Server, Spec, Translate, file};
use proptest::prelude::*;

use super::host::Host;

const OVERFLOW: u32 = 65_534;

/// Numbers that lie close together, at the edges, or anywhere.
fn raw() -> impl Strategy<Value = u32> {
    prop_oneof![
        8 => 0..64_u32,
        2 => (OVERFLOW - 3)..(OVERFLOW + 4),
        2 => (NO_ID - 8)..NO_ID,
        1 => 0..NO_ID,
    ]
}

fn prefix() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), Just("u:"), Just("g:")]
}

fn owner() -> impl Strategy<Value = String> {
    prop_oneof![
        (raw(), raw()).prop_map(|(uid, gid)| format!("{uid}:{gid}")),
        (prefix(), raw()).prop_map(|(prefix, id)| format!("{prefix}{id}")),
    ]
}

/// A rule that maps `count` ids from `disk` on to those from `view` on, for the
/// kind of its prefix; a count of 0 is an entry of the table.
#[derive(Clone, Debug)]
struct Rule {
    prefix: &'static str,
    disk: u32,
    view: u32,
    count: u32,
}

impl Rule {
    /// Whether two rules would claim the same id.
    fn meets(&self, other: &Self) -> bool {
        let same_kind =
            self.prefix.is_empty() || other.prefix.is_empty() || self.prefix == other.prefix;
        let meet = |a: u32, b: u32| {
            let (a, b) = (u64::from(a), u64::from(b));
            a < b + u64::from(other.count.max(1)) && b < a + u64::from(self.count.max(1))
        };
        same_kind && (meet(self.disk, other.disk) || meet(self.view, other.view))
    }
}

/// Rules of which no two claim the same id.
fn mapped() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (prefix(), raw(), raw(), 0..16_u32).prop_map(|(prefix, disk, view, count)| {
        let room = NO_ID - disk.max(view);
        Rule { prefix, disk, view, count: count.min(room) }
    });
    prop::collection::vec(rule, 0..24).prop_map(|candidates| {
        let mut rules: Vec<Rule> = Vec::new();
        for rule in candidates {
            if !rules.iter().any(|other| rule.meets(other)) {
                rules.push(rule);
            }
        }
        rules
    })
}

/// A list of names, each with an id; ids may come twice.
#[derive(Clone, Debug)]
struct List(Vec<(&'static str, u32)>);

impl List {
    /// The list as a policy has it.
    fn text(&self) -> String {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, id)| format!("'{name}' = {id}")).collect();
        format!("{{ {} }}", pairs.join(", "))
    }

    /// The entries that count: the first with each id.
    fn counting(&self) -> Vec<(&'static str, u32)> {
        let mut ids = BTreeSet::new();
        self.0.iter().copied().filter(|(_, id)| ids.insert(*id)).collect()
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.counting().into_iter().find(|(known, _)| *known == name).map(|(_, id)| id)
    }
}

fn list() -> impl Strategy<Value = List> {
    let names = prop::sample::subsequence(vec!["a", "b", "c", "p.a", "p.b", "p.c", "p.p.a"], 0..8);
    names.prop_shuffle().prop_flat_map(|names| {
        let ids = prop::collection::vec(raw(), names.len());
        ids.prop_map(move |ids| List(names.iter().copied().zip(ids).collect()))
    })
}

/// Stages by name, each a line of `[ids]`: names, then a prefix.
#[derive(Clone, Debug)]
struct ByName {
    disk: List,
    view: List,
    prefixed: List,
}

impl ByName {
    fn names(&self) -> String {
        let (disk, view) = (self.disk.text(), self.view.text());
        format!(
            "names = {{ disk = {{ users = {disk}, groups = {view} }}, \
             view = {{ users = {view}, groups = {disk} }} }}\n"
        )
    }

    fn prefix(&self) -> String {
        format!("prefix = {{ prefix = 'p.', names = {{ users = {} }} }}\n", self.prefixed.text())
    }
}

fn by_name() -> impl Strategy<Value = ByName> {
    (list(), list(), list()).prop_map(|(disk, view, prefixed)| ByName { disk, view, prefixed })
}

/// The lines of map and table.
fn ranges(rules: &[Rule]) -> Vec<String> {
    let text_of = |Rule { prefix, disk, view, count }: &Rule| match count {
        0 => format!("{prefix}{disk}:{view}"),
        _ => format!("{prefix}{disk}:{view}:{count}"),
    };
    let (table, map): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.count == 0);
    let lines = [("map", map), ("table", table)].into_iter().filter(|(_, list)| !list.is_empty());
    let line = |(key, list): (&str, Vec<&Rule>)| {
        let list: Vec<String> = list.into_iter().map(text_of).collect();
        format!("{key} = {list:?}\n")
    };
    lines.map(line).collect()
}

/// The stages of a policy file in any order, each a line.
fn stages() -> impl Strategy<Value = Vec<String>> {
    (mapped(), prop::option::of(by_name()), any::<(bool, bool)>()).prop_flat_map(
        |(rules, by_name, (names, prefix))| {
            let mut lines = ranges(&rules);
            if let Some(by_name) = by_name {
                lines.extend(names.then(|| by_name.names()));
                lines.extend(prefix.then(|| by_name.prefix()));
            }
            Just(lines).prop_shuffle()
        },
    )
}

/// A policy file of random rules, as text; some are refused.
fn document() -> impl Strategy<Value = String> {
    let one = || prop::option::weighted(0.3, owner());
    (stages(), one(), one(), one()).prop_map(|(stages, present, store, alias)| {
        let mut text = String::from("version = 1\n[ids]\n");
        text.push_str(&stages.concat());
        // An alias beside a collapse is refused.
        if let (None, Some(alias)) = (&present, alias) {
            text.push_str(&format!("unmapped = 'present-as={alias}'\n"));
        }
        if present.is_some() || store.is_some() {
            text.push_str("[ids.collapse]\n");
        }
        for (key, value) in [("present-as", present), ("store-as", store)] {
            if let Some(value) = value {
                text.push_str(&format!("{key} = '{value}'\n"));
            }
        }
        text
    })
}

fn server() -> impl Strategy<Value = Server> {
    (raw(), raw(), any::<bool>())
        .prop_map(|(uid, gid, privileged)| Server { ids: Ids::new(uid, gid).unwrap(), privileged })
}

/// Policies that are not refused, with their texts.
fn policy() -> impl Strategy<Value = (Pipeline, Server)> {
    (document(), server()).prop_filter_map("refused", |(text, server)| {
        let spec = file::parse("p.toml", &text, &Host).ok()?;
        Some((spec.build(&server).ok()?, server))
    })
}

/// Whether the rules of one kind, or the server's own id, name a disk id.
fn named<K: Kind>(rules: &Rules<K>, own: Id<K, Disk>, id: Id<K, Disk>) -> bool {
    rules.shows_identity()
        || rules.extents().any(|extent| extent.present(id).is_some())
        || rules.entries().chain(rules.named()).any(|entry| entry.disk == id)
        || rules.store_as() == Some(id)
        || rules.present_as().is_some_and(|shown| shown.raw() == id.raw() || own == id)
}

fn laws<K: Kind>(policy: &Pipeline, raw: u32) -> Result<(), TestCaseError>
where
    Pipeline: Translate<K>,
{
    let view: Id<K, View> = Id::new(raw).unwrap();
    // What is stored is shown as what was given.
    if let Some(stored) = policy.store(view) {
        prop_assert_eq!(policy.present(Some(stored)), Some(view));
    }
    // What is created is shown, and never as nobody's.
    if let Some(created) = policy.create(view) {
        prop_assert!(policy.present(Some(created)).is_some());
    }
    Ok(())
}

fn in_ranges(ranges: &[(u32, u64)], id: u32) -> bool {
    ranges.iter().any(|(first, count)| id >= *first && u64::from(id - first) < *count)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        max_global_rejects: 100_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Ids to ask about.
fn some_ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(raw(), 1..40)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_stored_is_shown((policy, _) in policy(), ids in some_ids()) {
        for raw in ids {
            laws::<User>(&policy, raw)?;
            laws::<Group>(&policy, raw)?;
        }
    }

    #[test]
    fn what_is_mapped_goes_back((policy, _) in policy(), ids in some_ids()) {
        let users = policy.spec().users().named().map(|entry| entry.disk.raw());
        for raw in ids.into_iter().chain(users) {
            let disk = Ids::<Disk>::new(raw, raw).unwrap();
            for decision in policy.explain_owner(disk.into()) {
                let stage = decision.reasons.last().unwrap().stage;
                let Some(view) = decision.answer else { continue };
                if ["map", "table", "names", "prefix", "identity"].contains(&stage) {
                    let view = Ids::<View>::new(view, view).unwrap();
                    let [uid, gid] = policy.explain_store(view);
                    let back = if decision.kind == "uid" { uid } else { gid };
                    prop_assert_eq!(back.answer, Some(raw), "{}", stage);
                }
            }
        }
    }

    #[test]
    fn a_map_alone_has_all_that_is_in_it(
        (rules, server) in (mapped(), server()),
    ) {
        let text = format!("version = 1\n[ids]\n{}", ranges(&rules).concat());
        let spec = file::parse("p.toml", &text, &Host).unwrap();
        let policy = spec.build(&server).unwrap();
        for extent in policy.spec().users().extents() {
            let last = extent.count() - 1;
            for step in [0, last / 2, last] {
                let disk: Id<User, Disk> = Id::new(extent.disk().raw() + step).unwrap();
                let view = policy.present(Some(disk)).unwrap();
                prop_assert_eq!(policy.store(view), Some(disk));
            }
        }
        for entry in policy.spec().groups().entries() {
            prop_assert_eq!(policy.present(Some(entry.disk)), Some(entry.view));
            prop_assert_eq!(policy.store(entry.view), Some(entry.disk));
        }
    }

    /// Of two stages with one id the earlier one has it, on both sides.
    #[test]
    fn earlier_stages_win(
        rules in mapped(),
        by_name in by_name(),
        order in Just(vec![0, 1, 2, 3]).prop_shuffle(),
    ) {
        let rules: Vec<Rule> = rules.into_iter().filter(|rule| rule.prefix != "g:").collect();
        let pairs_of = |is_table: bool| {
            let rules = rules.iter().filter(move |rule| (rule.count == 0) == is_table);
            rules.flat_map(|rule| (0..rule.count.max(1)).map(|i| (rule.disk + i, rule.view + i)))
        };
        let named = by_name.disk.counting().into_iter();
        let named = named.filter_map(|(name, disk)| Some((disk, by_name.view.find(name)?)));
        let prefixed = by_name.prefixed.counting().into_iter().filter_map(|(name, disk)| {
            Some((disk, by_name.prefixed.find(name.strip_prefix("p.")?)?))
        });
        let pairs: [Vec<(u32, u32)>; 4] =
            [pairs_of(false).collect(), pairs_of(true).collect(), named.collect(), prefixed.collect()];
        let lines = ranges(&rules);
        let line = |key: &str| lines.iter().find(|line| line.starts_with(key)).cloned();
        let lines = [
            line("map").unwrap_or_default(),
            line("table").unwrap_or_default(),
            by_name.names(),
            by_name.prefix(),
        ];
        // The plain way: a pair stays if no earlier stage has one of its ids.
        let mut stays: Vec<(u32, u32)> = Vec::new();
        let mut text = String::from("version = 1\n[ids]\n");
        for stage in order {
            text.push_str(&lines[stage]);
            let free = |(disk, view): &(u32, u32)| {
                !stays.iter().any(|(d, v)| d == disk || v == view)
            };
            let next: Vec<_> = pairs[stage].iter().copied().filter(free).collect();
            stays.extend(next);
        }
        let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
        let policy = file::parse("p.toml", &text, &Host).unwrap().build(&server).unwrap();
        for (disk, view) in pairs.concat() {
            let wanted = stays.iter().find(|(d, _)| *d == disk).map(|(_, view)| *view);
            let shown: Option<Id<User, View>> = policy.present(Id::new(disk));
            prop_assert_eq!(shown.map(Id::raw), wanted);
            let wanted = stays.iter().find(|(_, v)| *v == view).map(|(disk, _)| *disk);
            let stored: Option<Id<User, Disk>> = policy.store(Id::new(view).unwrap());
            prop_assert_eq!(stored.map(Id::raw), wanted);
        }
        let again = file::parse("p.toml", &text, &Host).unwrap();
        prop_assert_eq!(policy.spec(), &again);
    }

    #[test]
    fn nobody_reaches_the_disk_only_by_name((policy, server) in policy(), callers in some_ids()) {
        for raw in callers {
            let Ids { uid, gid } = Ids::<View>::new(raw, raw).unwrap();
            for stored in [policy.store(uid), policy.create(uid)].into_iter().flatten() {
                prop_assert!(named(policy.spec().users(), server.ids.uid, stored));
            }
            for stored in [policy.store(gid), policy.create(gid)].into_iter().flatten() {
                prop_assert!(named(policy.spec().groups(), server.ids.gid, stored));
            }
        }
    }

    #[test]
    fn what_is_shown_was_announced((policy, _) in policy(), ids in some_ids()) {
        let (users, groups) = (policy.presentable_users(), policy.presentable_groups());
        for ranges in [&users, &groups] {
            prop_assert!(ranges.windows(2).all(|w| u64::from(w[0].0) + w[0].1 < u64::from(w[1].0)));
        }
        for raw in ids {
            let user: Option<Id<User, View>> = policy.present(Id::new(raw));
            let group: Option<Id<Group, View>> = policy.present(Id::new(raw));
            prop_assert!(user.is_none_or(|id| in_ranges(&users, id.raw())));
            prop_assert!(group.is_none_or(|id| in_ranges(&groups, id.raw())));
        }
    }

    #[test]
    fn the_trace_is_the_decision((policy, _) in policy(), raw in raw()) {
        prop_assert_eq!(policy.inputs(), Inputs::default());
        let ids = Ids::<View>::new(raw, raw).unwrap();
        let [uid, gid] = policy.explain_store(ids);
        prop_assert_eq!(uid.answer, policy.store(ids.uid).map(Id::raw));
        prop_assert_eq!(gid.answer, policy.store(ids.gid).map(Id::raw));
        let [uid, gid] = policy.explain_create(ids);
        prop_assert_eq!(uid.answer, policy.create(ids.uid).map(Id::raw));
        prop_assert_eq!(gid.answer, policy.create(ids.gid).map(Id::raw));
        let disk = Ids::<Disk>::new(raw, raw).unwrap();
        let [uid, gid] = policy.explain_owner(disk.into());
        prop_assert_eq!(uid.answer, policy.present(Some(disk.uid)).map(Id::raw));
        prop_assert_eq!(gid.answer, policy.present(Some(disk.gid)).map(Id::raw));
        prop_assert!(!uid.reasons.is_empty() && !gid.reasons.is_empty());
    }

    #[test]
    fn a_description_is_the_policy(text in document()) {
        let Ok(spec) = file::parse("p.toml", &text, &Host) else { return Ok(()) };
        let (users, groups) = (spec.users(), spec.groups());
        // Options have no table, and no names of their own.
        prop_assume!(!text.contains("names") && !text.contains("prefix"));
        prop_assume!(users.entries().next().is_none() && groups.entries().next().is_none());
        // Options refuse a map beside present-as, which a file may have.
        prop_assume!(users.present_as().is_none() && groups.present_as().is_none());
        let mut options = Options::default();
        for word in spec.describe().split(',').filter(|word| *word != "identity") {
            let (name, value) = word.split_once('=').unwrap();
            prop_assert!(options.set(name, Some(value)).unwrap());
        }
        prop_assert_eq!(Spec::from_options(&options, &Host).unwrap(), spec);
    }

    #[test]
    fn extents_are_read_as_they_are_written(d in raw(), v in raw(), count in any::<u32>()) {
        let (disk, view) = (Id::new(d).unwrap(), Id::new(v).unwrap());
        let room = NO_ID - d.max(v);
        match Extent::<Group>::new(disk, view, count) {
            Ok(extent) => {
                prop_assert!((1..=room).contains(&count));
                let text = extent.to_string();
                prop_assert_eq!(Extent::parse(text.strip_prefix("g:").unwrap()), Ok(extent));
            }
            Err(_) => prop_assert!(count == 0 || count > room),
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(version = 1\n)?[\\PC\n\t\r\u{0}-\u{20}]{0,200}") {
        if let Err(error) = file::parse("p.toml", &text, &Host) {
            prop_assert!(!error.to_string().contains(char::is_control));
        }
    }

    #[test]
    fn no_mixture_of_words_makes_the_parser_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "version", " = ", "1", "[", "]", "[[", "]]", "ids", "map", "table", "collapse",
            "present-as", "unmapped", "callers", "mirror", "others", "rules", "\n", ".", "'", "\"", "{", "}", ",", "0:1:2", "u:",
            "#", "\\",
        ]), 0..40)
    ) {
        let text = format!("version = 1\n{}", words.concat());
        drop(file::parse("p.toml", &text, &Host));
        drop(file::parse("p.toml", &words.concat(), &Host));
    }

    #[test]
    fn no_value_makes_an_option_panic(
        name in prop::sample::select(vec![
            "map", "present-as", "store-as", "unmapped", "uidmapping", "gidmapping",
            "X-mount.idmap", "force-user", "force-group", "create-for-user", "create-for-group",
            "squash_to_uid", "squash_to_gid", "squash_to_root", "uid-offset", "gid-offset",
            "mirror", "mirror-only", "idmap",
        ]),
        value in prop_oneof!["\\PC{0,40}", "[ugb0-9:@/, +-]{0,30}"],
    ) {
        let mut options = Options::default();
        if matches!(options.set(name, Some(&value)), Ok(true)) {
            drop(Spec::from_options(&options, &Host));
        }
    }
}

#[test]
fn many_extents_decide_as_their_list_does() {
    for count in [1_u32, 7, 8, 9, 64, 4096] {
        let list: Vec<String> =
            (0..count).map(|i| format!("'{}:{}:3'", i * 5, (count - i) * 7)).collect();
        let text = format!("version = 1\nids.map = [{}]", list.join(","));
        let spec = file::parse("p.toml", &text, &Host).unwrap();
        let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
        let policy = spec.build(&server).unwrap();
        let extents: Vec<_> = spec.users().extents().collect();
        let asked: BTreeSet<u32> =
            (0..count.min(300) * 8).chain(count * 5..count * 7 + 5).collect();
        for raw in asked {
            let (disk, view) = (Id::new(raw).unwrap(), Id::new(raw).unwrap());
            let shown = extents.iter().find_map(|extent| extent.present(disk));
            assert_eq!(Translate::<User>::present(&policy, Some(disk)), shown, "{raw}");
            let stored = extents.iter().find_map(|extent| extent.store(view));
            assert_eq!(Translate::<User>::store(&policy, view), stored, "{raw}");
        }
    }
}
