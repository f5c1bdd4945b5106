//! Laws of `[changes]` that hold for all rules and names.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::policy::{NoNames, Spec, Xattr, file};
use proptest::prelude::*;

fn changes(text: &str) -> Option<Spec> {
    file::parse("p.toml", &format!("version = 1\n[changes]\n{text}\n"), &NoNames).ok()
}

/// Rules and names of few parts, so that they meet.
fn part() -> impl Strategy<Value = String> {
    let namespace = prop::sample::select(vec!["user.", "trusted.", "security."]);
    (namespace, prop::collection::vec(prop::sample::select(vec!["a.", "b."]), 0..3))
        .prop_map(|(namespace, parts)| format!("{namespace}{}", parts.concat()))
}

fn rule() -> impl Strategy<Value = String> {
    let action = prop::sample::select(vec!["pass", "hide", "refuse", "rename"]);
    (part(), any::<bool>(), action, part()).prop_map(|(name, star, action, to)| {
        let star = if star || action == "rename" { "*" } else { "" };
        let to = if action == "rename" { format!(", to = '{to}'") } else { String::new() };
        format!("{{ name = '{name}{star}', action = '{action}'{to} }}")
    })
}

proptest! {
    /// What a caller stores under a name is listed under that name again, and
    /// what is listed leads to what is listed.
    #[test]
    fn names_of_attributes_lead_back(
        rules in prop::collection::vec(rule(), 0..5),
        name in part(),
        end in prop::sample::select(vec!["", "x"]),
    ) {
        let Some(spec) = changes(&format!("xattrs = [{}]", rules.join(", "))) else {
            return Ok(());
        };
        let (changes, name) = (spec.changes(), format!("{name}{end}"));
        let disk = |name: &[u8]| match changes.xattr(name) {
            Xattr::Is(disk) => Some(disk.into_owned()),
            Xattr::Refused(disk) => Some(disk.to_vec()),
            Xattr::Hidden => None,
        };
        if let Some(stored) = disk(name.as_bytes()) {
            let shown = changes.shown_xattrs(&stored);
            prop_assert!(shown.iter().any(|shown| **shown == *name.as_bytes()), "{shown:?}");
        }
        let shown = changes.shown_xattrs(name.as_bytes());
        for (at, one) in shown.iter().enumerate() {
            prop_assert_eq!(disk(one), Some(name.as_bytes().to_vec()));
            prop_assert!(!shown[..at].contains(one), "twice: {:?}", shown);
        }
    }

    /// The one mode and the one umask of a new file say what is to be with and
    /// without a default ACL.
    #[test]
    fn a_mode_and_a_umask_say_both(
        text in prop::sample::select(vec!["g=u", "g+w,o=", "a+X", "0640", "&0750", "go=rX", "-s"]),
        mode in 0..0o10000_u32,
        umask in 0..0o1000_u16,
        directory in any::<bool>(),
    ) {
        let spec = changes(&format!("create.mode = '{text}'")).unwrap();
        let kind = if directory { FileKind::Directory } else { FileKind::Regular };
        let create = |mode: Mode, umask| spec.changes().create(kind, mode, umask);
        let mode = Mode::new(mode);
        let (born, mask) = create(mode, umask);
        prop_assert_eq!(born, create(mode, 0).0, "with a default ACL");
        let masked = create(mode.without(umask), 0).0;
        prop_assert_eq!(born.without(mask), masked, "without one");
        prop_assert_eq!(born.bits() & 0o7000 & !mode.bits(), 0);
    }
}
