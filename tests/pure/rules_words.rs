//! Rules as they are written: what is read, and what is refused with which
//! words.

use idmapfs::attr::{FileKind, Mode};
use idmapfs::id::{Id, Ids, Owner};
use idmapfs::policy::check::check_file;
use idmapfs::policy::options::Options;
use idmapfs::policy::rules::{Rule, Subject};
use idmapfs::policy::{Code, Inputs, NoNames, Policy as _, PolicyError, Server, Spec, file};

use super::host::Host;

fn parse(rules: &str) -> Result<Spec, PolicyError> {
    file::parse("p.toml", &format!("version = 1\n{rules}"), &Host)
}

/// Reads one rule.
fn rule(keys: &str) -> Rule {
    parse(&format!("[[rules]]\n{keys}")).unwrap().rules()[0].value.clone()
}

fn options(hide: &[&str]) -> Result<Spec, PolicyError> {
    let mut options = Options::default();
    for glob in hide {
        assert!(options.set("hide", Some(glob)).unwrap());
    }
    Spec::from_options(&options, &NoNames)
}

fn server() -> Server {
    Server { ids: Ids::new(0, 0).unwrap(), privileged: true }
}

#[test]
fn rules_are_read_with_all_their_keys() {
    for (keys, wanted) in [
        ("path = '.ssh/**'\nhide = true", "rule(path=.ssh/** hide=true)"),
        ("path = ['a', 'b/']\nhide = false", "rule(path=a|b/ hide=false)"),
        ("name = '*.key'\nread-only = true", "rule(name=*.key read-only=true)"),
        ("type = 'file'\nhide = true", "rule(type=file hide=true)"),
        (
            "type = ['symlink', 'fifo', 'socket', 'char-device', 'block-device', 'directory']\nhide = true",
            "rule(type=directory|symlink|fifo|socket|char-device|block-device hide=true)",
        ),
        (
            "owner = ['alice', 0, '5', '1000-1999']\ngroup = 'staff'\nhide = true",
            "rule(owner=1000|0|5|1000-1999 group=50 hide=true)",
        ),
        ("owner = 'www-data'\nhide = true", "rule(owner=33 hide=true)"),
        ("mode = '/6000'\nhide = true", "rule(mode=/6000 hide=true)"),
        ("present-owner = 'alice'", "rule(present-user=1000 present-group=100)"),
        ("present-owner = 'u:33'", "rule(present-user=33)"),
        ("present-owner = 7", "rule(present-user=7 present-group=7)"),
        ("present-mode = 'go-w'", "rule(present-mode=go-w)"),
        (
            "present-mode = { files = '0644', directories = 'a+X', executables = '&0755' }",
            "rule(present-mode=files=0644 directories=a+X executables=&0755)",
        ),
        ("deny = 'exec'", "rule(deny=exec)"),
        ("deny = ['xattr', 'delete', 'create']", "rule(deny=delete+create+xattr)"),
        ("deny = []", "rule(deny=)"),
    ] {
        assert_eq!(rule(keys).to_string(), wanted, "{keys}");
    }
    assert_eq!(parse("rules = []").unwrap(), Spec::default());
}

#[test]
fn conditions_look_at_the_file_on_disk() {
    let subject = |uid: Option<u32>, mode| Subject {
        kind: FileKind::Regular,
        owner: Owner { uid: uid.and_then(Id::new), gid: Id::new(50) },
        mode: Mode::new(mode),
    };
    let rule = rule(
        "owner = ['5-9', 'alice']\ngroup = 'staff'\nmode = '-0200'\ntype = 'file'\nhide = true",
    );
    for (uid, mode, wanted) in [
        (Some(5), 0o644, true),
        (Some(9), 0o644, true),
        (Some(10), 0o644, false),
        (Some(1000), 0o200, true),
        (Some(1000), 0o444, false),
        (None, 0o644, false),
    ] {
        assert_eq!(rule.meets(&subject(uid, mode)), wanted, "{uid:?} {mode:o}");
    }
    assert!(!rule.meets(&Subject { kind: FileKind::Fifo, ..subject(Some(5), 0o644) }));
}

#[test]
fn rules_are_refused_with_their_place() {
    use Code::{Conflict, Key, Name, Syntax, Value};
    for (keys, code, wanted) in [
        ("", Value, "p.toml:2:1: the rule has no effect (add hide, read-only, present-owner"),
        ("path = 'a'", Value, "the rule has no effect"),
        ("hid = true", Key, "p.toml:3:1: unknown key `hid` (did you mean hide?)"),
        ("readonly = true", Key, "did you mean read-only?"),
        ("patterns = 'a'", Key, "known here: path, name, type, owner"),
        ("hide = 'yes'", Syntax, "p.toml:3:8: invalid type: string"),
        ("hide = true\npath = []", Value, "p.toml:4:8: `path` is empty: the rule would match"),
        ("hide = true\nname = []", Value, "`name` is empty"),
        ("hide = true\ntype = []", Value, "`type` is empty"),
        ("hide = true\npath = 5.5", Syntax, "a string, a plain decimal number, or a list"),
        ("hide = true\npath = ['a',\n 'b//c']", Value, "p.toml:5:2: pattern `b//c`: a name of"),
        ("hide = true\npath = '../a'", Value, "4:8: pattern `../a`: `.` and `..` are no names"),
        ("hide = true\nname = 'a/b'", Value, "`a/b` is a path, not a name (a pattern with a"),
        (
            "hide = true\npath = ['a', 'a']",
            Conflict,
            "4:14: `a` is given twice: first at p.toml:4:9",
        ),
        ("hide = true\ntype = 'dir'", Value, "`dir` is not a type of file (known here: file,"),
        ("hide = true\ntype = 'directories'", Value, "did you mean directory?"),
        ("hide = true\nowner = 'bob'", Name, "unknown user `bob`"),
        ("hide = true\nowner = '9-5'", Value, "range `9-5` ends before it begins"),
        ("hide = true\nowner = '5-4294967295'", Value, "`4294967295` is not a user id"),
        ("hide = true\nowner = -5", Value, "`-5` is not a plain decimal number"),
        ("hide = true\ngroup = 'wheel'", Name, "unknown group `wheel`"),
        ("hide = true\nmode = 644", Value, "a mode is a string (write it in quotes, such as"),
        ("hide = true\nmode = 'u+w'", Value, "`/6000` is any of these bits"),
        ("present-owner = 'bob'", Name, "unknown user `bob`"),
        ("present-mode = 'u+s'", Value, "3:16: mode `u+s`: set-user-id, set-group-id and sticky"),
        ("present-mode = 644", Value, "a mode is a string"),
        ("present-mode = {}", Value, "`present-mode` says nothing"),
        ("present-mode = { file = '0644' }", Key, "unknown key `file` (did you mean files?)"),
        ("present-mode = { files = 'x' }", Value, "3:26: mode `x`: no `+`, `-` or `=`"),
        ("present-mode = true", Syntax, "a mode as for chmod, or one each for"),
        ("deny = ['remove']", Value, "`remove` is not an operation (known here: delete, rename,"),
        ("deny = ['chmo']", Value, "did you mean chmod?"),
        ("deny = ['chmod', 'chmod']", Conflict, "is given twice"),
        ("hide = true\npath = 'd/'\ntype = 'file'", Conflict, "`d/` is for directories, which"),
        ("hide = true\npath = 'a/b'\nname = 'c'", Conflict, "no file of `path` has the name `c`"),
    ] {
        let error = parse(&format!("[[rules]]\n{keys}")).expect_err(keys);
        let shown = error.to_string();
        assert_eq!(error.code, code, "{keys}: {shown}");
        assert!(shown.contains(wanted), "{keys}: {shown}");
    }
    let many = "[[rules]]\nhide = true\n".repeat(10_001);
    let error = parse(&many).unwrap_err();
    assert_eq!(error.code, Code::Limit);
    assert!(error.to_string().starts_with("p.toml:20002:1: 10001 rules"), "{error}");
}

#[test]
fn keys_in_any_order_have_their_places() {
    let text =
        "[[rules]]\nhide = true\nowner = 'x1'\npath = 'a'\n[[rules]]\ntype = 'b'\nhide = true";
    let first = parse(text).unwrap_err().to_string();
    assert!(first.starts_with("p.toml:4:9: unknown user"), "{first}");
    let second = parse(&text.replace("x1", "alice")).unwrap_err().to_string();
    assert!(second.starts_with("p.toml:7:8: "), "{second}");
    // [ids] may come after the rules.
    let text = "[[rules]]\nhide = true\nname = 'q'\n[ids]\nmap = ['0:1:2', 'x']";
    let error = parse(text).unwrap_err().to_string();
    assert!(error.starts_with("p.toml:6:17: "), "{error}");
}

#[test]
fn many_rules_are_read_in_no_time() {
    let text = "[[rules]]\nhide = true\ntype = 'file'\npath = 'a/b/c/d'\n".repeat(10_000);
    let started = std::time::Instant::now();
    assert_eq!(parse(&text).unwrap().rules().len(), 10_000);
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn hidden_paths_are_rules() {
    let spec = options(&[".ssh/**", ".gnupg"]).unwrap();
    let file =
        parse("[[rules]]\nhide = true\npath = '.ssh/**'\n[[rules]]\nhide = true\npath = '.gnupg'");
    assert_eq!(spec, file.unwrap());
    assert!(!spec.is_identity());
    assert_ne!(spec.describe(), options(&[".gnupg", ".ssh/**"]).unwrap().describe());
    let line = spec.describe();
    assert!(line.starts_with("rules=2:") && !line.contains("ssh"), "{line}");
    let policy = spec.build(&server()).unwrap();
    assert_eq!(policy.inputs(), Inputs { path: true, caller: false });
    let gnupg = policy.rules().step(&policy.rules().root(), b".gnupg", true);
    let below = policy.rules().step(&gnupg, b"key", false);
    let subject = Subject {
        kind: FileKind::Regular,
        owner: Ids::new(0, 0).unwrap().into(),
        mode: Mode::new(0o600),
    };
    assert!(policy.rules().verdict(&below, &subject).hide);
    for (glob, wanted) in [
        ("", "option hide: pattern ``: no path"),
        ("a//b", "option hide: pattern `a//b`: a name of the path is empty"),
        ("../x", "patterns begin at the source's root"),
    ] {
        let error = options(&[glob]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{glob}: {error}");
    }
    let mut given = Options::default();
    given.set("hide", Some("a")).unwrap();
    let error = given.beside_file().unwrap_err().to_string();
    assert!(error.contains("option hide: not beside a policy file"), "{error}");
}

#[test]
fn only_rules_with_a_place_depend_on_the_path() {
    for (keys, path) in [
        ("hide = true\ntype = 'fifo'", false),
        ("hide = true\nname = 'a'", true),
        ("read-only = true\npath = '**'", true),
    ] {
        let policy = parse(&format!("[[rules]]\n{keys}")).unwrap().build(&server()).unwrap();
        assert_eq!(policy.inputs(), Inputs { path, caller: false }, "{keys}");
    }
    let without = Spec::default().build(&server()).unwrap();
    assert!(without.rules().is_empty());
}

#[test]
fn what_never_decides_is_found() {
    let hide = |path: &str| format!("[[rules]]\npath = '{path}'\nhide = true\n");
    let show = |path: &str| format!("[[rules]]\npath = '{path}'\nhide = false\n");
    for (text, wanted) in [
        (hide("a") + &hide("b"), ""),
        (hide("a") + &show("a"), "shadowed 5:1 the rule never decides: p.toml:2:1"),
        (hide("**/a/**") + &show("x/a/b/*.c"), "shadowed 5:1"),
        (hide("*/a") + &show("**/a"), ""),
        (hide("**/a") + &show("*/a"), "shadowed 5:1"),
        (hide("a/") + &show("a"), ""),
        (hide("*.key") + &show("id.key"), "shadowed 5:1"),
        (hide("**") + &show("x") + &hide("y"), "shadowed 5:1, shadowed 8:1"),
        (
            "[[rules]]\nname = 'a'\nhide = true\n".to_owned()
                + "[[rules]]\npath = 'x/*'\nname = 'a'\nhide = false\nread-only = true\n",
            "shadowed 5:1 its hide never decides: p.toml:2:1 comes first",
        ),
        ("[[rules]]\ntype = 'file'\nhide = true\n".to_owned() + &hide("a"), ""),
        (
            "[[rules]]\ntype = 'file'\nhide = true\n[[rules]]\ntype = 'file'\nhide = false"
                .to_owned(),
            "shadowed 5:1",
        ),
        (show("d/e") + &hide("d"), "dead 2:1 `d/e` is below a directory that p.toml:7:8 hides"),
        (show("d") + &show("d/e") + &hide("d/**"), ""),
        (show("d/e") + &hide("d/**"), "dead 2:1"),
        (hide(&"a".repeat(256)), "dead 3:8 no name has more than 255 bytes"),
        (hide("a") + "read-only = true", "dead 2:1 what is hidden is not asked"),
        (
            "[[rules]]\ntype = 'symlink'\npresent-mode = '0644'".to_owned(),
            "dead 4:16 the mode of a symbolic link",
        ),
        ("[[rules]]\npresent-mode = '0644'".to_owned(), "closed 3:16 `0644` is for directories"),
        ("[[rules]]\npresent-mode = 'u=rwX'".to_owned(), ""),
        ("[[rules]]\ntype = 'file'\npresent-mode = '0644'".to_owned(), ""),
    ] {
        let found = check_file("p.toml", &format!("version = 1\n{text}"), &Host);
        let lines: Vec<String> = (found.iter())
            .map(|finding| format!("{} {} {}", finding.code, finding.at, finding.what))
            .map(|line| line.replacen("p.toml:", "", 1))
            .collect();
        let wanted: Vec<&str> = wanted.split(", ").filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), wanted.len(), "{text}: {lines:?}");
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.starts_with(wanted), "{text}: {line}");
        }
    }
}
