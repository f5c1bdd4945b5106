//! The policy that the options ask for, with the names of this host.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::Fault;
use super::names::HostNames;
use super::settings::Settings;
use crate::id::{Ids, View};
use crate::mount::{Renew, is_image};
use crate::policy::explain::Asker;
use crate::policy::options::Options;
use crate::policy::{Names, Origin, Server, Spec, file};
use crate::source::image::{self, Device};
use crate::sys::cred::own_ids;
use crate::text::{plain, shown};

/// Returns the policy of these settings for a source.
///
/// It depends on nothing but these, the names of the host, and the files that
/// are named: to ask again is to reload.
///
/// # Errors
/// The options or a file are wrong, or exclude each other.
pub fn spec(settings: &Settings, source: &Path) -> Result<Spec, Fault> {
    spec_with(settings, source, None)
}

fn spec_with(
    settings: &Settings,
    source: &Path,
    device: Option<Arc<Device>>,
) -> Result<Spec, Fault> {
    let names = HostNames::new(source).image(settings.image.clone()).device(device);
    let names = names.plain(settings.within.is_some());
    let Some(path) = &settings.policy_file else {
        return Ok(Spec::from_options(&settings.policy, &names)?);
    };
    settings.policy.beside_file()?;
    from_file(path, &names)
}

/// Returns what makes the policy of these settings again, as files and names are
/// by then, also from another working directory.
///
/// # Errors
/// The working directory is gone, and a path begins there.
pub fn renew(settings: &Settings, source: &Path) -> Result<Renew, Fault> {
    let mut settings = settings.clone();
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Fault::usage(format!("{}: {}", shown(path), plain(&error))))
    };
    let source = absolute(source)?;
    if let Some(path) = &mut settings.policy_file {
        *path = absolute(path)?;
    }
    let from = directories(&settings);
    let device = is_image(&source).then(|| image::device(&source, &settings.image).ok());
    let device = device.flatten().map(Arc::new);
    let read =
        move || spec_with(&settings, &source, device.clone()).map_err(|fault| fault.to_string());
    Ok(Renew::new(read, from))
}

/// Returns the directories of the files that the options name: those may be
/// replaced by others of the same name.
fn directories(settings: &Settings) -> Vec<PathBuf> {
    let lists = settings.written.iter().filter(|word| !word.starts_with("policy="));
    let lists = lists.flat_map(|word| word.split(['=', ',']));
    let lists = lists.map(Path::new).filter(|path| path.is_absolute());
    let files = lists.chain(settings.policy_file.as_deref());
    let mut found: Vec<PathBuf> = Vec::new();
    for file in files {
        // A link that is replaced is in one, and what it leads to in another.
        let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let dirs = [file, real.as_path()].into_iter().filter_map(Path::parent);
        found.extend(dirs.map(Path::to_owned));
    }
    found.sort();
    found.dedup();
    found
}

/// Reads a policy file.
///
/// # Errors
/// As [`read_file`], or the policy is wrong.
fn from_file(path: &Path, names: &dyn Names) -> Result<Spec, Fault> {
    let name = shown(path);
    let text = read_file(path)
        .map_err(|fault| Fault { text: format!("policy file {name}: {}", fault.text), ..fault })?;
    Ok(file::parse(&name, &text, names)?)
}

/// Reads a regular file of at most the size that a policy may have.
///
/// # Errors
/// It cannot be read, is no regular file, is too large, or no text.
pub fn read_file(path: &Path) -> Result<String, Fault> {
    read(path).map_err(Fault::usage)
}

fn read(path: &Path) -> Result<String, String> {
    // Not to hang on a fifo, nor to take a terminal.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let open = |path| -> std::io::Result<(File, bool)> {
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let regular = file.metadata()?.is_file();
        Ok((file, regular))
    };
    let (file, regular) = open(path).map_err(|error| plain(&error))?;
    if !regular {
        return Err("not a regular file".to_owned());
    }
    let most = u64::try_from(file::MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() > file::MAX_BYTES {
        return Err(format!("larger than {} bytes", file::MAX_BYTES));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        format!("line {line} is not UTF-8")
    })
}

/// Returns as whom a server that is started now would run.
///
/// # Errors
/// This process has no ids of its own.
pub fn server() -> Result<Server, Fault> {
    let ids = own_ids().map_err(|error| Fault::mount(format!("own ids: {}", plain(&error))))?;
    Ok(Server { ids, privileged: ids.uid.is_root() })
}

/// Reads a part of `--as` as an option of a policy would be.
fn as_option(options: &Options) -> Result<Spec, Fault> {
    Ok(Spec::from_options(options, &HostNames::default()).map_err(|mut error| {
        error.at = Origin::Option("as");
        error
    })?)
}

/// Reads the view ids of `--as`: `USER[:GROUP]`.
///
/// # Errors
/// A name is unknown, or one of the two ids is missing.
pub fn caller(text: &str) -> Result<Ids<View>, Fault> {
    let options = Options { present_as: Some(text.to_owned()), ..Options::default() };
    let spec = as_option(&options)?;
    match (spec.users().present_as(), spec.groups().present_as()) {
        (Some(uid), Some(gid)) => Ok(Ids { uid, gid }),
        _ => Err(Fault::usage(format!("option as: {text}: not USER[:GROUP]"))),
    }
}

/// Reads the view ids of `--as` for an explanation: `USER[:GROUP][,GROUP]...`,
/// the supplementary groups last.
///
/// # Errors
/// As [`caller`].
pub fn asker(text: &str) -> Result<Asker, Fault> {
    let mut words = text.split(',');
    let ids = caller(words.next().unwrap_or_default())?;
    let group = |word: &str| {
        let bad = || Fault::usage(format!("option as: {}: not a group", shown(word)));
        let options = Options { present_as: Some(format!("g:{word}")), ..Options::default() };
        let spec = as_option(&options)?;
        spec.groups().present_as().ok_or_else(bad)
    };
    Ok(Asker { ids, groups: words.map(group).collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_two_ids() {
        for (text, want) in [
            ("root", Ok((0, 0))),
            ("5:6", Ok((5, 6))),
            ("7", Ok((7, 7))),
            ("u:7", Err("option as: u:7: not USER[:GROUP]")),
            ("4294967295", Err("option as: `4294967295` is not a user id")),
        ] {
            let got = caller(text).map(|ids| (ids.uid.raw(), ids.gid.raw()));
            assert_eq!(got.map_err(|fault| fault.text), want.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_policy_file_is_a_small_regular_file_of_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let names = HostNames::default();
        let fault = |path: &Path| from_file(path, &names).unwrap_err().text;
        assert!(fault(&path).ends_with("No such file or directory"));
        assert!(fault(dir.path()).ends_with(": not a regular file"));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(fault(&path).ends_with(": not a regular file"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"version = 1\n# \xff\n").unwrap();
        assert!(fault(&path).ends_with(": line 2 is not UTF-8"));
        std::fs::File::create(&path).unwrap().set_len(17 << 20).unwrap();
        assert!(fault(&path).contains("larger than 16777216 bytes"));
        std::fs::write(&path, "version = 1\n").unwrap();
        assert!(from_file(&path, &names).unwrap().is_identity());
    }

    #[test]
    fn options_do_not_stand_beside_a_file() {
        let mut settings = Settings { policy_file: Some("/x".into()), ..Settings::default() };
        settings.policy.map.push("0:1:2".to_owned());
        let fault = spec(&settings, Path::new("/")).unwrap_err();
        assert_eq!(fault.text, "option map: not beside a policy file");
    }
}
