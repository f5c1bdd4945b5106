//! `-o a,b=c` is rewritten into `--a --b=c`, so that one parser reads both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::fault::Fault;
use super::options::{self, Area};
use crate::policy;
use crate::text::{nearest, shown};

/// What to do with an option that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It is an error.
    Refuse,
    /// It is left out, as mount(8) asks with `-s`.
    Skip,
}

/// Splits the value of `-o` at commas.
///
/// `\,` is a comma inside a value and `\\` a backslash; any other backslash
/// stands for itself. Empty items are left out.
pub fn split(list: &OsStr) -> Vec<OsString> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b',' => {
                items.push(Vec::new());
                continue;
            }
            b'\\' => bytes.next_if(|next| matches!(next, b',' | b'\\')).unwrap_or(byte),
            byte => byte,
        };
        if let Some(item) = items.last_mut() {
            item.push(byte);
        }
    }
    items.into_iter().filter(|item| !item.is_empty()).map(OsString::from_vec).collect()
}

/// Rewrites every `-o LIST` of an argument list, up to `--`.
///
/// `flags` are the letters of the options without a value that may stand
/// before the `o` in one word, as in `-fo ro`.
///
/// # Errors
/// A list is missing, or holds an option that does not exist or does not go
/// with this command.
pub fn rewrite(
    args: impl IntoIterator<Item = OsString>,
    flags: &str,
    areas: &[Area],
    unknown: Unknown,
) -> Result<Vec<OsString>, Fault> {
    let mut out = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let Some((before, inline)) = short_o(&arg, flags) else {
            out.push(arg);
            continue;
        };
        if !before.is_empty() {
            out.push(OsString::from(format!("-{before}")));
        }
        let list = inline.or_else(|| args.next()).ok_or_else(|| {
            Fault::usage("option -o needs a list").hint("for example -o ro,map=1000:101000:1")
        })?;
        for item in split(&list) {
            out.extend(long_form(&item, areas, unknown)?);
        }
    }
    Ok(out)
}

/// Finds `o` in a word of one-letter options: the letters before it, and the
/// value that follows it in the same word.
fn short_o(arg: &OsStr, flags: &str) -> Option<(String, Option<OsString>)> {
    let letters = arg.as_bytes().strip_prefix(b"-")?;
    let at = letters.iter().position(|letter| *letter == b'o')?;
    let (before, rest) = letters.split_at_checked(at)?;
    let before =
        std::str::from_utf8(before).ok().filter(|b| b.chars().all(|c| flags.contains(c)))?;
    let inline = rest.get(1..).filter(|rest| !rest.is_empty());
    Some((before.to_owned(), inline.map(|rest| OsStr::from_bytes(rest).to_os_string())))
}

/// Turns one item of `-o` into a long option; `None` for one to be ignored.
fn long_form(item: &OsStr, areas: &[Area], unknown: Unknown) -> Result<Option<OsString>, Fault> {
    let mut parts = item.as_bytes().splitn(2, |byte| *byte == b'=');
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let has_value = parts.next().is_some();
    let Some(opt) = options::find(&name) else {
        return if bookkeeping(&name) || unknown == Unknown::Skip {
            Ok(None)
        } else {
            Err(no_such(&name, &name))
        };
    };
    if !areas.contains(&opt.area) {
        return Err(Fault::usage(format!("option {} does not go with this command", opt.name)));
    }
    match (opt.value, has_value) {
        (Some(of), false) => {
            Err(Fault::usage(format!("option {0} needs a value: {0}={of}", opt.name)))
        }
        (None, true) => {
            Err(Fault::usage(format!("option {} takes no value: {}", opt.name, shown(item))))
        }
        _ => {
            let mut long = OsString::from("--");
            long.push(item);
            Ok(Some(long))
        }
    }
}

fn bookkeeping(name: &str) -> bool {
    options::BOOKKEEPING.contains(&name) || name.starts_with("x-") || name.starts_with("X-")
}

/// Says that an option does not exist, and which one may be meant; `typed` is
/// the name as it was written.
pub fn no_such(name: &str, typed: &str) -> Fault {
    if let Err(refused) = policy::options::Options::default().set(name, Some("")) {
        return refused.into();
    }
    let fault = Fault::usage(format!("unknown option {}", shown(typed)));
    if matches!(name, "sync" | "dirsync") {
        return fault.hint("writes go to the source at once; mount the source with it instead");
    }
    match nearest(name, options::names()) {
        Some(near) => fault.hint(format!("did you mean {near}?")),
        None => fault.hint("idmapfs --help lists the options"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Area] = &[Area::Policy, Area::Mount, Area::Naming, Area::Server];

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn commas_split_and_backslashes_escape() {
        for (list, want) in [
            ("a,b=c", &["a", "b=c"][..]),
            ("a\\,b,c", &["a,b", "c"]),
            ("a\\\\,b", &["a\\", "b"]),
            ("a\\\\\\,b", &["a\\,b"]),
            ("a\\nb\\", &["a\\nb\\"]),
            (",a,,b,", &["a", "b"]),
            ("", &[]),
        ] {
            assert_eq!(split(OsStr::new(list)), words(want), "{list}");
        }
        let bytes = split(OsStr::from_bytes(b"policy=/\xff\\,x,ro"));
        assert_eq!(bytes, [OsStr::from_bytes(b"policy=/\xff,x"), OsStr::new("ro")]);
    }

    #[test]
    fn lists_become_long_options() {
        for (args, want) in [
            (&["-o", "ro,map=u:1:2:3", "S", "T"][..], &["--ro", "--map=u:1:2:3", "S", "T"][..]),
            (&["-oro", "S"], &["--ro", "S"]),
            (&["-fo", "ro", "S"], &["-f", "--ro", "S"]),
            (&["-foro,nodev"], &["-f", "--ro", "--nodev"]),
            (&["-o", "allow_other,user,nofail,x-systemd.automount,comment=x"], &["--allow_other"]),
            (&["-o", "X-mount.idmap=0:1:2,X-other,_netdev,defaults"], &["--X-mount.idmap=0:1:2"]),
            (&["S", "--", "ls", "-o", "nonsense"], &["S", "--", "ls", "-o", "nonsense"]),
            (&["-xo", "ro"], &["-xo", "ro"]),
            (&["./-o"], &["./-o"]),
            (&["--policy", "a=b"], &["--policy", "a=b"]),
        ] {
            let got = rewrite(words(args), "f", ALL, Unknown::Refuse);
            assert_eq!(got, Ok(words(want)), "{args:?}");
        }
    }

    #[test]
    fn bad_items_are_named() {
        for (list, text, hint) in [
            ("mapp=1:2:3", "unknown option mapp", Some("did you mean map?")),
            ("frobnicate", "unknown option frobnicate", Some("idmapfs --help lists the options")),
            ("help", "unknown option help", Some("idmapfs --help lists the options")),
            ("map", "option map needs a value: map=EXTENT", None),
            ("ro=1", "option ro takes no value: ro=1", None),
            ("a\x1bb", "unknown option a\\u{1b}b", Some("idmapfs --help lists the options")),
        ] {
            let got = rewrite(words(&["-o", list]), "", ALL, Unknown::Refuse).unwrap_err();
            assert_eq!((got.text.as_str(), got.hint.as_deref()), (text, hint), "{list}");
        }
        let got = rewrite(words(&["-o"]), "", ALL, Unknown::Refuse).unwrap_err();
        assert_eq!(got.text, "option -o needs a list");
        let got = rewrite(words(&["-o", "fsname=x"]), "", &[Area::Policy], Unknown::Refuse);
        assert_eq!(got.unwrap_err().text, "option fsname does not go with this command");
    }

    #[test]
    fn a_sloppy_list_skips_what_nobody_knows() {
        let got = rewrite(words(&["-o", "frobnicate,ro,x=1"]), "", ALL, Unknown::Skip);
        assert_eq!(got, Ok(words(&["--ro"])));
    }
}
