//! What the kernel may believe, and for how long.

use std::time::Duration;

/// How long the kernel may believe what is heard of as soon as it changes. Not for
/// ever: stores of the host to shared mappings, and times of access, are not
/// heard of.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// How long it may believe what is not heard of.
pub const SHORT: Duration = Duration::from_secs(1);

/// What the kernel may believe, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All, for this long.
    For(Duration),
    /// What the watch of the source hears of, until it does; for a moment what
    /// it does not.
    Watch,
}

/// How long the kernel may believe an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// The attributes.
    pub attributes: Duration,
    /// That the name leads to this file.
    pub names: Duration,
}

impl Ttl {
    /// Returns the smaller of both, for replies that have one time only.
    pub fn both(self) -> Duration {
        self.attributes.min(self.names)
    }
}
