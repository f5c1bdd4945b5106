//! Which policies are ranges of ids and nothing else, as the kernel's idmapped
//! mount wants them.

use idmapfs::id::{Extent, Group, Id, Ids, Kind, User};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Beyond, Pipeline, Ranges, Server, Spec, Translate, file};
use proptest::prelude::*;

use super::host::Host;

fn options(text: &str) -> Spec {
    let mut options = Options::default();
    for word in text.split("; ").filter(|word| !word.is_empty()) {
        let (name, value) =
            word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        assert!(options.set(name, value).unwrap(), "{name} is no policy option");
    }
    Spec::from_options(&options, &Host).unwrap()
}

fn written(ranges: &Ranges) -> String {
    let users = ranges.users.iter().map(ToString::to_string);
    let groups = ranges.groups.iter().map(ToString::to_string);
    users.chain(groups).collect::<Vec<_>>().join(" ")
}

#[test]
fn options_are_ranges_or_more() {
    let identity = "u:0:0:4294967295 g:0:0:4294967295";
    for (text, wanted) in [
        ("", Ok(identity)),
        ("chown-normal; chmod-normal; xattr-rw; unmapped=refuse", Ok(identity)),
        ("map=0:100000:65536", Ok("u:0:100000:65536 g:0:100000:65536")),
        ("map=u:0:5:10", Ok("u:0:5:10 g:0:0:4294967295")),
        ("map=u:5:105:5; map=u:0:100:5; map=g:1:1:1", Ok("u:0:100:10 g:1:1:1")),
        ("map=u:0:1:1; map=u:1:0:1; map=g:7:7:1", Ok("u:0:1:1 u:1:0:1 g:7:7:1")),
        ("present-as=9:9; store-as=1:1", Err(Beyond::PresentAs)),
        ("map=0:1:2; store-as=u:1", Err(Beyond::StoreAs)),
        ("map=0:1:2; unmapped=present-as=9", Err(Beyond::Unmapped)),
        ("hide=a", Err(Beyond::Rules)),
        ("perms=a-w", Err(Beyond::Rules)),
        ("chown-ignore", Err(Beyond::Changes)),
        ("xattr-ro", Err(Beyond::Changes)),
        ("mirror=7", Err(Beyond::Callers)),
    ] {
        let got = options(text).ranges().map(|ranges| written(&ranges));
        assert_eq!(got, wanted.map(str::to_owned), "{text}");
    }
}

/// A policy file with these lines under `[ids]`.
fn parsed(ids: &str) -> Spec {
    file::parse("p.toml", &format!("version = 1\n[ids]\n{ids}\n"), &Host).unwrap()
}

#[test]
fn single_ids_are_ranges_too() {
    let spec = parsed("table = ['u:1:11', 'u:2:12', 'u:9:5']");
    assert_eq!(written(&spec.ranges().unwrap()), "u:1:11:2 u:9:5:1 g:0:0:4294967295");
    // What an earlier stage has is cut out of a later one.
    let names = "names = { disk = { users = { a = 3 } }, view = { users = { a = 0 } } }";
    let spec = parsed(&format!("{names}\nmap = ['0:0:10']"));
    let ranges = spec.ranges().unwrap();
    assert_eq!(written(&ranges), "u:1:1:2 u:3:0:1 u:4:4:6 g:0:0:10");
    // Nobody at all: the kernel takes no empty map.
    let spec = parsed("names = { disk = { users = { a = 3 } }, view = { users = { b = 0 } } }");
    assert_eq!(spec.ranges(), Err(Beyond::Nothing("uid")));
}

/// Extents of which no two claim the same id.
fn extents() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
    prop::collection::vec((0..60_u32, 0..60_u32, 1..9_u32), 1..12).prop_map(|candidates| {
        let mut kept: Vec<(u32, u32, u32)> = Vec::new();
        for (disk, view, count) in candidates {
            let meet = |a: u32, n: u32, b: u32, m: u32| a < b + m && b < a + n;
            let clash =
                |&(d, v, n): &(u32, u32, u32)| meet(disk, count, d, n) || meet(view, count, v, n);
            if !kept.iter().any(clash) {
                kept.push((disk, view, count));
            }
        }
        kept
    })
}

fn says_the_same<K: Kind>(pipeline: &Pipeline, ranges: &[Extent<K>])
where
    Pipeline: Translate<K>,
{
    for raw in 0..90 {
        let (disk, view) = (Id::new(raw).unwrap(), Id::new(raw).unwrap());
        let shown = ranges.iter().find_map(|extent| extent.present(disk));
        assert_eq!(shown, Translate::<K>::present(pipeline, Some(disk)), "disk {raw}");
        let stored = ranges.iter().find_map(|extent| extent.store(view));
        assert_eq!(stored, Translate::<K>::store(pipeline, view), "view {raw}");
        assert_eq!(stored, Translate::<K>::create(pipeline, view), "create {raw}");
    }
}

proptest! {
    #[test]
    fn ranges_are_the_policy(users in extents(), groups in extents(), singles in extents()) {
        let list = |kind: &str, extents: &[(u32, u32, u32)]| {
            let one = |(d, v, n): &(u32, u32, u32)| format!("'{kind}:{d}:{v}:{n}'");
            extents.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let of = |at: usize| {
            let one = |(n, (d, v, _)): (usize, &(u32, u32, u32))| {
                format!("n{n} = {}", if at == 0 { d } else { v })
            };
            singles.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
        };
        let spec = parsed(&format!(
            "names = {{ disk = {{ users = {{ {0} }}, groups = {{ {0} }} }}, \
             view = {{ users = {{ {1} }}, groups = {{ {1} }} }} }}\nmap = [{2}, {3}]",
            of(0), of(1), list("u", &users), list("g", &groups)
        ));
        let ranges = spec.ranges().unwrap();
        let root = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
        let pipeline = spec.build(&root).unwrap();
        says_the_same::<User>(&pipeline, &ranges.users);
        says_the_same::<Group>(&pipeline, &ranges.groups);
        for pair in ranges.users.windows(2) {
            prop_assert!(pair[0].disk() < pair[1].disk() && pair[0].joined(pair[1]).is_none());
        }
    }
}
