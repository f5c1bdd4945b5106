//! Extended attributes that hold ids: they have calls of their own.

use std::ffi::OsStr;

use nix::errno::Errno;

use crate::acl::{AclKind, CAPABILITY_XATTR, Capability};
use crate::error::{Error, Result};
use crate::id::Disk;
use crate::sys::xattr::{self, Way};

/// Reads a file capability.
pub(super) fn capability(way: Way<'_>) -> Result<Option<Capability<Disk>>> {
    if_set(way, CAPABILITY_XATTR)?.map(|value| Capability::decode(&value)).transpose()
}

/// Reads an attribute; `None` if it is not set.
pub(super) fn if_set(way: Way<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    match xattr::get(way, OsStr::new(name)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Refuses attributes that hold ids: they have calls of their own.
pub(super) fn refuse_special(name: &OsStr) -> Result<()> {
    let special = [AclKind::Access.xattr(), AclKind::Default.xattr(), CAPABILITY_XATTR];
    if special.iter().any(|special| name == *special) { Err(Error::Unsupported) } else { Ok(()) }
}
