//! A host with a few users and groups, for policies by name.

use idmapfs::policy::Names;

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
}
