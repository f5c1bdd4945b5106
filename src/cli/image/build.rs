//! `idmapfs image build`: an image of a directory or a tar archive, made by the programs of
//! its format.
//!
//! They see owners that are kept beside the files through a private mount.

mod members;

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{
    self, BufRead as _, BufReader, IsTerminal as _, Read, Seek as _, SeekFrom, Write as _,
};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use self::members::{Members, Root, members, with_root};
use super::super::fault::Fault;
use super::super::owners::survey::{Survey, survey};
use super::super::owners::{Action, Kind, Owners as Records, named, warn};
use super::Build;
use crate::mount::{Owners, aside};
use crate::source::image::{
    Device, ImageError, Part, START, in_directory, of_layers, packed, probe, read,
};
use crate::sys::id_map::IdMap;
use crate::text::{plain, shown};

/// The ids that an image is made with where the host's are not at hand.
const IDS: [&str; 4] = ["--map", "0:0:65536", "--as", "0:0"];

/// The last of these ids.
const LAST: u32 = 65535;

/// How records are read from an archive.
const IMPORT: &str = "idmapfs owners import";

/// How they are written to one.
const EXPORT: &str = "idmapfs owners export";

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
                // Else what cannot be read is empty in the image, or not there.
                words.extend(["-noappend", "-no-progress", "-quiet", "-exit-on-error"].map(word));
                words.extend(more.iter().cloned());
            }
        }
        words
    }

    /// Returns the words that make an image of the tar archive on standard input.
    ///
    /// `root` is what its root directory is to be where the program does not read that.
    fn of_archive(self, to: &Path, root: Root, more: &[OsString]) -> Vec<OsString> {
        let word = |text: &str| OsString::from(text);
        match self {
            Self::Erofs => {
                let mut words: Vec<OsString> = vec![word(self.program()), word("--tar=f")];
                words.extend(more.iter().cloned());
                words.extend([to.into(), word("/dev/stdin")]);
                words
            }
            Self::Squashfs => {
                let mut words = self.of_directory(Path::new("-"), to, &[]);
                words.push(word("-tar"));
                if self.knows("-root-uid") {
                    let Root { uid, gid, mode } = root;
                    let mode = format!("{mode:o}");
                    let (uid, gid) = (uid.to_string(), gid.to_string());
                    let options = [("-root-mode", mode), ("-root-uid", uid), ("-root-gid", gid)];
                    for (option, value) in options {
                        words.extend([word(option), word(&value)]);
                    }
                }
                words.extend(more.iter().cloned());
                words
            }
        }
    }

    /// Reports whether the program that is there reads tar archives.
    fn reads_archives(self) -> bool {
        match self {
            Self::Squashfs => true,
            Self::Erofs => self.knows("--tar"),
        }
    }

    /// Reports whether the program that is there has an option.
    fn knows(self, option: &str) -> bool {
        let help = match self {
            Self::Squashfs => "-help",
            Self::Erofs => "--help",
        };
        let help = Command::new(self.program()).arg(help).stdin(Stdio::null()).output();
        help.is_ok_and(|help| {
            let text = [help.stdout, help.stderr].concat();
            text.windows(option.len()).any(|word| word == option.as_bytes())
        })
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
    refused(&from, &to)?;
    let unfinished = beside(&to, ".tmp");
    // By this user, whoever the program runs as.
    let file = File::create_new(&unfinished).map_err(|why| taken(&unfinished, &why))?;
    let unfinished = Unfinished(unfinished);
    if from.is_dir() {
        tree(format, &from, &unfinished.0, build)?;
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

/// Refuses a directory that no image is made of, or not there.
fn refused(from: &Path, to: &Path) -> Result<(), Fault> {
    if !from.is_dir() {
        return Ok(());
    }
    if let Some((what, way)) = in_directory(from) {
        return Err(Fault::usage(format!("{}: {what}", shown(from))).hint(way));
    }
    let into = to.parent().and_then(|dir| dir.canonicalize().ok());
    if into.is_some_and(|into| into.starts_with(from)) {
        let line = format!("{}: is in {}, and would be in the image", shown(to), shown(from));
        return Err(Fault::usage(line).hint("name an image outside of the directory"));
    }
    Ok(())
}

/// Makes an image of a directory.
fn tree(format: Format, from: &Path, to: &Path, build: &Build) -> Result<(), Fault> {
    let (owners, more) = (&build.owners, build.more.as_slice());
    let records = match owners {
        Owners::Native => None,
        Owners::Xattr => Some((Kind::Xattr, None)),
        Owners::Db(place) => Some((Kind::Db, place.clone())),
    };
    let records = records.map(|(kind, database)| {
        let (action, dir) = (Action::Export(Some("-".into())), from.to_owned());
        Records { action, dir, kind, database }
    });
    let limited = records.is_some() && !has_all_ids();
    let known = if limited || format == Format::Squashfs {
        survey(from, records.as_ref(), LAST)?
    } else {
        Survey::default()
    };
    if let Some(file) = known.acl.filter(|_| format == Format::Squashfs) {
        without_acls(&file);
    }
    let Some((file, id)) = known.above.filter(|_| limited) else {
        let words = format.of_directory(from, to, more);
        return run(format.program(), Some(format), directory(from, owners, words)?, None);
    };
    if !format.reads_archives() {
        let line = format!(
            "{}: {} has the id {id}, and ids end at {LAST} here",
            shown(&build.from),
            shown(named(&file))
        );
        return Err(Fault::usage(line).hint(
            "make a squashfs, or as root of the host; mkfs.erofs does it where it reads archives \
             (--tar, erofs-utils 1.7)",
        ));
    }
    // An archive takes no namespace that has the ids.
    let mut export = itself()?;
    export.args(["owners", "export", "--tar", "-", "--owners", owners.word()]);
    if let Owners::Db(Some(place)) = owners {
        export.arg("--owners-dir").arg(place);
    }
    let broken = |why: io::Error| Fault::mount(format!("{EXPORT}: {}", plain(&why)));
    let (output, input) = io::pipe().map_err(broken)?;
    let child = export.arg(from).stdin(Stdio::null()).stdout(input).spawn().map_err(broken)?;
    // It holds the end that is written to.
    drop(export);
    let (uid, gid, mode) = known.root;
    let root = Root { uid: uid.into(), gid: gid.into(), mode: mode.into() };
    let command = of_archive(format, to, root, more);
    let done = run(format.program(), Some(format), command, Some(OwnedFd::from(output).into()));
    ended(Some((EXPORT, child)), done)
}

/// Reports whether this process may show every id there is.
fn has_all_ids() -> bool {
    IdMap::read("self", "uid").is_ok_and(|map| map.is_whole()) && nix::unistd::geteuid().is_root()
}

/// Says that a squashfs will be without ACLs.
fn without_acls(file: &Path) {
    warn(&format!(
        "{} has an ACL, and mksquashfs keeps none: the image is without; an erofs has them",
        shown(named(file))
    ));
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
    if !has_all_ids() {
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
    let Some(known) = unpacked_for(from, members)? else { return Err(no_archive(from)) };
    if let Some(file) = known.acl.as_ref().filter(|_| format == Format::Squashfs) {
        without_acls(file);
    }
    let (mut input, unpacking) = unpacked(from)?;
    // mksquashfs takes the first of two members with one path, tar the last.
    let first = format == Format::Squashfs && known.twice.is_some();
    let direct = format.reads_archives() && !first;
    if known.root.is_none() && !(direct && format == Format::Squashfs) {
        input = with_root(input).map_err(|why| failed(from, &why))?;
    }
    let done = if direct {
        let command = of_archive(format, to, known.root.unwrap_or(Root::USUAL), more);
        let done = run(format.program(), Some(format), command, Some(input.into()));
        done.map_err(|fault| early(format, from, &known).unwrap_or(fault))
    } else {
        by_directory(format, (from, input), to, more)
    };
    ended(unpacking, done)
}

/// Returns the command that makes an image of the tar archive on standard input.
fn of_archive(format: Format, to: &Path, root: Root, more: &[OsString]) -> Command {
    let mut words = format.of_archive(to, root, more).into_iter();
    let program = words.next().unwrap_or_default();
    let own = (nix::unistd::getuid().as_raw().into(), nix::unistd::getgid().as_raw().into());
    let mut command;
    if format == Format::Squashfs && (root.uid, root.gid) != own {
        // 4.5 gives the root directory to who runs it, whatever the options say.
        command = Command::new("unshare");
        command.arg("--user");
        command.args([format!("--map-user={}", root.uid), format!("--map-group={}", root.gid)]);
        command.arg("--").arg(program);
    } else {
        command = Command::new(program);
    }
    command.args(words);
    command
}

/// Makes an image of what an archive is unpacked to, as which it comes in.
fn by_directory(
    format: Format,
    (from, input): (&Path, OwnedFd),
    to: &Path,
    more: &[OsString],
) -> Result<(), Fault> {
    let dir = beside(to, ".d");
    DirBuilder::new().mode(0o700).create(&dir).map_err(|why| taken(&dir, &why))?;
    // Not before it is ours: what was there stays.
    let dir = Unfinished(dir);
    let mut import = itself()?;
    import.args(["owners", "import", "--owners", "xattr", "--from", "-"]).arg(&dir.0);
    run(IMPORT, None, import, Some(input.into()))?;
    let (from, to) = (from.to_owned(), to.to_owned());
    let build = Build { from, to, owners: Owners::Xattr, more: more.to_vec() };
    tree(format, &dir.0, &build.to, &build)
}

/// Says that a time is why mksquashfs has failed, if it is.
fn early(format: Format, from: &Path, known: &Members) -> Option<Fault> {
    let member = known.early.as_ref().filter(|_| format == Format::Squashfs)?;
    let line = format!(
        "{}: {} has a time before 1970, which mksquashfs reads from no archive",
        shown(from),
        shown(member)
    );
    Some(Fault::mount(line).hint(
        "make an erofs, which keeps it; or unpack it by idmapfs owners import --owners xattr, and \
         build with --owners xattr: it becomes 1970",
    ))
}

/// Waits for what an archive came from.
fn ended(from: Option<Unpacking>, done: Result<(), Fault>) -> Result<(), Fault> {
    let Some((word, mut child)) = from else { return done };
    let status = child.wait().map_err(|why| Fault::mount(format!("{word}: {}", plain(&why))))?;
    done?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::mount(format!("{word}: {status}; no image was made")))
}

/// Says what a file is that is no archive.
fn no_archive(file: &Path) -> Fault {
    let packed = packed_by(file).ok().flatten();
    if let Some(word) = packed {
        let line = format!("{}: what {word} unpacks of it is no tar archive", shown(file));
        return Fault::usage(line).hint("image build takes a directory or a tar archive");
    }
    let said = |error: ImageError| error.to_string();
    let looks = Device::open(file, Part::default()).map_err(said).and_then(|device| {
        aside(|| {
            let device = device.part(Part::default()).map_err(said)?;
            probe(&device).map(|_| Vec::new()).map_err(said)
        })
    });
    match looks {
        Ok(_) => Fault::usage(format!("{}: is an image, not a tar archive", shown(file)))
            .hint("idmapfs mounts it as it is"),
        Err(why) => Fault::usage(format!("not a tar archive: {why}")),
    }
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

/// What unpacks an archive: its name, and the process.
type Unpacking = (&'static str, Child);

/// Returns what unpacks an archive, by how it begins.
fn packed_by(archive: &Path) -> Result<Option<&'static str>, Fault> {
    let mut start = Vec::with_capacity(START);
    let limit = START.try_into().unwrap_or(u64::MAX);
    let read = File::open(archive).and_then(|file| file.take(limit).read_to_end(&mut start));
    read.map_err(|why| failed(archive, &why))?;
    Ok(packed(&start).map(|packed| packed.program))
}

/// Opens an archive; returns what unpacks it, too.
fn unpacked(archive: &Path) -> Result<(OwnedFd, Option<Unpacking>), Fault> {
    let packed = packed_by(archive)?;
    let file = File::open(archive).map_err(|why| failed(archive, &why))?;
    let Some(word) = packed else { return Ok((file.into(), None)) };
    let broken = |why: io::Error| Fault::mount(format!("{word}: {}", plain(&why)));
    let (output, input) = io::pipe().map_err(broken)?;
    let child = Command::new(word).arg("-dc").stdin(file).stdout(input).spawn();
    Ok((output.into(), Some((word, child.map_err(broken)?))))
}

/// What mksquashfs says of the root directory in an archive, which it is given by options.
const OF_ROOT: &[u8] = b"Empty tar filename after skipping leading /, ./, or ../, ignoring\n";

/// Passes on what mksquashfs says of an archive until it ends, but for what is no loss.
fn pass_on(said: ChildStderr) -> io::Result<()> {
    let (mut said, mut line) = (BufReader::new(said), Vec::new());
    while said.read_until(b'\n', &mut line)? > 0 {
        if line != OF_ROOT {
            // Who does not listen has an image all the same.
            let (Ok(()) | Err(_)) = io::stderr().write_all(&line);
        }
        line.clear();
    }
    Ok(())
}

/// Runs a program to its end: of a format, or one of our own.
fn run(
    program: &str,
    format: Option<Format>,
    mut command: Command,
    input: Option<Stdio>,
) -> Result<(), Fault> {
    // The progress of mkfs.erofs; what it has to say goes to standard error.
    if format == Some(Format::Erofs) && !io::stdout().is_terminal() {
        command.stdout(Stdio::null());
    }
    let is_archive = input.is_some();
    if format == Some(Format::Squashfs) && is_archive {
        command.stderr(Stdio::piped());
    }
    let child = command.stdin(input.unwrap_or_else(Stdio::null)).spawn();
    let ended = child.and_then(|mut child| {
        child.stderr.take().map_or(Ok(()), pass_on)?;
        child.wait()
    });
    let status = ended.map_err(|why| {
        let fault = Fault::mount(format!("{program}: {}", plain(&why)));
        let missing = format.filter(|_| why.kind() == io::ErrorKind::NotFound);
        missing.map_or(fault.clone(), |format| fault.hint(format!("it is in {}", format.package())))
    })?;
    if status.success() {
        return Ok(());
    }
    let fault = Fault::mount(format!("{program}: {status}; no image was made"));
    Err(match format {
        Some(format) => {
            fault.hint(format!("it has said why, or is missing: it is in {}", format.package()))
        }
        None => fault.hint("it has said why"),
    })
}
