//! A host with a few users and groups, for policies by name.

use idmapfs::policy::{Names, Place, Unread};

/// The names of that host.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Names for Host {
    fn user(&self, name: &str) -> Option<(u32, u32)> {
        match name {
            "alice" => Some((1000, 100)),
            "www-data" => Some((33, 33)),
            "broken" => Some((u32::MAX, 0)),
            _ => None,
        }
    }

    fn group(&self, name: &str) -> Option<u32> {
        match name {
            "users" => Some(100),
            "www-data" => Some(33),
            "staff" => Some(50),
            _ => None,
        }
    }

    fn users(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(list(&[("root", 0), ("www-data", 33), ("alice", 1000), ("alice.web.www-data", 70_033)]))
    }

    fn groups(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(list(&[("root", 0), ("www-data", 33), ("staff", 50), ("alice.web.staff", 70_050)]))
    }

    fn file(&self, place: &Place) -> Result<Vec<u8>, Unread> {
        let text = match place {
            Place::Source(path) if path == "etc/passwd" => PASSWD,
            Place::Source(path) if path == "etc/group" => GROUP,
            Place::Host(path) if path.ends_with("/web/etc/passwd") => PASSWD,
            Place::Host(path) if path.ends_with("/web/etc/group") => GROUP,
            Place::Source(_) => return Err(Unread::NoSource),
            Place::Host(path) if path == "/srv/passwd" => "alice:x:5:5\n",
            Place::Host(_) => return Err(Unread::Failed("No such file or directory".to_owned())),
        };
        Ok(text.as_bytes().to_vec())
    }
}

/// The users of the source; the second web server does not count.
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# people
www-data:x:101:101::/var/www:/bin/false
httpd:x:101:101::/var/www:/bin/false
www-data:x:102:102::/var/www:/bin/false
alice:x:1001:1001::/home/alice:/bin/sh
postgres:x:105:105::/:/bin/sh
+@nis::::::
broken
";

/// The groups of the source.
const GROUP: &str = "root:x:0:\nstaff:x:20:alice\nwww-data:x:101:\n";

fn list(entries: &[(&str, u32)]) -> Vec<(String, u32)> {
    entries.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
}
