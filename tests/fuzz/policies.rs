//! Policy files: whatever parses also builds, describes, checks, explains and
//! decides; whatever does not says where and why.

use std::time::Duration;

use idmapfs::id::{Disk, Ids};
use idmapfs::policy::check::check_file;
use idmapfs::policy::{Code, Origin, Server, Spec, file};

use super::engine::{Target, run};
use super::{collection, policy_laws, rule_laws, text};
use crate::host::Host;
use crate::rng::Rng;

const PATH: &str = "p.toml";

/// What has broken a law before.
const FOUND: &[&[u8]] = &[
    // A tab in a pattern was printed as it is.
    b"version=1\n[ids]\n[[changes.xattrs]]\nname=\"\t*\"\naction=\"rename\"\nto=\"user.\"\n[callers]",
];

struct Policies;

#[test]
fn policies() {
    run(&Policies);
}

impl Target for Policies {
    const NAME: &'static str = "policies";
    const MEMORY: (usize, usize) = (4 << 20, 4096);
    const TIME: (Duration, Duration) = (Duration::from_millis(200), Duration::from_micros(100));

    fn collection(&self) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = FOUND.iter().map(|input| input.to_vec()).collect();
        let texts = collection::policies().into_iter().chain(collection::strings());
        for text in texts.filter(|text| text.contains(['=', '['])) {
            // Most strings of tests have no head.
            if !text.contains("version") {
                found.push(format!("version = 1\n{text}\n").into_bytes());
            }
            found.push(text.into_bytes());
        }
        found
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
        text::change(rng, input, other);
    }

    fn check(&self, input: &[u8]) {
        check(&String::from_utf8_lossy(input));
    }
}

fn check(text: &str) {
    let findings = check_file(PATH, text, &Host);
    for finding in &findings {
        stands(text, &finding.at, true);
        plain(&finding.to_string());
    }
    match file::parse(PATH, text, &Host) {
        Ok(spec) => {
            assert!(findings.iter().all(|finding| finding.code != Code::Syntax), "{findings:?}");
            usable(text, &spec);
        }
        Err(error) => {
            stands(text, &error.at, false);
            plain(&error.to_string());
            let [finding] = &findings[..] else { panic!("{error}, and {findings:?}") };
            assert_eq!(finding.code, error.code);
        }
    }
}

/// Demands that a place is one of the text.
fn stands(text: &str, at: &Origin, may_be_whole: bool) {
    let Origin::File { path, line, column } = at else {
        assert!(may_be_whole && matches!(at, Origin::Whole), "{at} is no place");
        return;
    };
    assert_eq!(&**path, PATH);
    let found = text.split('\n').nth(*line as usize - 1);
    let length = found.map(|line| line.chars().count());
    assert!(length.is_some_and(|length| (1..=length + 1).contains(&(*column as usize))), "{at}");
}

/// Demands that what is printed cannot change a terminal or fake a line.
pub fn plain(printed: &str) {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!printed.contains(|c: char| c.is_control() || turns(c)), "{printed:?}");
}

/// Demands what is so of every policy that can be read.
fn usable(text: &str, spec: &Spec) {
    plain(&spec.describe());
    let again = file::parse(PATH, text, &Host).unwrap();
    assert_eq!((&again, again.describe()), (spec, spec.describe()));
    rule_laws::printed(spec);
    policy_laws::described(spec);
    let own = |uid, gid| Ids::<Disk>::new(uid, gid).unwrap();
    for (ids, privileged) in [(own(0, 0), true), (own(1000, 100), false)] {
        match spec.build(&Server { ids, privileged }) {
            Err(error) => {
                stands(text, &error.at, false);
                plain(&error.to_string());
            }
            Ok(policy) => {
                policy_laws::decides(&policy, text);
                rule_laws::decides(&policy, text);
            }
        }
    }
}
