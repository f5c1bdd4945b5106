//! `idmapfs image build`: an image of a directory or a tar archive, made by the programs of
//! its format.
//!
//! They see owners that are kept beside the files through a private mount.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::super::fault::Fault;
use super::Build;
use crate::mount::{Owners, aside};
use crate::source::image::{Device, ImageError, Part, of_layers, read};
use crate::sys::id_map::IdMap;
use crate::text::{plain, shown};

/// The ids that an image is made with where the host's are not at hand.
const IDS: [&str; 4] = ["--map", "0:0:65536", "--as", "0:0"];

/// What archives are packed by, by the bytes that they begin with, and what unpacks them.
const PACKED: [(&[u8], &str); 4] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
];

/// A format that is made, and the program that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Erofs,
    Squashfs,
}

impl Format {
    fn of(image: &Path) -> Option<Self> {
        match image.extension().and_then(OsStr::to_str) {
            Some("erofs") => Some(Self::Erofs),
            Some("squashfs" | "sqfs") => Some(Self::Squashfs),
            Some(_) | None => None,
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Erofs => "mkfs.erofs",
            Self::Squashfs => "mksquashfs",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Erofs => "erofs-utils",
            Self::Squashfs => "squashfs-tools",
        }
    }

    /// Returns the words that make an image of a directory.
    fn of_directory(self, dir: &Path, to: &Path, more: &[OsString]) -> Vec<OsString> {
        let word = OsString::from;
        let mut words: Vec<OsString> = vec![word(self.program())];
        match self {
            Self::Erofs => {
                // Else 1.5 has the times of the last change of attributes.
                words.push(word("--preserve-mtime"));
                words.extend(more.iter().cloned());
                words.extend([to.into(), dir.into()]);
            }
            Self::Squashfs => {
                words.extend([dir.into(), to.into()]);
                words.extend(["-noappend", "-no-progress", "-quiet"].map(word));
                words.extend(more.iter().cloned());
            }
        }
        words
    }

    /// Returns the words that make an image of the tar archive on standard input.
    fn of_archive(self, to: &Path, more: &[OsString]) -> Vec<OsString> {
        let word = OsString::from;
        match self {
            Self::Erofs => {
                let mut words: Vec<OsString> = vec![word(self.program()), word("--tar=f")];
                words.extend(more.iter().cloned());
                words.extend([to.into(), word("/dev/stdin")]);
                words
            }
            Self::Squashfs => {
                let mut words = self.of_directory(Path::new("-"), to, more);
                words.push(word("-tar"));
                words
            }
        }
    }

    /// Reports whether the program that is there reads tar archives.
    fn reads_archives(self) -> bool {
        let help = || Command::new(self.program()).arg("--help").stdin(Stdio::null()).output();
        match self {
            Self::Squashfs => true,
            Self::Erofs => help().is_ok_and(|help| {
                let text = [help.stdout, help.stderr].concat();
                text.windows(5).any(|word| word == b"--tar")
            }),
        }
    }
}

/// What is removed unless it has become the image.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let gone =
            if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("{}: {error}", shown(&self.0));
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Makes an image; it is there as a whole, or not at all.
///
/// # Errors
/// Its format is not known, a program is missing, or has failed.
pub(super) fn build(build: &Build) -> Result<(), Fault> {
    let format = Format::of(&build.to).ok_or_else(|| {
        Fault::usage(format!("{}: no such format of images", shown(&build.to)))
            .hint("OUT.erofs or OUT.squashfs")
    })?;
    let from = build.from.canonicalize().map_err(|why| failed(&build.from, &why))?;
    let to = std::path::absolute(&build.to).map_err(|why| failed(&build.to, &why))?;
    let unfinished = beside(&to, ".tmp");
    // By this user, whoever the program runs as.
    let file = File::create_new(&unfinished).map_err(|why| taken(&unfinished, &why))?;
    let unfinished = Unfinished(unfinished);
    if from.is_dir() {
        let words = format.of_directory(&from, &unfinished.0, &build.more);
        run(format, directory(&from, &build.owners, words)?, None)?;
    } else if build.owners.is_native() {
        archive(format, &from, &unfinished.0, &build.more)?;
    } else {
        return Err(Fault::usage("option owners: an archive has owners of its own"));
    }
    file.sync_all().map_err(|why| failed(&unfinished.0, &why))?;
    look(&unfinished.0).map_err(|why| Fault::mount(format!("{}: {why}", format.program())))?;
    fs::rename(&unfinished.0, &to).map_err(|why| failed(&to, &why))
}

/// Checks that an image that was made can be read.
fn look(image: &Path) -> Result<(), String> {
    let failed = |error: ImageError| error.to_string();
    let device = Device::open(image, Part::default()).map_err(failed)?;
    aside(|| {
        let device = device.part(Part::default()).map_err(failed)?;
        read(&Arc::new(device)).map(|_| Vec::new()).map_err(failed)
    })
    .map(drop)
}

fn failed(path: &Path, why: &io::Error) -> Fault {
    Fault::mount(format!("{}: {}", shown(path), plain(why)))
}

/// Says why what an image grows in cannot be made.
fn taken(path: &Path, why: &io::Error) -> Fault {
    let fault = failed(path, why);
    if why.kind() == io::ErrorKind::AlreadyExists {
        fault.hint("another build makes it, or was killed: remove it then")
    } else {
        fault
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    path.with_file_name(name)
}

/// Returns the command that has a program see a directory with its owners.
fn directory(dir: &Path, owners: &Owners, words: Vec<OsString>) -> Result<Command, Fault> {
    let mut words = words.into_iter();
    let program = words.next().unwrap_or_default();
    if owners.is_native() {
        let mut command = Command::new(program);
        command.args(words);
        return Ok(command);
    }
    let mut command = itself()?;
    command.args(["run", "--ro", "--log=error", "--owners", owners.word()]);
    if let Owners::Db(Some(place)) = owners {
        command.arg("--owners-dir").arg(place);
    }
    // Others have no ids but those of a namespace that is made for it.
    if !IdMap::read("self", "uid").is_ok_and(|map| map.is_whole())
        || !nix::unistd::geteuid().is_root()
    {
        command.args(IDS);
    }
    command.arg(dir).arg("--").arg(program).args(words);
    Ok(command)
}

fn itself() -> Result<Command, Fault> {
    let program = std::env::current_exe();
    program.map(Command::new).map_err(|why| Fault::mount(format!("own program: {}", plain(&why))))
}

/// Makes an image of a tar archive.
fn archive(format: Format, from: &Path, to: &Path, more: &[OsString]) -> Result<(), Fault> {
    if let Some((what, way)) = unpacked_for(from, layers)? {
        return Err(Fault::usage(format!("{}: {what}", shown(from))).hint(way));
    }
    let (input, unpacking) = unpacked(from)?;
    let done = if format.reads_archives() {
        let words = format.of_archive(to, more);
        let done = run(format, directory(from, &Owners::Native, words)?, Some(input.into()));
        done.map_err(|fault| match (format, unpacked_for(from, first_early).ok().flatten()) {
            (Format::Squashfs, Some(member)) => Fault::mount(format!(
                "{}: {} has a time before 1970, which mksquashfs reads from no archive",
                shown(from),
                shown(&member)
            ))
            .hint(
                "make an erofs, which keeps it; or unpack it by idmapfs owners import --owners \
                 xattr, and build with --owners xattr: it becomes 1970",
            ),
            (Format::Squashfs | Format::Erofs, _) => fault,
        })
    } else {
        let tree = beside(to, ".d");
        let made = DirBuilder::new().mode(0o700).create(&tree);
        made.map_err(|why| taken(&tree, &why))?;
        // Not before it is ours: what was there stays.
        let tree = Unfinished(tree);
        let mut import = itself()?;
        import.args(["owners", "import", "--owners", "xattr", "--from", "-"]).arg(&tree.0);
        run(format, import, Some(input.into())).and_then(|()| {
            let words = format.of_directory(&tree.0, to, more);
            run(format, directory(&tree.0, &Owners::Xattr, words)?, None)
        })
    };
    if let Some((word, mut child)) = unpacking {
        let status =
            child.wait().map_err(|why| Fault::mount(format!("{word}: {}", plain(&why))))?;
        done?;
        return if status.success() {
            Ok(())
        } else {
            Err(Fault::mount(format!("{word}: {status}")))
        };
    }
    done
}

/// Looks into an archive.
fn unpacked_for<T>(archive: &Path, look: impl FnOnce(File) -> T) -> Result<T, Fault> {
    let (input, unpacking) = unpacked(archive)?;
    let found = look(File::from(input));
    // It may have had more to say than was read.
    if let Some((word, mut child)) = unpacking
        && let Err(error) = child.wait()
    {
        log::debug!("{word}: {error}");
    }
    Ok(found)
}

/// Returns what an archive is whose files are in layers, and what can be done with it.
fn layers(mut archive: File) -> Option<(&'static str, &'static str)> {
    let mut here = 0_u64;
    of_layers(&mut |at, buf| {
        let ahead = at.saturating_sub(here);
        // What comes from a program cannot be skipped.
        let there = archive.seek(SeekFrom::Start(at)).is_ok()
            || io::copy(&mut (&archive).take(ahead), &mut io::sink()).is_ok_and(|n| n == ahead);
        here = at.saturating_add(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        there && archive.read_exact(buf).is_ok()
    })
}

/// Returns a member of an archive whose time is before 1970, if there is one.
fn first_early(archive: impl Read) -> Option<PathBuf> {
    let mut archive = tar::Archive::new(archive);
    archive.entries().ok()?.map_while(Result::ok).find_map(|mut entry| {
        // A time below zero comes as a number above those of 63 bits.
        let below = entry.header().mtime().is_ok_and(|time| time > i64::MAX.unsigned_abs());
        let records = entry.pax_extensions().ok().flatten();
        let said =
            records.into_iter().flatten().flatten().any(|record| {
                record.key_bytes() == b"mtime" && record.value_bytes().starts_with(b"-")
            });
        if below || said { entry.path().ok().map(|path| path.into_owned()) } else { None }
    })
}

/// What unpacks an archive: its name, and the process.
type Unpacking = (&'static str, Child);

/// Opens an archive; returns what unpacks it, too.
fn unpacked(archive: &Path) -> Result<(OwnedFd, Option<Unpacking>), Fault> {
    let mut start = Vec::new();
    let open = || File::open(archive).map_err(|why| failed(archive, &why));
    open()?.take(8).read_to_end(&mut start).map_err(|why| failed(archive, &why))?;
    let Some((_, word)) = PACKED.iter().find(|(sign, _)| start.starts_with(sign)) else {
        return Ok((open()?.into(), None));
    };
    let broken = |why: io::Error| Fault::mount(format!("{word}: {}", plain(&why)));
    let (output, input) = io::pipe().map_err(broken)?;
    let child = Command::new(word).arg("-dc").stdin(open()?).stdout(input).spawn();
    Ok((output.into(), Some((word, child.map_err(broken)?))))
}

/// Runs a program to its end.
fn run(format: Format, mut command: Command, input: Option<Stdio>) -> Result<(), Fault> {
    let program = format.program();
    let status = command.stdin(input.unwrap_or_else(Stdio::null)).status().map_err(|why| {
        let fault = Fault::mount(format!("{program}: {}", plain(&why)));
        let missing = why.kind() == io::ErrorKind::NotFound;
        if missing { fault.hint(format!("it is in {}", format.package())) } else { fault }
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::mount(format!("{program}: {status}; no image was made"))
        .hint(format!("it has said why, or is missing: it is in {}", format.package())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_from_before_1970_is_found() {
        let named = |time: Option<&str>, header_time: u64| {
            let mut archive = tar::Builder::new(Vec::new());
            for (name, early) in [("new", false), ("old", true)] {
                let mut header = tar::Header::new_gnu();
                header.set_size(1);
                header.set_mtime(if early { header_time } else { 5 });
                if let Some(time) = time.filter(|_| early) {
                    archive.append_pax_extensions([("mtime", time.as_bytes())]).unwrap();
                }
                archive.append_data(&mut header, name, &b"x"[..]).unwrap();
            }
            first_early(archive.into_inner().unwrap().as_slice())
        };
        assert_eq!(named(None, 7), None);
        assert_eq!(named(Some("1.5"), 7), None);
        assert_eq!(named(Some("-1.5"), 7), Some("old".into()));
        assert_eq!(named(None, u64::MAX - 5), Some("old".into()));
    }
}
