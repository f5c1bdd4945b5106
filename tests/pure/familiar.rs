//! Options of bindfs that are rules, or say something of every id.

use idmapfs::policy::options::Options;
use idmapfs::policy::{PolicyError, Spec, file};

use super::host::Host;

fn options(text: &str) -> Result<Spec, PolicyError> {
    let mut options = Options::default();
    for word in text.split("; ") {
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        assert!(options.set(name, value)?, "{name} is no policy option");
    }
    Spec::from_options(&options, &Host)
}

#[test]
fn rules_for_every_file_are_taken_from_bindfs() {
    for (given, ours) in [
        ("perms=0644", "[[rules]]\npresent-mode = '0644'"),
        (
            "perms=0644:a+X",
            "[[rules]]\npresent-mode = { files = 'u=rw,g=r,o=r', executables = \
             'u=rw,g=r,o=r,a+x', directories = 'u=rw,g=r,o=r,a+x' }",
        ),
        ("perms=u+rD", "[[rules]]\npresent-mode = { files = 'u+r', directories = 'u+rx' }"),
        ("delete-deny", "[[rules]]\ndeny = ['delete']"),
        ("rename-deny", "[[rules]]\ndeny = ['rename']"),
        ("rename-deny; delete-deny", "[[rules]]\ndeny = ['delete', 'rename']"),
        (
            "delete-deny; perms=a-w; rename-deny; hide=.ssh",
            "[[rules]]\ndeny = ['delete', 'rename']\npresent-mode = 'a-w'\n\
             [[rules]]\npath = '.ssh'\nhide = true",
        ),
        ("create-as-user", ""),
    ] {
        let ours = file::parse("p.toml", &format!("version = 1\n{ours}\n"), &Host);
        assert_eq!(options(given).unwrap(), ours.unwrap(), "{given}");
    }
}

/// Who is in no pair keeps the id; who has one that another is shown as has no
/// counterpart, for there would be no way back.
#[test]
fn pairs_of_bindfs_leave_everybody_else_alone() {
    for (given, ours) in [
        (
            "map=1000/1001:1001/1000",
            "u:0:0:1000 u:1000:1001:1 u:1001:1000:1 u:1002:1002:4294966293",
        ),
        ("map=0/5", "u:0:5:1 u:1:1:4 u:6:6:4294967289"),
        ("map=alice/www-data", "u:0:0:33 u:34:34:966 u:1000:33:1 u:1001:1001:4294966294"),
        ("map=@users/@staff", "g:0:0:50 g:51:51:49 g:100:50:1 g:101:101:4294967194"),
        ("map=7/7", "u:0:0:7 u:7:7:1 u:8:8:4294967287"),
        ("map=4294967294/0", "u:4294967294:0:1 u:1:1:4294967293"),
        (
            "map=1/2,@1/@2; map=2/1",
            "u:0:0:1 u:1:2:1 u:2:1:1 u:3:3:4294967292 g:0:0:1 g:1:2:1 g:3:3:4294967292",
        ),
    ] {
        let ours: Vec<String> = ours.split(' ').map(|extent| format!("map={extent}")).collect();
        assert_eq!(options(given).unwrap(), options(&ours.join("; ")).unwrap(), "{given}");
    }
}
