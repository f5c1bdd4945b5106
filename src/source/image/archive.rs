//! Tar archives whose files are those of a container image in layers, not of one tree.

use std::path::Path;

/// The bytes that headers and contents in an archive are filled up to.
const BLOCK: u64 = 512;

/// How many members are looked at: layers are few, and their sizes are skipped.
const MEMBERS: usize = 1000;

/// What to do with layers.
const UNPACK: &str = "unpack it, for example with umoci unpack, and mount the directory, or make \
                      an image of that: idmapfs image build DIR OUT.erofs";

/// What to do with those that docker has its own way for.
const CONVERT: &str = "convert it, for example with skopeo copy docker-archive:FILE \
                       oci:LAYOUT:TAG, and unpack that with umoci unpack; or save a container \
                       instead of its image: docker export";

/// What to do with those that skopeo keeps as files.
const COPY: &str = "convert it, for example with skopeo copy dir:DIR oci:LAYOUT:TAG, and unpack \
                    that with umoci unpack";

/// What to do with files that are kept by what is in them.
const CHECK_OUT: &str = "check one of its trees out, with ostree checkout -U --repo=DIR REF OUT, and \
                         mount that, or make an image of it: idmapfs image build OUT OUT.erofs";

/// An OCI layout.
const OCI: (&str, &str) = ("an OCI image layout in a tar archive", UNPACK);

/// What docker saves.
const SAVED: (&str, &str) = ("an image that docker saved, in layers", CONVERT);

/// Returns what an archive of layers is, and what can be done with it; `None`: it is no
/// such archive.
///
/// `read` fills a buffer with what is at an offset, which grows from call to call, and says
/// whether it could.
pub fn of_layers(
    read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
) -> Option<(&'static str, &'static str)> {
    let (mut at, mut manifest, mut layers) = (0_u64, false, false);
    for _ in 0..MEMBERS {
        let mut header = [0; 512];
        if !read(at, &mut header) || header.get(257..262) != Some(b"ustar") {
            break;
        }
        let name = header.get(..100)?.split(|byte| *byte == 0).next()?;
        let name = name.strip_prefix(b"./").unwrap_or(name);
        match name {
            b"oci-layout" => return Some(OCI),
            b"manifest.json" => manifest = true,
            _ => layers |= name.ends_with(b".tar") || name.starts_with(b"blobs/"),
        }
        let size = number(header.get(124..136)?)?.checked_next_multiple_of(BLOCK)?;
        at = at.checked_add(BLOCK)?.checked_add(size)?;
    }
    (manifest && layers).then_some(SAVED)
}

/// Returns a number of a header: in octal digits, or where those have no room for it, in
/// binary behind a first bit that is set (base-256).
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, high @ .., a, b, c, d, e, f, g, h] = field {
        let is_small = high.iter().all(|byte| *byte == 0);
        return is_small.then(|| u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(|c| c == '\0' || c == ' ');
    u64::from_str_radix(digits, 8).ok()
}

/// Reports whether a file is a tar archive of the form that has no sign (v7): its first
/// header has the sum of its bytes, in which the field of the sum counts as spaces.
pub fn is_old_tar(read: &mut dyn FnMut(u64, &mut [u8]) -> bool) -> bool {
    let mut header = [0; 512];
    if !read(0, &mut header) {
        return false;
    }
    let (Some(before), Some(told), Some(after)) =
        (header.get(..148), header.get(148..156), header.get(156..))
    else {
        return false;
    };
    let bytes = before.iter().chain(after).map(|byte| u64::from(*byte));
    let sum = bytes.fold(8 * u64::from(b' '), u64::saturating_add);
    header.first() != Some(&0) && number(told) == Some(sum)
}

/// Returns what a directory of layers is, and what can be done with it.
pub fn in_directory(dir: &Path) -> Option<(&'static str, &'static str)> {
    if dir.join("oci-layout").is_file() {
        return Some(("an OCI image layout", UNPACK));
    }
    let begins = |name: &str, sign: &str| {
        let text = std::fs::read_to_string(dir.join(name));
        text.is_ok_and(|text| text.lines().any(|line| line.starts_with(sign)))
    };
    if begins("version", "Directory Transport Version") {
        return Some(("an image that skopeo copied, in layers", COPY));
    }
    if begins("config", "repo_version=") && dir.join("objects").is_dir() {
        return Some(("a repository of OSTree or flatpak", CHECK_OUT));
    }
    let manifest = || std::fs::read_to_string(dir.join("manifest.json"));
    manifest().is_ok_and(|text| text.contains("\"Layers\"")).then_some(SAVED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::source::image::{Device, Part};

    fn found(names: &[&str]) -> Option<&'static str> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = tar::Builder::new(file.as_file());
        for name in names {
            let mut header = tar::Header::new_ustar();
            header.set_size(700);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &[b'x'; 700][..]).unwrap();
        }
        archive.finish().unwrap();
        let device = Device::open(file.path(), Part::default()).unwrap();
        of_layers(&mut |at, buf| device.read(at, buf).is_ok()).map(|found| found.0)
    }

    #[test]
    fn a_layer_of_any_size_is_skipped() {
        const LONG: u64 = 9 << 30;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (at, name, size) in [(0, "blobs/sha256/1", LONG), (512 + LONG, "oci-layout", 0)] {
            let mut header = tar::Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_size(size);
            header.set_cksum();
            file.as_file().write_all_at(header.as_bytes(), at).unwrap();
        }
        let device = Device::open(file.path(), Part::default()).unwrap();
        let found = of_layers(&mut |at, buf| device.read(at, buf).is_ok());
        assert_eq!(found, Some(OCI));
        assert_eq!(number(b"0000017 \0"), Some(15));
        assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn an_archive_without_a_sign_is_told_by_its_sum() {
        let mut header = tar::Header::new_old();
        header.set_path("etc/passwd").unwrap();
        header.set_size(700);
        header.set_cksum();
        let mut bytes = *header.as_bytes();
        let is = |bytes: &[u8; 512]| {
            is_old_tar(&mut |_, buf: &mut [u8]| {
                buf.copy_from_slice(bytes);
                true
            })
        };
        assert!(is(&bytes));
        bytes[0] += 1;
        assert!(!is(&bytes) && !is(&[0; 512]) && !is_old_tar(&mut |_, _| false));
    }

    #[test]
    fn archives_of_layers_are_told_from_those_of_a_tree() {
        assert_eq!(found(&["blobs/sha256/1", "index.json", "oci-layout"]), Some(OCI.0));
        assert_eq!(found(&["manifest.json", "blobs/a", "oci-layout"]), Some(OCI.0));
        assert_eq!(found(&["1.json", "2/layer.tar", "manifest.json"]), Some(SAVED.0));
        for tree in [&["etc/passwd", "manifest.json"][..], &["a.tar", "b"], &["etc/oci-layout"]] {
            assert_eq!(found(tree), None, "{tree:?}");
        }
    }

    #[test]
    fn directories_that_are_no_tree_are_told_from_one() {
        let dir = tempfile::tempdir().unwrap();
        let found = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir_in(dir.path()).unwrap();
            for (name, text) in files {
                std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
                std::fs::write(dir.path().join(name), text).unwrap();
            }
            in_directory(dir.path())
        };
        let config = ("config", "[core]\nrepo_version=1\nmode=bare-user\n");
        let ostree = found(&[config, ("objects/ab/c.file", "")]).unwrap();
        assert!(ostree.0.contains("OSTree") && ostree.1.contains("ostree checkout"));
        let copied = found(&[("version", "Directory Transport Version: 1.1\n")]).unwrap();
        assert!(copied.0.contains("skopeo"));
        for tree in [&[config][..], &[("version", "1\n"), ("objects/a", "")], &[]] {
            assert_eq!(found(tree), None, "{tree:?}");
        }
    }
}
