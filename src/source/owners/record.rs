//! How a record is written: the text of `user.containers.override_stat`, and the
//! numbers of `user.virtfs.*`.
//!
//! The text is `UID:GID:MODE` or `UID:GID:MODE:TYPE`, as containers/storage writes
//! it (`FormatContainersOverrideXattrDevice` of pkg/idtools) and fuse-overlayfs
//! reads it (`override_mode`; versions before 1.14 do not look at the type). The mode
//! is octal; libkrun writes the bits of the file's type into it.

use std::fmt::Write as _;

use super::Record;
use crate::attr::{FileKind, Mode};
use crate::error::{Error, Result};
use crate::id::{Disk, Id, Ids, Kind};

impl Record {
    /// Reads the text of a record.
    ///
    /// # Errors
    /// `Internal` (`EIO`) for a text that makes no sense.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(text).map_err(|_| Error::Internal)?;
        // Written by hand, it may end in one of these.
        let mut parts = text.trim_end_matches(['\0', '\n']).split(':');
        let mut part = || parts.next().ok_or(Error::Internal);
        let (uid, gid, mode) = (part()?, part()?, part()?);
        let owner = Ids { uid: id(uid)?, gid: id(gid)? };
        let bits = octal(mode)?;
        let kind = match parts.next() {
            Some(word) => Some(kind(word)?),
            None => FileKind::from_mode(bits).map(|kind| (kind, 0)),
        };
        Ok(Self { owner, mode: Mode::new(bits), kind })
    }

    /// Writes a record as text.
    pub fn encode(&self) -> String {
        let Self { owner, mode, kind } = self;
        let mut text = format!("{}:{}:{:04o}", owner.uid.raw(), owner.gid.raw(), mode.bits());
        if let Some((kind, rdev)) = kind {
            let device = |word| format!("{word}-{}-{}", libc::major(*rdev), libc::minor(*rdev));
            let word = match kind {
                FileKind::Regular => "file".to_owned(),
                FileKind::Directory => "dir".to_owned(),
                FileKind::Symlink => "symlink".to_owned(),
                FileKind::Fifo => "pipe".to_owned(),
                FileKind::Socket => "socket".to_owned(),
                FileKind::CharDevice => device("char"),
                FileKind::BlockDevice => device("block"),
            };
            // Writing to a string does not fail.
            let _always = write!(text, ":{word}");
        }
        text
    }
}

fn id<K: Kind>(text: &str) -> Result<Id<K, Disk>> {
    Id::from_decimal(text).ok_or(Error::Internal)
}

fn octal(text: &str) -> Result<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let bits = if plain { u32::from_str_radix(text, 8).ok() } else { None };
    bits.filter(|bits| *bits <= 0o177_777).ok_or(Error::Internal)
}

/// Reads a type; what follows one that is known is for later versions of the
/// format.
fn kind(word: &str) -> Result<(FileKind, u64)> {
    let mut parts = word.split('-');
    let kind = match parts.next().unwrap_or_default() {
        "file" => FileKind::Regular,
        "dir" => FileKind::Directory,
        "symlink" => FileKind::Symlink,
        "pipe" => FileKind::Fifo,
        "socket" => FileKind::Socket,
        device @ ("char" | "block") => {
            let mut number = || -> Result<u32> {
                parts.next().and_then(|text| text.parse().ok()).ok_or(Error::Internal)
            };
            let rdev = libc::makedev(number()?, number()?);
            let char = device == "char";
            return Ok((if char { FileKind::CharDevice } else { FileKind::BlockDevice }, rdev));
        }
        _ => return Err(Error::Internal),
    };
    Ok((kind, 0))
}

/// What QEMU keeps of a file that it maps (`security_model=mapped-xattr`,
/// hw/9pfs/9p-local.c): little-endian numbers, each in an attribute of its own and
/// each there or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Virtfs {
    /// `user.virtfs.uid`.
    pub uid: Option<u32>,
    /// `user.virtfs.gid`.
    pub gid: Option<u32>,
    /// `user.virtfs.mode`, with the bits of the type.
    pub mode: Option<u32>,
    /// `user.virtfs.rdev`.
    pub rdev: Option<u64>,
}

impl Virtfs {
    /// Takes one of the numbers, by the name after `user.virtfs.`; others mean
    /// nothing.
    ///
    /// # Errors
    /// `Internal` (`EIO`) for a number of another size.
    pub fn take(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let word = || value.try_into().map(u32::from_le_bytes).map_err(|_| Error::Internal);
        match name {
            "uid" => self.uid = Some(word()?),
            "gid" => self.gid = Some(word()?),
            "mode" => self.mode = Some(word()?),
            "rdev" => {
                let rdev = value.try_into().map_err(|_| Error::Internal)?;
                self.rdev = Some(u64::from_le_bytes(rdev));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the record that the numbers are, with what the file has on disk for
    /// those that are missing; `None` if all are.
    ///
    /// # Errors
    /// `Internal` (`EIO`) for an id that there is none of.
    pub fn record(&self, owner: Ids<Disk>, mode: Mode) -> Result<Option<Record>> {
        if *self == Self::default() {
            return Ok(None);
        }
        let uid = self.uid.map_or(Some(owner.uid), Id::new).ok_or(Error::Internal)?;
        let gid = self.gid.map_or(Some(owner.gid), Id::new).ok_or(Error::Internal)?;
        let kind = self.mode.and_then(FileKind::from_mode);
        let kind = kind.map(|kind| (kind, self.rdev.unwrap_or(0)));
        let mode = self.mode.map_or(mode, Mode::new);
        Ok(Some(Record { owner: Ids { uid, gid }, mode, kind }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [(FileKind, &str); 5] = [
        (FileKind::Regular, "file"),
        (FileKind::Directory, "dir"),
        (FileKind::Symlink, "symlink"),
        (FileKind::Fifo, "pipe"),
        (FileKind::Socket, "socket"),
    ];

    fn record(uid: u32, gid: u32, mode: u32, kind: Option<(FileKind, u64)>) -> Record {
        Record { owner: Ids::new(uid, gid).unwrap(), mode: Mode::new(mode), kind }
    }

    /// The texts are those of containers/storage's own tests.
    #[test]
    fn texts_are_those_of_other_programs() {
        for (text, expected) in [
            ("1000:1011:0644:file", record(1000, 1011, 0o644, Some((FileKind::Regular, 0)))),
            ("1001:1012:0755:dir", record(1001, 1012, 0o755, Some((FileKind::Directory, 0)))),
            ("1002:1013:0777:symlink", record(1002, 1013, 0o777, Some((FileKind::Symlink, 0)))),
            ("1003:1014:0666:pipe", record(1003, 1014, 0o666, Some((FileKind::Fifo, 0)))),
            ("1004:1015:0700:socket", record(1004, 1015, 0o700, Some((FileKind::Socket, 0)))),
            (
                "1005:1016:0600:block-8-0",
                record(1005, 1016, 0o600, Some((FileKind::BlockDevice, libc::makedev(8, 0)))),
            ),
            (
                "1006:1017:0600:char-1-3",
                record(1006, 1017, 0o600, Some((FileKind::CharDevice, libc::makedev(1, 3)))),
            ),
            ("1012:1022:4755:file", record(1012, 1022, 0o4755, Some((FileKind::Regular, 0)))),
            ("0:0:0000", record(0, 0, 0, None)),
        ] {
            assert_eq!(Record::decode(text.as_bytes()), Ok(expected), "{text}");
            assert_eq!(expected.encode(), text);
        }
    }

    /// What others write and we do not: no leading zero (fuse-overlayfs), the bits of
    /// the type (libkrun), more fields, a number of a device that goes on.
    #[test]
    fn other_forms_are_read() {
        for (text, expected) in [
            ("0:0:555", record(0, 0, 0o555, None)),
            ("5:6:0100755", record(5, 6, 0o755, Some((FileKind::Regular, 0)))),
            ("5:6:040755", record(5, 6, 0o755, Some((FileKind::Directory, 0)))),
            ("5:6:0755:dir:more", record(5, 6, 0o755, Some((FileKind::Directory, 0)))),
            ("5:6:0755\n", record(5, 6, 0o755, None)),
            ("5:6:0755\0", record(5, 6, 0o755, None)),
            (
                "5:6:0600:char-1-3-7",
                record(5, 6, 0o600, Some((FileKind::CharDevice, libc::makedev(1, 3)))),
            ),
        ] {
            assert_eq!(Record::decode(text.as_bytes()), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_no_record() {
        for text in [
            "",
            "0",
            "0:0",
            "0:0:",
            "0:0:8",
            "0:0:-1",
            "0:0:0777777",
            "0:0:99999999999",
            "-1:0:0644",
            "4294967295:0:0644",
            "0:4294967295:0644",
            "0:4294967296:0644",
            "a:0:0644",
            " 0:0:0644",
            "0:0:0644:",
            "0:0:0644:door",
            "0:0:0644:char",
            "0:0:0644:char-1",
            "0:0:0644:char-1-x",
        ] {
            assert_eq!(Record::decode(text.as_bytes()), Err(Error::Internal), "{text}");
        }
        assert_eq!(Record::decode(b"0:0:0644\xff"), Err(Error::Internal));
    }

    #[test]
    fn numbers_of_qemu() {
        let own = Ids::new(7, 8).unwrap();
        let mut virtfs = Virtfs::default();
        assert_eq!(virtfs.record(own, Mode::new(0o600)), Ok(None));
        virtfs.take("uid", &[0xe8, 3, 0, 0]).unwrap();
        assert_eq!(
            virtfs.record(own, Mode::new(0o600)),
            Ok(Some(record(1000, 8, 0o600, None))),
            "the others are those on disk"
        );
        virtfs.take("gid", &[1, 0, 0, 0]).unwrap();
        virtfs.take("mode", &(libc::S_IFCHR | 0o620).to_le_bytes()).unwrap();
        virtfs.take("rdev", &libc::makedev(5, 1).to_le_bytes()).unwrap();
        let device = Some((FileKind::CharDevice, libc::makedev(5, 1)));
        assert_eq!(virtfs.record(own, Mode::new(0o600)), Ok(Some(record(1000, 1, 0o620, device))));
        assert_eq!(virtfs.take("uid", &[1, 2, 3]), Err(Error::Internal));
        virtfs.take("uid", &[0xff; 4]).unwrap();
        assert_eq!(virtfs.record(own, Mode::new(0)), Err(Error::Internal));
    }

    fn any_kind() -> impl Strategy<Value = Option<(FileKind, u64)>> {
        let plain = (0..KINDS.len()).prop_map(|at| Some((KINDS[at].0, 0)));
        // As many bits as a device number has.
        let device = (any::<bool>(), 0..4096_u32, 0..1_048_576_u32).prop_map(|(char, a, b)| {
            let kind = if char { FileKind::CharDevice } else { FileKind::BlockDevice };
            Some((kind, libc::makedev(a, b)))
        });
        prop_oneof![Just(None), plain, device]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            uid in 0..u32::MAX, gid in 0..u32::MAX, mode in 0..0o10000_u32, kind in any_kind(),
        ) {
            let record = record(uid, gid, mode, kind);
            prop_assert_eq!(Record::decode(record.encode().as_bytes()), Ok(record));
        }

        #[test]
        fn any_bytes_are_a_record_or_not(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(record) = Record::decode(&text) {
                prop_assert_eq!(Record::decode(record.encode().as_bytes()), Ok(record));
            }
        }

        #[test]
        fn texts_like_records(text in "[0-9]{1,11}:[0-9]{1,11}:[0-8]{1,7}(:[a-z]{3,7}(-[0-9]{1,9}){0,3})?") {
            if let Ok(record) = Record::decode(text.as_bytes()) {
                prop_assert_eq!(Record::decode(record.encode().as_bytes()), Ok(record));
            }
        }
    }
}
