//! Whether the times of a file tell that it has changed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::attr::{Attr, Time};
use crate::id::Disk;

/// For how long a file may change twice at one time of its file system.
const TICK: Duration = Duration::from_millis(20);
/// The same where times are of whole seconds, or of two.
const SLOW_TICK: Duration = Duration::from_secs(3);

/// Reports whether a change now would move the times of a file: only then do the same
/// times, later, say that it has not changed since.
pub fn is_settled(attr: &Attr<Disk>) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let whole = attr.mtime.nsec == 0 && attr.ctime.nsec == 0;
    let Some(then) = now.checked_sub(if whole { SLOW_TICK } else { TICK }) else { return false };
    let then = Time { sec: i64::try_from(then.as_secs()).unwrap_or(0), nsec: then.subsec_nanos() };
    attr.mtime < then && attr.ctime < then
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::attr::{FileKind, Mode};
    use crate::id::{Id, Owner};

    /// Attributes of a file that changed so long ago, at these nanoseconds if it matters.
    pub fn attr(ago: Duration, nsec: Option<u32>) -> Attr<Disk> {
        let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - ago;
        let nsec = nsec.unwrap_or(then.subsec_nanos());
        let time = Time { sec: i64::try_from(then.as_secs()).unwrap(), nsec };
        Attr {
            ino: 2,
            kind: FileKind::Regular,
            mode: Mode::new(0o644),
            nlink: 1,
            owner: Owner { uid: Id::new(0), gid: Id::new(0) },
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
            locked: false,
            encrypted: false,
        }
    }

    #[test]
    fn coarse_times_settle_late() {
        let fine = |ago| is_settled(&attr(Duration::from_millis(ago), None));
        let whole = |ago| is_settled(&attr(Duration::from_millis(ago), Some(0)));
        assert!(!fine(1) && fine(1000));
        assert!(!whole(1000) && whole(4000));
    }
}
