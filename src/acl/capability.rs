//! The binary form of file capabilities: `security.capability`.
//!
//! Layout (linux/capability.h), all little-endian u32: a word of the revision
//! (high byte) and flags, then permitted and inheritable bits 0..=31, then
//! permitted and inheritable bits 32..=63, then in revision 3 the root id.

use crate::error::{Error, Result};
use crate::id::{Id, NO_ID, Side, User};

/// The name of the extended attribute that carries a file capability.
pub const CAPABILITY_XATTR: &str = "security.capability";

const EFFECTIVE: u32 = 1;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// A file capability (`security.capability`) with a root id of one side.
///
/// Revision 2 is a capability whose root id is 0. Revision 3 with that root id
/// means the same; the kernel writes it on an idmapped mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability<S: Side> {
    /// The root of the user namespaces in which it counts; `None`: unmapped.
    pub rootid: Option<Id<User, S>>,
    /// Whether the permitted set is also effective at exec.
    pub effective: bool,
    /// The permitted set, one bit a capability.
    pub permitted: u64,
    /// The inheritable set, one bit a capability.
    pub inheritable: u64,
    /// Whether a root id of 0 is written; no other can be left out.
    pub names_root: bool,
}

impl<S: Side> Capability<S> {
    /// Reads the value of the extended attribute.
    ///
    /// # Errors
    /// `Invalid` (`EINVAL`) for what getxattr(2) and setxattr(2) refuse
    /// (security/commoncap.c, `is_v2header` and `is_v3header`): another
    /// revision, revision 1 included, an unknown flag, a wrong length.
    pub fn decode(value: &[u8]) -> Result<Self> {
        let (words, []) = value.as_chunks() else {
            return Err(Error::Invalid);
        };
        let mut words = words.iter().map(|&word| u32::from_le_bytes(word));
        let mut next = || words.next().ok_or(Error::Invalid);
        let magic = next()?;
        let [low_permitted, low_inheritable] = [next()?, next()?];
        let [high_permitted, high_inheritable] = [next()?, next()?];
        let rootid = match magic & !EFFECTIVE {
            REVISION_2 => 0,
            REVISION_3 => next()?,
            _ => return Err(Error::Invalid),
        };
        if words.next().is_some() {
            return Err(Error::Invalid);
        }
        Ok(Self {
            rootid: Id::new(rootid),
            effective: magic & EFFECTIVE != 0,
            permitted: join(low_permitted, high_permitted),
            inheritable: join(low_inheritable, high_inheritable),
            names_root: rootid == 0 && magic & !EFFECTIVE == REVISION_3,
        })
    }

    /// Returns the value of the extended attribute: revision 2 where the root
    /// id is 0 and need not be named, else revision 3.
    ///
    /// An unmapped root id is written as 4294967295. The kernel takes that
    /// from a file system for what it is: getxattr(2) is `EOVERFLOW`, and
    /// exec goes on without the capability, as on an idmapped mount. (An error
    /// instead of a value would make exec itself fail.)
    pub fn encode(&self) -> Vec<u8> {
        let rootid = self.rootid.map_or(NO_ID, Id::raw);
        let revision = if rootid == 0 && !self.names_root { REVISION_2 } else { REVISION_3 };
        let magic = revision | if self.effective { EFFECTIVE } else { 0 };
        let [low_permitted, high_permitted] = split(self.permitted);
        let [low_inheritable, high_inheritable] = split(self.inheritable);
        let mut value = magic.to_le_bytes().to_vec();
        for word in [low_permitted, low_inheritable, high_permitted, high_inheritable] {
            value.extend(word);
        }
        if revision == REVISION_3 {
            value.extend(rootid.to_le_bytes());
        }
        value
    }
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// Returns the encoding of bits 0..=31 and of bits 32..=63.
fn split(bits: u64) -> [[u8; 4]; 2] {
    let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
    [[a, b, c, d], [e, f, g, h]]
}
