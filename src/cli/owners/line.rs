//! A record as a line of JSON.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attr::{FileKind, Mode};
use crate::id::Ids;
use crate::source::owners::Record;
use crate::text::{coded, decoded};

/// The words for kinds of files.
const KINDS: [(&str, FileKind); 7] = [
    ("file", FileKind::Regular),
    ("dir", FileKind::Directory),
    ("symlink", FileKind::Symlink),
    ("fifo", FileKind::Fifo),
    ("socket", FileKind::Socket),
    ("char", FileKind::CharDevice),
    ("block", FileKind::BlockDevice),
];

/// What is recorded of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// Its path below the directory; bytes that are not UTF-8, and backslashes, are
    /// `\xNN`.
    path: String,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    /// Permission bits, in octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// What it is, if that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    /// Attributes that are kept with the record, in hexadecimal digits; names are
    /// written as paths are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
}

impl Line {
    pub(super) fn new(
        path: &Path,
        record: Option<&Record>,
        attributes: &[(OsString, Vec<u8>)],
    ) -> Self {
        let kind = record.and_then(|record| record.kind);
        let word = |kind| KINDS.iter().find(|(_, known)| *known == kind).map(|(word, _)| *word);
        let device =
            kind.filter(|(kind, _)| matches!(kind, FileKind::CharDevice | FileKind::BlockDevice));
        Self {
            path: coded(super::named(path)),
            uid: record.map(|record| record.owner.uid.raw()),
            gid: record.map(|record| record.owner.gid.raw()),
            mode: record.map(|record| format!("{:04o}", record.mode.bits())),
            kind: kind.and_then(|(kind, _)| word(kind)).map(str::to_owned),
            device: device.map(|(_, rdev)| (libc::major(rdev), libc::minor(rdev))),
            attributes: attributes.iter().map(|(name, value)| (coded(name), hex(value))).collect(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        decoded(&self.path).into()
    }

    /// Returns the record, `None` if there are attributes only.
    pub(super) fn record(&self) -> Result<Option<Record>, &'static str> {
        let (uid, gid, mode) = match (self.uid, self.gid, &self.mode) {
            (Some(uid), Some(gid), Some(mode)) => (uid, gid, mode),
            (None, None, None) if self.kind.is_none() => return Ok(None),
            _ => return Err("uid, gid and mode belong together"),
        };
        let owner = Ids::new(uid, gid).ok_or("4294967295 is no id")?;
        let bits = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777);
        let mode = Mode::new(bits.ok_or("mode is not four octal digits")?);
        let kind = match &self.kind {
            None => None,
            Some(word) => {
                let kind = KINDS.iter().find(|(known, _)| known == word);
                let (_, kind) = *kind.ok_or("no such kind of file")?;
                let (major, minor) = self.device.unwrap_or_default();
                Some((kind, libc::makedev(major, minor)))
            }
        };
        Ok(Some(Record { owner, mode, kind }))
    }

    /// Returns the attributes.
    pub(super) fn attributes(&self) -> Result<Vec<(OsString, Vec<u8>)>, &'static str> {
        let pairs = self.attributes.iter().map(|(name, value)| {
            let value = unhex(value).ok_or("an attribute is not in hexadecimal digits")?;
            Ok((decoded(name), value))
        });
        pairs.collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| {
        let plain = pair.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(pair).ok().filter(|_| plain)?;
        u8::from_str_radix(text, 16).ok()
    };
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn lines_come_back() {
        let path = Path::new(OsStr::from_bytes(b"a\xff/\\b\n"));
        let record = Record {
            owner: Ids::new(0, 7).unwrap(),
            mode: Mode::new(0o4755),
            kind: Some((FileKind::CharDevice, libc::makedev(1, 3))),
        };
        let attributes = [(OsString::from("security.x"), vec![0, 255, 16])];
        for record in [Some(record), Some(Record { kind: None, ..record }), None] {
            let line = Line::new(path, record.as_ref(), &attributes);
            let text = serde_json::to_string(&line).unwrap();
            let again: Line = serde_json::from_str(&text).unwrap();
            assert_eq!(again, line, "{text}");
            assert_eq!(again.path(), path);
            assert_eq!(again.record(), Ok(record));
            assert_eq!(again.attributes().unwrap(), attributes);
        }
    }

    #[test]
    fn lines_without_sense_are_refused() {
        for text in [
            r#"{"path":"a","uid":1,"gid":1}"#,
            r#"{"path":"a","uid":4294967295,"gid":1,"mode":"0644"}"#,
            r#"{"path":"a","uid":1,"gid":1,"mode":"644x"}"#,
            r#"{"path":"a","uid":1,"gid":1,"mode":"17777"}"#,
            r#"{"path":"a","uid":1,"gid":1,"mode":"0644","kind":"pipe"}"#,
            r#"{"path":"a","kind":"fifo"}"#,
        ] {
            let line: Line = serde_json::from_str(text).unwrap();
            assert!(line.record().is_err(), "{text}");
        }
        for digits in ["0", "0g", "+1", "0x"] {
            assert_eq!(unhex(digits), None, "{digits}");
        }
        assert!(serde_json::from_str::<Line>(r#"{"path":"a","owner":1}"#).is_err());
    }
}
