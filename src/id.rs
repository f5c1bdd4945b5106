//! Ids typed by kind (user or group) and side (disk or view).
//!
//! The types are the wall that the whole file system stands behind: an id of
//! one side cannot be used as an id of the other, and the only way across is a
//! [`Translate`](crate::policy::Translate). Raw numbers enter and leave only
//! through [`Id::new`] and [`Id::raw`], which `id`, `sys`, `source/host` and
//! `fuse` call.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// What an id identifies: a user or a group.
pub trait Kind: sealed::Sealed + Copy + Eq + Hash + fmt::Debug + Send + Sync + 'static {
    /// The letter that names the kind in an extent: `u` or `g`.
    const LETTER: char;
    /// The word that names the kind in messages: `uid` or `gid`.
    const WORD: &'static str;
}

/// Where an id has its meaning: on disk or in the view.
pub trait Side: sealed::Sealed + Copy + fmt::Debug + Send + Sync + 'static {
    /// The word that names the side in messages: `disk` or `view`.
    const WORD: &'static str;
}

/// The kind of user ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {}

/// The kind of group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {}

/// The side of ids that the source stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disk {}

/// The side of ids that callers see and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {}

impl sealed::Sealed for User {}
impl sealed::Sealed for Group {}
impl sealed::Sealed for Disk {}
impl sealed::Sealed for View {}

impl Kind for User {
    const LETTER: char = 'u';
    const WORD: &'static str = "uid";
}

impl Kind for Group {
    const LETTER: char = 'g';
    const WORD: &'static str = "gid";
}

impl Side for Disk {
    const WORD: &'static str = "disk";
}

impl Side for View {
    const WORD: &'static str = "view";
}

/// The number that is no id at all: `(uid_t) -1`.
pub const NO_ID: u32 = u32::MAX;

/// A uid or gid of one side, in 0..=4294967294.
pub struct Id<K: Kind, S: Side> {
    raw: u32,
    of: PhantomData<(K, S)>,
}

impl<K: Kind, S: Side> Id<K, S> {
    /// Makes an id of a raw number; 4294967295 is no id and gives `None`.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == NO_ID { None } else { Some(Self { raw, of: PhantomData }) }
    }

    /// Returns the raw number, in 0..=4294967294.
    pub const fn raw(self) -> u32 {
        self.raw
    }

    /// Reports whether this is id 0, root of its side.
    pub const fn is_root(self) -> bool {
        self.raw == 0
    }

    /// Reads a plain decimal number; `None` for anything else.
    ///
    /// No sign, no leading zero, no other base, and not 4294967295.
    pub fn from_decimal(text: &str) -> Option<Self> {
        decimal(text).and_then(Self::new)
    }
}

/// Reads a plain decimal number of 32 bits: no sign, no leading zero.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

impl<K: Kind, S: Side> Clone for Id<K, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kind, S: Side> Copy for Id<K, S> {}

impl<K: Kind, S: Side> PartialEq for Id<K, S> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<K: Kind, S: Side> Eq for Id<K, S> {}

impl<K: Kind, S: Side> PartialOrd for Id<K, S> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Kind, S: Side> Ord for Id<K, S> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}

impl<K: Kind, S: Side> Hash for Id<K, S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}

impl<K: Kind, S: Side> fmt::Debug for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", S::WORD, K::WORD, self.raw)
    }
}

impl<K: Kind, S: Side> fmt::Display for Id<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raw)
    }
}

/// The owner of a file on one side; `None` where that side has no id for it.
///
/// On the view side `None` is *unmapped*: callers are shown the overflow id.
/// On the disk side it is an id that the server's own user namespace does not
/// map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner<S: Side> {
    /// The owning user.
    pub uid: Option<Id<User, S>>,
    /// The owning group.
    pub gid: Option<Id<Group, S>>,
}

/// A complete pair of ids of one side: what a new file is born with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ids<S: Side> {
    /// The user.
    pub uid: Id<User, S>,
    /// The group.
    pub gid: Id<Group, S>,
}

impl<S: Side> Ids<S> {
    /// Makes a pair of raw numbers; `None` where either is 4294967295.
    pub const fn new(uid: u32, gid: u32) -> Option<Self> {
        match (Id::new(uid), Id::new(gid)) {
            (Some(uid), Some(gid)) => Some(Self { uid, gid }),
            _ => None,
        }
    }
}

impl<S: Side> From<Ids<S>> for Owner<S> {
    fn from(ids: Ids<S>) -> Self {
        Self { uid: Some(ids.uid), gid: Some(ids.gid) }
    }
}

impl<S: Side> fmt::Display for Ids<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The process behind a request, in view ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The file system uid; `None` where the view has no id for the caller.
    pub uid: Option<Id<User, View>>,
    /// The file system gid; `None` where the view has no id for the caller.
    pub gid: Option<Id<Group, View>>,
    /// The thread id, in the process id namespace of the mount; 0 if unknown.
    pub pid: u32,
}

impl Caller {
    /// Reports whether it is root in the user namespace of the mount.
    pub fn is_root(&self) -> bool {
        self.uid.is_some_and(Id::is_root)
    }
}

/// A range of disk ids and the range of view ids of the same length that it
/// is shown as.
///
/// Neither range is empty or reaches 4294967295. Written `disk:view:count`,
/// after `u:` or `g:` for the kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent<K: Kind> {
    disk: Id<K, Disk>,
    view: Id<K, View>,
    count: u32,
}

/// Why three numbers are no extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadExtent {
    /// There are not three plain decimal numbers with colons between.
    Form,
    /// One of the numbers has more than 32 bits.
    Range,
    /// The count is 0.
    Empty,
    /// One of the ranges reaches 4294967295, which is no id, or wraps around.
    Wrap,
}

impl fmt::Display for BadExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "not disk:view:count in plain decimal numbers",
            Self::Range => "a number has more than 32 bits",
            Self::Empty => "the count is 0",
            Self::Wrap => "a range reaches 4294967295, which is no id, or wraps around",
        })
    }
}

impl<K: Kind> Extent<K> {
    /// The extent that shows every id as itself.
    pub const IDENTITY: Self = Self {
        disk: Id { raw: 0, of: PhantomData },
        view: Id { raw: 0, of: PhantomData },
        count: NO_ID,
    };

    /// Makes the extent of `count` ids from these on.
    ///
    /// # Errors
    /// `Empty` for a count of 0, `Wrap` where a range would hold 4294967295.
    pub const fn new(disk: Id<K, Disk>, view: Id<K, View>, count: u32) -> Result<Self, BadExtent> {
        if count == 0 {
            return Err(BadExtent::Empty);
        }
        // The id after the last one may be 4294967295, but no more than that.
        if disk.raw.checked_add(count).is_none() || view.raw.checked_add(count).is_none() {
            return Err(BadExtent::Wrap);
        }
        Ok(Self { disk, view, count })
    }

    /// Makes the extent that shows a single id.
    pub const fn single(disk: Id<K, Disk>, view: Id<K, View>) -> Self {
        Self { disk, view, count: 1 }
    }

    /// Makes the longest extent in which the view id is the disk id plus this.
    ///
    /// `None` where no id has a counterpart at that distance.
    pub fn offset(by: i64) -> Option<Self> {
        let distance = u32::try_from(by.unsigned_abs()).ok()?;
        let count = NO_ID.checked_sub(distance)?;
        let (disk, view) = if by < 0 { (distance, 0) } else { (0, distance) };
        Self::new(Id::new(disk)?, Id::new(view)?, count).ok()
    }

    /// Reads `disk:view:count` in plain decimal numbers, without a prefix.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, BadExtent> {
        let mut fields = text.split(':');
        let (Some(disk), Some(view), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(BadExtent::Form);
        };
        let number = |field: &str| {
            let digits = field.bytes().all(|b| b.is_ascii_digit());
            let plain = digits && !field.is_empty() && !field.starts_with('0');
            decimal(field).ok_or(if plain { BadExtent::Range } else { BadExtent::Form })
        };
        let (disk, view, count) = (number(disk)?, number(view)?, number(count)?);
        let disk = Id::new(disk).ok_or(BadExtent::Wrap)?;
        let view = Id::new(view).ok_or(BadExtent::Wrap)?;
        Self::new(disk, view, count)
    }

    /// Returns the first disk id.
    pub const fn disk(self) -> Id<K, Disk> {
        self.disk
    }

    /// Returns the first view id.
    pub const fn view(self) -> Id<K, View> {
        self.view
    }

    /// Returns the number of ids, at least 1.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Returns the view id that a disk id of this extent is shown as.
    pub const fn present(self, disk: Id<K, Disk>) -> Option<Id<K, View>> {
        match self.across(disk.raw, self.disk.raw, self.view.raw) {
            Some(raw) => Id::new(raw),
            None => None,
        }
    }

    /// Returns the disk id that a view id of this extent is stored as.
    pub const fn store(self, view: Id<K, View>) -> Option<Id<K, Disk>> {
        match self.across(view.raw, self.view.raw, self.disk.raw) {
            Some(raw) => Id::new(raw),
            None => None,
        }
    }

    /// Returns the one extent that is this one and another that follows at once
    /// on both sides.
    pub fn joined(self, next: Self) -> Option<Self> {
        let follows =
            |first: u32, after: u32| first.checked_add(self.count).is_some_and(|end| end == after);
        if !follows(self.disk.raw, next.disk.raw) || !follows(self.view.raw, next.view.raw) {
            return None;
        }
        Self::new(self.disk, self.view, self.count.checked_add(next.count)?).ok()
    }

    /// Moves a number from the range at `near` to the range at `far`.
    const fn across(self, raw: u32, near: u32, far: u32) -> Option<u32> {
        match raw.checked_sub(near) {
            Some(steps) if steps < self.count => far.checked_add(steps),
            Some(_) | None => None,
        }
    }
}

impl<K: Kind> fmt::Display for Extent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", K::LETTER, self.disk, self.view, self.count)
    }
}

impl<K: Kind> fmt::Debug for Extent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Disks = Id<User, Disk>;

    fn extent(text: &str) -> Result<Extent<User>, BadExtent> {
        Extent::parse(text)
    }

    #[test]
    fn ids_are_numbers_below_the_one_that_is_none() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("4294967294", Some(4_294_967_294)),
            ("4294967295", None),
            ("4294967296", None),
            ("99999999999999999999999", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("0x10", None),
            ("01", None),
            ("00", None),
            (" 1", None),
            ("1 ", None),
            ("1_000", None),
            ("\u{661}", None),
        ] {
            assert_eq!(Disks::from_decimal(text).map(Id::raw), wanted, "{text:?}");
        }
        assert!(Disks::new(NO_ID).is_none());
        assert!(Ids::<Disk>::new(0, NO_ID).is_none());
    }

    #[test]
    fn extents_are_read_or_refused_with_the_reason() {
        for (text, wanted) in [
            ("0:100000:65536", Ok("u:0:100000:65536")),
            ("0:0:4294967295", Ok("u:0:0:4294967295")),
            ("4294967294:0:1", Ok("u:4294967294:0:1")),
            ("4294967295:0:1", Err(BadExtent::Wrap)),
            ("0:4294967295:1", Err(BadExtent::Wrap)),
            ("4294967294:0:2", Err(BadExtent::Wrap)),
            ("0:4294967290:6", Err(BadExtent::Wrap)),
            ("0:1:4294967295", Err(BadExtent::Wrap)),
            ("0:0:4294967296", Err(BadExtent::Range)),
            ("0:0:0", Err(BadExtent::Empty)),
            ("0:0", Err(BadExtent::Form)),
            ("0:0:1:1", Err(BadExtent::Form)),
            ("0:0:+1", Err(BadExtent::Form)),
            ("0:0x1:1", Err(BadExtent::Form)),
            ("0:00:1", Err(BadExtent::Form)),
            ("", Err(BadExtent::Form)),
            ("::", Err(BadExtent::Form)),
        ] {
            assert_eq!(extent(text).map(|e| e.to_string()), wanted.map(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn an_extent_goes_both_ways_and_no_further() {
        let extent = extent("10:100:5").unwrap();
        for (disk, view) in [(9, None), (10, Some(100)), (14, Some(104)), (15, None), (100, None)] {
            let disk = Id::new(disk).unwrap();
            let seen = extent.present(disk);
            assert_eq!(seen.map(Id::raw), view);
            if let Some(seen) = seen {
                assert_eq!(extent.store(seen), Some(disk));
            }
        }
        assert_eq!(extent.store(Id::new(99).unwrap()), None);
        assert_eq!(extent.store(Id::new(105).unwrap()), None);
    }

    #[test]
    fn extents_that_touch_on_both_sides_are_one() {
        for (first, next, joined) in [
            ("0:100:5", "5:105:2", Some("u:0:100:7")),
            ("0:100:5", "5:106:2", None),
            ("0:100:5", "6:105:2", None),
            ("5:105:2", "0:100:5", None),
            ("0:0:4294967294", "4294967294:4294967294:1", Some("u:0:0:4294967295")),
        ] {
            let got = extent(first).unwrap().joined(extent(next).unwrap());
            assert_eq!(got.map(|e| e.to_string()).as_deref(), joined, "{first} {next}");
        }
    }

    #[test]
    fn the_identity_covers_every_id() {
        for raw in [0, 1, 65_534, NO_ID - 1] {
            let id = Id::new(raw).unwrap();
            assert_eq!(Extent::<Group>::IDENTITY.present(id).map(Id::raw), Some(raw));
        }
        assert_eq!(extent("0:0:4294967295"), Ok(Extent::IDENTITY));
    }

    #[test]
    fn offsets_are_the_longest_extents() {
        for (by, wanted) in [
            (0, Some("u:0:0:4294967295")),
            (100_000, Some("u:0:100000:4294867295")),
            (-100_000, Some("u:100000:0:4294867295")),
            (4_294_967_294, Some("u:0:4294967294:1")),
            (-4_294_967_294, Some("u:4294967294:0:1")),
            (4_294_967_295, None),
            (i64::MIN, None),
        ] {
            let extent = Extent::<User>::offset(by).map(|e| e.to_string());
            assert_eq!(extent.as_deref(), wanted, "{by}");
        }
    }
}
