//! What a directory above an image belongs to: what was written there has owners, and
//! stands for files, of one image as one policy shows it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::policy::Spec;
use crate::source::image::About;

/// The name of the file in the work directory that says so.
const NAME: &str = "idmapfs";

/// The most bytes that it has.
pub(super) const MOST: usize = 4096;

/// Returns what is written of an image and a policy: a line of each.
///
/// An image is known by its UUID, or else by its format and size.
pub(super) fn describe(about: &About, spec: &Spec) -> String {
    let About { format, uuid, used, .. } = about;
    let image = match uuid {
        Some(uuid) => uuid.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat(),
        None => format!("{used} bytes"),
    };
    format!("image={format} {image}\nids={}\n", spec.describe_owners())
}

/// Returns why what was written for one image and policy does not go with another.
pub(super) fn differs(there: &str, now: &str) -> Option<&'static str> {
    let [there, now] = [there, now].map(|text| text.split_once('\n').unwrap_or_default());
    if there.0 != now.0 {
        return Some("of another image");
    }
    (there.1 != now.1).then_some("with owners that another policy showed")
}

/// Reads what a directory belongs to, by its work directory; one in which there is nothing
/// belongs to nothing.
///
/// # Errors
/// As open(2), read(2).
pub(super) fn read(dir: &Path, work: &Path) -> io::Result<Option<String>> {
    let unused = match fs::read_dir(dir) {
        Ok(mut names) => names.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if unused {
        return Ok(None);
    }
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(work.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MOST as u64).read_to_end(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// Writes what a directory belongs to: as a whole, or not at all.
///
/// # Errors
/// As open(2), write(2), rename(2).
pub(super) fn write(work: &Path, text: &[u8]) -> io::Result<()> {
    let (new, name) = (work.join(format!("{NAME}.new")), work.join(NAME));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(&new)?.write_all(text)?;
    fs::rename(new, name)
}

/// Returns where that is written.
pub(super) fn file(work: &Path) -> PathBuf {
    work.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let is = "image=erofs 01\nids=map=0:1:2\n";
        for (there, want) in [
            (is, None),
            ("image=erofs 02\nids=map=0:1:2\n", Some("of another image")),
            ("image=erofs 01\nids=identity\n", Some("with owners that another policy showed")),
            ("", Some("of another image")),
        ] {
            assert_eq!(differs(there, is), want, "{there}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_where_there_are_files() {
        let parent = tempfile::tempdir().unwrap();
        let [dir, work] = ["a", "a.work"].map(|name| parent.path().join(name));
        fs::create_dir(&work).unwrap();
        write(&work, b"one\n").unwrap();
        write(&work, b"two\n").unwrap();
        assert_eq!(read(&dir, &work).unwrap(), None);
        fs::create_dir(&dir).unwrap();
        assert_eq!(read(&dir, &work).unwrap(), None);
        fs::write(dir.join("f"), "").unwrap();
        assert_eq!(read(&dir, &work).unwrap().as_deref(), Some("two\n"));
        fs::remove_file(file(&work)).unwrap();
        assert_eq!(read(&dir, &work).unwrap(), None);
    }
}
