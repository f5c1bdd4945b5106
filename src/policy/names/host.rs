//! The names of the host.

use super::{Place, Unread};

/// The names of the host, as the caller knows them.
///
/// They are asked once, when a policy is read.
pub trait Names {
    /// Returns the uid and the primary gid of a user.
    fn user(&self, name: &str) -> Option<(u32, u32)>;

    /// Returns the gid of a group.
    fn group(&self, name: &str) -> Option<u32>;

    /// Returns the users that the host lists, with their uids, in its order.
    ///
    /// # Errors
    /// The host cannot list them.
    fn users(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(Vec::new())
    }

    /// Returns the groups that the host lists, with their gids, in its order.
    ///
    /// # Errors
    /// The host cannot list them.
    fn groups(&self) -> Result<Vec<(String, u32)>, Unread> {
        Ok(Vec::new())
    }

    /// Returns the bytes of a file with names; one in the source is found
    /// without leaving it.
    ///
    /// # Errors
    /// There is no such file to read, or it is too large.
    fn file(&self, place: &Place) -> Result<Vec<u8>, Unread> {
        let Place::Host(_) = place else { return Err(Unread::NoSource) };
        Err(Unread::Failed("no files can be read here".to_owned()))
    }
}

/// Names of nobody: every name is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn user(&self, _: &str) -> Option<(u32, u32)> {
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        None
    }
}
