//! What is written in one word or line: patterns, modes, options.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use idmapfs::attr::{FileKind, Mode};
use idmapfs::policy::glob::{Glob, PathGlob};
use idmapfs::policy::mode::{ModeExpr, ModeTest};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Origin, Spec};

use super::engine::{Target, run};
use super::policies::plain;
use super::{collection, text};
use crate::host::Host;
use crate::rng::Rng;

/// What has broken a law before.
const FOUND: &[&[u8]] = &[b"prefix=\xe2\x80\xa8"];

const AT: Origin = Origin::Option("fuzz");

struct Words;

#[test]
fn words() {
    run(&Words);
}

impl Target for Words {
    const NAME: &'static str = "words";
    const MEMORY: (usize, usize) = (1 << 20, 1024);
    const TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_micros(50));

    fn collection(&self) -> Vec<Vec<u8>> {
        let mut found: Vec<Vec<u8>> = FOUND.iter().map(|input| input.to_vec()).collect();
        let short = |text: &String| text.len() < 200;
        found.extend(collection::strings().into_iter().filter(short).map(String::into_bytes));
        found
    }

    fn change(&self, rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
        text::change(rng, input, other);
    }

    fn check(&self, input: &[u8]) {
        options(input);
        glob(&String::from_utf8_lossy(input), input);
        mode(&String::from_utf8_lossy(input));
    }
}

fn glob(text: &str, name: &[u8]) {
    match Glob::parse(&AT, text) {
        Ok(glob) => {
            assert_eq!(Glob::parse(&AT, &glob.to_string()).unwrap(), glob);
            let _ = glob.matches(name);
            let long = name.repeat(4);
            let _ = glob.matches(&long[..long.len().min(255)]);
        }
        Err(error) => plain(&error.to_string()),
    }
    match PathGlob::parse(&AT, text) {
        Ok(path) => assert_eq!(PathGlob::parse(&AT, &path.to_string()).unwrap(), path),
        Err(error) => plain(&error.to_string()),
    }
    // Any name at all can be written so that it is meant and nothing else.
    let name = &name[..name.len().min(255)];
    if name.is_empty() || name.contains(&0) || name.contains(&b'/') || matches!(name, b"." | b"..")
    {
        return;
    }
    let escaped: String = name.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let glob = Glob::parse(&AT, &escaped).unwrap();
    assert!(
        glob.matches(name) && !glob.matches(&[name, b"x"].concat()) && !glob.matches(&name[1..])
    );
    for (pattern, longer) in [
        (format!("*{escaped}"), [b"x", name].concat()),
        (format!("{escaped}*"), [name, b"x"].concat()),
    ] {
        // A suffix that begins within a character matches where it is one.
        let whole = !(0x80..0xc0).contains(&name[0]);
        assert!(!whole || Glob::parse(&AT, &pattern).unwrap().matches(&longer), "{pattern}");
    }
}

fn mode(text: &str) {
    match ModeExpr::parse(&AT, text) {
        Ok(expression) => {
            assert_eq!(ModeExpr::parse(&AT, &expression.to_string()).unwrap(), expression);
            for bits in [0, 0o644, 0o755, 0o7777] {
                for kind in [FileKind::Regular, FileKind::Directory, FileKind::Symlink] {
                    let new = expression.apply(Mode::new(bits), kind).bits();
                    assert_eq!(new & 0o7000 & !Mode::new(bits).bits(), 0, "{bits:o}: {new:o}");
                }
            }
        }
        Err(error) => plain(&error.to_string()),
    }
    match ModeTest::parse(&AT, text) {
        Ok(test) => assert_eq!(ModeTest::parse(&AT, &test.to_string()).unwrap(), test),
        Err(error) => plain(&error.to_string()),
    }
}

/// Reads a line as the value of `-o`, and each of its items as an option.
fn options(input: &[u8]) {
    // Of the three ways in, one: making the parser takes longer than all else.
    let words: Vec<OsString> = match input.len() % 3 {
        0 => ["idmapfs", "/src", "/mnt", "-o"].map(OsString::from).to_vec(),
        1 => ["mount.idmapfs", "/src", "/mnt", "-o"].map(OsString::from).to_vec(),
        _ => input.split(|byte| *byte == b' ').map(|w| OsString::from_vec(w.to_vec())).collect(),
    };
    let list = (input.len() % 3 < 2).then(|| OsStr::from_bytes(input).to_owned());
    if let Err(fault) = idmapfs::cli::parse(words.into_iter().chain(list)) {
        plain(&fault.to_string());
    }
    let text = String::from_utf8_lossy(input);
    let mut options = Options::default();
    for item in text.split(',') {
        let (name, value) = item.split_once('=').map_or((item, None), |(n, v)| (n, Some(v)));
        if let Err(error) = options.set(name, value) {
            plain(&error.to_string());
        }
    }
    match Spec::from_options(&options, &Host) {
        Ok(spec) => plain(&spec.describe()),
        Err(error) => plain(&error.to_string()),
    }
}
