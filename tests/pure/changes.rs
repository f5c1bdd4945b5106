//! `[changes]` and the options for it: what is read, what is refused with
//! which words, what `explain` and `check` say.

use idmapfs::id::Ids;
use idmapfs::policy::check::{Severity, check_file};
use idmapfs::policy::options::Options;
use idmapfs::policy::{Code, PolicyError, Server, Spec, file};

use super::host::Host;

/// Reads `[changes]`.
fn changes(text: &str) -> Result<Spec, PolicyError> {
    file::parse("p.toml", &format!("version = 1\n[changes]\n{text}\n"), &Host)
}

fn options(text: &str) -> Result<Spec, PolicyError> {
    let mut options = Options::default();
    for word in text.split("; ") {
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        assert!(options.set(name, value)?, "{name} is no policy option");
    }
    Spec::from_options(&options, &Host)
}

#[test]
fn changes_describe_themselves() {
    for (text, wanted) in [
        ("", "identity"),
        ("chown = 'normal'\nchgrp = 'normal'\nchmod = 'normal'", "identity"),
        ("xattrs = []", "identity"),
        ("chown = 'ignore'\nchgrp = 'deny'", "chown=ignore,chgrp=deny"),
        ("chown = 'only=www-data,7-9,alice,7-9'", "chown=only=7-9,33,1000"),
        ("chgrp = 'only=users'", "chgrp=only=100"),
        ("chmod = 'deny,allow-x'", "chmod=deny,allow-x"),
        ("chmod = 'filter=go-w,a+X'", "chmod=filter=go-w,a+X"),
        ("create = { mode = 'g+w' }", "create.mode=g+w"),
        ("create = { user = 'alice', group = 50 }", "store-as=1000:50"),
        ("create.user = 5", "store-as=u:5"),
        (
            "xattrs = [{ name = 'user.*', action = 'rename', to = 'user.x.' }]",
            "xattrs=user.* rename user.x.",
        ),
    ] {
        assert_eq!(changes(text).unwrap().describe(), wanted, "{text}");
    }
}

#[test]
fn the_spellings_of_bindfs_are_taken() {
    for (given, ours) in [
        ("chown-normal; chgrp-normal; chmod-normal; xattr-rw", ""),
        ("chown-ignore; chgrp-deny", "chown = 'ignore'\nchgrp = 'deny'"),
        ("chown-deny; chgrp-ignore", "chown = 'deny'\nchgrp = 'ignore'"),
        ("chmod-allow-x; chmod-ignore", "chmod = 'ignore,allow-x'"),
        ("chmod-deny; chmod-allow-x", "chmod = 'deny,allow-x'"),
        ("chmod-allow-x", ""),
        ("chmod-filter=g-w:o-rwx", "chmod = 'filter=g-w,o-rwx'"),
        (
            "create-with-perms=0640:a+X",
            "create.mode = { files = 'u=rw,g=r,o=', executables = 'u=rw,g=r,o=,a+x', \
             directories = 'u=rw,g=r,o=,a+x' }",
        ),
        ("create-with-perms=0640", "create.mode = '0640'"),
        ("create-with-perms=g+w", "create.mode = 'g+w'"),
        ("xattr-ro", "xattrs = [{ name = '*', action = 'refuse' }]"),
        (
            "xattr-none",
            "xattrs = [{ name = 'system.posix_acl_*', action = 'pass' }, \
             { name = '*', action = 'hide' }]",
        ),
    ] {
        assert_eq!(options(given).unwrap(), changes(ours).unwrap(), "{given}");
    }
    for (given, wanted) in [
        ("chown-ignore; chown-deny", "option chown-deny: said before by option chown-ignore"),
        ("chmod-ignore; chmod-filter=g-w", "said before by option chmod-ignore"),
        ("chmod-filter=u+s", "are never set"),
        ("xattr-ro; xattr-none", "option xattr-none: said before by option xattr-ro"),
        ("chmod-filter", "option chmod-filter: needs a value"),
        ("xattr-none=1", "takes no value"),
        ("create-with-perms=x", "option create-with-perms: mode `x`"),
    ] {
        let error = options(given).unwrap_err().to_string();
        assert!(error.contains(wanted), "{given}: {error}");
    }
}

#[test]
fn changes_are_refused_with_their_place() {
    use Code::{Conflict, Key, Name, Syntax, Value};
    let rule = |rest: &str| format!("xattrs = [{{ {rest} }}]");
    for (text, code, wanted) in [
        ("chow = 'deny'", Key, "p.toml:3:1: unknown key `chow` (did you mean chown?)"),
        ("create.mod = '0'", Key, "3:8: unknown key `mod` (did you mean mode?)"),
        ("chown = 'denny'", Value, "p.toml:3:9: `denny` is not a way to treat chown (did you"),
        ("chown = 'zzz'", Value, "write one of normal; ignore; deny; only=ID[,ID-ID]"),
        ("chown = 'only='", Value, "p.toml:3:9: no user given"),
        ("chown = 'only=5,bob'", Name, "unknown user `bob`"),
        ("chgrp = 'only=9-5'", Value, "the range `9-5` ends before it begins"),
        ("chgrp = 'only=5-4294967295'", Value, "`4294967295` is not a group id"),
        ("chown = ['deny']", Syntax, "p.toml:3:9: "),
        ("chmod = 'filter=4755'", Value, "p.toml:3:9: mode `4755`: set-user-id"),
        ("chmod = 'allow-x'", Value, "is not a way to treat chmod"),
        ("create.mode = 'g+w;'", Value, "p.toml:3:15: mode `g+w;`"),
        ("create.user = 'bob'", Name, "p.toml:3:15: unknown user `bob`"),
        (&rule("name = 'user.*'"), Syntax, "missing field `action`"),
        (&rule("name = 'user.*', action = 'hidden'"), Value, "3:39: `hidden` is not a way"),
        (&rule("name = 'user.[', action = 'hide'"), Value, "p.toml:3:20: pattern `user.[`"),
        (&rule("nam = 'user.*', action = 'hide'"), Key, "(did you mean name?)"),
        (&rule("name = 'user.*', action = 'rename'"), Value, "does not say to what (add `to`"),
        (
            &rule("name = 'user.*', action = 'hide', to = 'x'"),
            Value,
            "3:52: `to` is for `rename` alone",
        ),
        (
            &rule("name = '*.x', action = 'rename', to = 'user.'"),
            Value,
            "`*.x` cannot be renamed (a name to rename is PREFIX*",
        ),
        (
            &rule("name = 'user.*', action = 'rename', to = 'system.x.'"),
            Value,
            "3:54: `system.x.` is not where attributes can be stored",
        ),
        (
            &rule("name = 'user.*', action = 'rename', to = 'security.'"),
            Value,
            "may become security.capability, which holds an id",
        ),
        (
            &rule("name = 'security.*', action = 'rename', to = 'user.'"),
            Value,
            "matches security.capability, which cannot be renamed: it holds an id",
        ),
        (
            &rule("name = '*', action = 'hide'"),
            Value,
            "3:20: `*` matches system.posix_acl_access, which cannot be hidden: permissions \
             depend on it (let it pass by a rule before",
        ),
        (
            &rule("name = 'system.*_default', action = 'rename', to = 'user.x.'"),
            Value,
            "cannot be renamed",
        ),
        (
            "xattrs = [{ name = 'user.a.*', action = 'rename', to = 'user.x.' },\n\
             { name = 'user.b.*', action = 'rename', to = 'user.x.y.' }]",
            Conflict,
            "p.toml:4:46: `user.x.y.` is where `user.a.* rename user.x.` stores (p.toml:3:20)",
        ),
    ] {
        let error = changes(text).expect_err(text);
        let shown = error.to_string();
        assert_eq!(error.code, code, "{text}: {shown}");
        assert!(shown.contains(wanted), "{text}: {shown}");
    }
    let twice = "version = 1\nids.collapse.store-as = 'u:5'\nchanges.create.user = 5";
    let error = file::parse("p.toml", twice, &Host).unwrap_err();
    assert_eq!(error.to_string(), "p.toml:3:23: said before by p.toml:2:25 (leave one out)");
    // What passes by a rule before may be matched after.
    for rest in ["name = '*', action = 'hide'", "name = 's*', action = 'rename', to = 'user.s.'"] {
        let pass =
            "{ name = 'system.*', action = 'pass' }, { name = 'security.*', action = 'pass' }";
        changes(&format!("xattrs = [{pass}, {{ {rest} }}]")).unwrap();
    }
}

#[test]
fn changes_are_explained_with_their_place() {
    let text = "chown = 'ignore'\nchmod = 'deny,allow-x'\ncreate = { user = 5, mode = 'g+w' }\n\
                xattrs = [{ name = 'user.*', action = 'hide' }]";
    let server = Server { ids: Ids::new(0, 0).unwrap(), privileged: true };
    let policy = changes(text).unwrap().build(&server).unwrap();
    let said: Vec<String> = policy.explain_changes().iter().map(ToString::to_string).collect();
    let wanted = [
        "chown: ignore (p.toml:3:9)",
        "chmod: deny,allow-x (p.toml:4:9)",
        "create.mode: g+w (p.toml:5:29)",
        "xattrs: user.* hide (p.toml:6:20)",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn attributes_of_root_stored_as_those_of_users_are_noted() {
    for (name, to, noted) in [
        ("trusted.overlay.*", "user.overlay.", true),
        ("trusted.overlay.*", "trusted.x.", false),
        ("user.a.*", "user.b.", false),
    ] {
        let text = format!(
            "version = 1\nchanges.xattrs = [{{ name = '{name}', action = 'rename', to = '{to}' }}]"
        );
        let found = check_file("p.toml", &text, &Host);
        assert_eq!(found.iter().any(|f| f.code == Code::Root), noted, "{name} {found:?}");
        assert!(found.iter().all(|f| f.severity == Severity::Note), "{found:?}");
    }
}

#[test]
fn doubtful_changes_are_found() {
    let pass = "{ name = 'system.*', action = 'pass' }";
    let hide = |name: &str| format!("{{ name = '{name}', action = 'hide' }}");
    let list = |rules: &[String]| format!("changes.xattrs = [{pass}, {}]", rules.join(", "));
    for (text, wanted) in [
        ("", None),
        ("ids.map = ['0:1000:10']\nchanges.chown = 'only=1005,1000-1009'", None),
        (
            "ids.map = ['0:1000:10']\nchanges.chown = 'only=1005,5'",
            Some("p.toml:3:17: warning[dead]: chown to 5 fails all the same"),
        ),
        (
            "ids.collapse.present-as = 'g:5'\nids.collapse.store-as = 'g:5'\n\
             changes.chgrp = 'only=5,6'",
            Some("4:17: warning[dead]: chgrp to 6 fails all the same: nothing is shown as it"),
        ),
        (
            "changes.create.mode = '0644'",
            Some("p.toml:2:23: warning[closed]: `0644` makes directories that nobody can enter"),
        ),
        ("changes.create.mode = 'u=rwX,g=rX'", None),
        (&list(&[hide("user.a"), hide("user.*"), hide("trusted.*")]), None),
        (
            &list(&[hide("user.*"), hide("user.a")]),
            Some("warning[dead]: `user.a hide` never decides: `user.* hide` at p.toml:2:68 does"),
        ),
        (&list(&[hide("*"), hide("user.*.x")]), Some("`user.*.x hide` never decides")),
        (&list(&[hide("user.*"), hide("user.*")]), Some("never decides")),
        (&list(&[hide("overlay.*")]), Some("warning[dead]: `overlay.* hide` matches no attribute")),
        (&list(&[hide("u*"), hide("*.x")]), None),
    ] {
        let found = check_file("p.toml", &format!("version = 1\n{text}\n"), &Host);
        let found = found.iter().filter(|f| f.severity == Severity::Warning);
        let found: Vec<_> = found.filter(|f| f.code != Code::OneKind).collect();
        match wanted {
            Some(wanted) => {
                assert_eq!(found.len(), 1, "{text}: {found:?}");
                assert!(found[0].to_string().contains(wanted), "{text}: {}", found[0]);
            }
            None => assert!(found.is_empty(), "{text}: {found:?}"),
        }
    }
}
