//! The names of users and groups: those of this host, and those in files.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Group, User};

use crate::mount::{ImageOptions, aside, is_image};
use crate::policy::{Names, Place, Unread, file, passwd};
use crate::source::image::{self, Device, ImageError, Part};
use crate::sys::accounts;
use crate::sys::procfs::Procfs;
use crate::text::plain;

/// The users and groups of this host, from NSS, and lists in files.
#[derive(Clone, Debug, Default)]
pub struct HostNames {
    /// The paths by which the source goes, absolute; none: there is no source.
    source: Vec<PathBuf>,
    /// Which part of its file the source is, where that is an image.
    image: ImageOptions,
    /// That file, if it is open already.
    device: Option<Arc<Device>>,
    /// Whether nothing but the text of `/etc/passwd` and `/etc/group` is asked.
    plain: bool,
}

/// Where users are listed.
const PASSWD: &str = "/etc/passwd";

/// Where groups are listed.
const GROUP: &str = "/etc/group";

impl HostNames {
    /// Takes the source in which lists may be.
    pub fn new(source: &Path) -> Self {
        let written = std::path::absolute(source).ok();
        let real = source.canonicalize().ok();
        Self { source: written.into_iter().chain(real).collect(), ..Self::default() }
    }

    /// Takes what is to be known of a source that is an image.
    pub fn image(self, image: ImageOptions) -> Self {
        Self { image, ..self }
    }

    /// Takes the file of a source that is an image: a server may open it no more.
    pub fn device(self, device: Option<Arc<Device>>) -> Self {
        Self { device, ..self }
    }

    /// Asks no NSS: its libraries are those of whose namespaces this process is in.
    pub fn plain(self, plain: bool) -> Self {
        Self { plain, ..self }
    }

    fn list(&self, path: &str) -> Result<Vec<u8>, Unread> {
        self.of_host(Path::new(path))
    }

    /// Reads a list at an absolute path of the host. One below the source is
    /// in it, and so not followed out of it.
    fn of_host(&self, path: &Path) -> Result<Vec<u8>, Unread> {
        let below = self.source.iter().find_map(|source| path.strip_prefix(source).ok());
        if let Some(below) = below.filter(|below| !below.as_os_str().is_empty()) {
            return self.of_source(below);
        }
        let open = || openat(AT_FDCWD, path, PATH, Mode::empty());
        read(open).map_err(Unread::Failed)
    }

    /// Reads a list in the source.
    fn of_source(&self, below: &Path) -> Result<Vec<u8>, Unread> {
        let source = self.source.first().ok_or(Unread::NoSource)?;
        // A server may not find the path of an image any more.
        if self.device.is_some() || is_image(source) {
            return self.of_image(source, below).map_err(Unread::Failed);
        }
        let open = || {
            let root = openat(AT_FDCWD, source, PATH | OFlag::O_DIRECTORY, Mode::empty())?;
            let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
            openat2(root, below, OpenHow::new().flags(PATH).resolve(resolve))
        };
        read(open).map_err(Unread::Failed)
    }
}

impl HostNames {
    /// Reads a list in an image.
    fn of_image(&self, image: &Path, below: &Path) -> Result<Vec<u8>, String> {
        let failed = |error: ImageError| error.to_string();
        let device = match &self.device {
            Some(device) => device.part(Part::default()),
            None => image::device(image, &self.image),
        };
        let device = device.map_err(failed)?;
        let most = u64::try_from(file::MAX_BYTES).unwrap_or(u64::MAX);
        aside(|| {
            let device = device.part(Part::default()).map_err(failed)?;
            let source = image::open(device, &self.image).map_err(failed)?;
            let read = source.contents(below, most);
            read.map_err(|error| plain(&io::Error::from_raw_os_error(error.errno().0)))
        })
    }
}

const PATH: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Reads a regular file of at most the size of a policy.
///
/// It is opened only when it is known to be one: to open a device has effects.
fn read(open: impl Fn() -> nix::Result<OwnedFd>) -> Result<Vec<u8>, String> {
    let opened = || -> nix::Result<Option<File>> {
        let path = open()?;
        if fstat(&path)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Ok(None);
        }
        Procfs::open()?.reopen(path.as_fd(), OFlag::O_RDONLY).map(|fd| Some(File::from(fd)))
    };
    let file = match opened() {
        Ok(Some(file)) => file,
        Ok(None) => return Err("not a regular file".to_owned()),
        Err(Errno::EXDEV) => return Err("it leads out of the source".to_owned()),
        Err(errno) => return Err(plain(&io::Error::from(errno))),
    };
    let most = u64::try_from(file::MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() > file::MAX_BYTES {
        return Err(format!("larger than {} bytes", file::MAX_BYTES));
    }
    Ok(bytes)
}

fn listed(list: nix::Result<Vec<(String, u32)>>) -> Result<Vec<(String, u32)>, Unread> {
    list.map_err(|errno| Unread::Failed(plain(&io::Error::from(errno))))
}

impl Names for HostNames {
    fn user(&self, name: &str) -> Option<(u32, u32)> {
        if self.plain {
            return passwd::user(&self.list(PASSWD).ok()?, name);
        }
        let user = User::from_name(name).ok().flatten()?;
        Some((user.uid.as_raw(), user.gid.as_raw()))
    }

    fn group(&self, name: &str) -> Option<u32> {
        if self.plain {
            let groups = self.groups().ok()?;
            return groups.into_iter().find(|(found, _)| found == name).map(|(_, gid)| gid);
        }
        Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
    }

    fn users(&self) -> Result<Vec<(String, u32)>, Unread> {
        if self.plain {
            self.list(PASSWD).map(|text| passwd::users(&text))
        } else {
            listed(accounts::users())
        }
    }

    fn groups(&self) -> Result<Vec<(String, u32)>, Unread> {
        if self.plain {
            self.list(GROUP).map(|text| passwd::groups(&text))
        } else {
            listed(accounts::groups())
        }
    }

    fn file(&self, place: &Place) -> Result<Vec<u8>, Unread> {
        match place {
            Place::Host(path) => self.of_host(Path::new(path)),
            Place::Source(path) => self.of_source(Path::new(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_are_those_of_the_host() {
        let host = HostNames::default();
        assert_eq!(host.user("root"), Some((0, 0)));
        assert_eq!(host.group("root"), Some(0));
        assert_eq!(host.user("no such user"), None);
        assert!(host.users().unwrap().contains(&("root".to_owned(), 0)));
        assert!(host.groups().unwrap().contains(&("root".to_owned(), 0)));
    }

    fn text(result: Result<Vec<u8>, Unread>) -> String {
        match result {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(Unread::Failed(why)) => format!("! {why}"),
            Err(Unread::NoSource) => "! no source".to_owned(),
        }
    }

    /// A source beside a secret, with links that stay in it and that do not.
    #[test]
    fn lists_in_the_source_never_lead_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (source, secret) = (dir.path().join("src"), dir.path().join("secret"));
        fs::create_dir_all(source.join("etc")).unwrap();
        fs::write(&secret, "secret").unwrap();
        fs::write(source.join("etc/passwd"), "inside").unwrap();
        fs::File::create(source.join("large")).unwrap().set_len(17 << 20).unwrap();
        symlink("etc/passwd", source.join("inner")).unwrap();
        symlink("../secret", source.join("outer")).unwrap();
        symlink(&secret, source.join("absolute")).unwrap();
        symlink("..", source.join("up")).unwrap();
        nix::unistd::mkfifo(&source.join("fifo"), Mode::S_IRWXU).unwrap();
        let link = dir.path().join("link");
        symlink(&source, &link).unwrap();
        let out = "! it leads out of the source";
        for (path, wanted) in [
            ("etc/passwd", "inside"),
            ("inner", "inside"),
            ("outer", out),
            ("absolute", out),
            ("up/secret", out),
            ("../secret", out),
            ("fifo", "! not a regular file"),
            ("etc", "! not a regular file"),
            ("none", "! No such file or directory"),
            ("large", "! larger than 16777216 bytes"),
        ] {
            for given in [&source, &link] {
                let names = HostNames::new(given);
                let below = Place::Source(path.to_owned());
                assert_eq!(text(names.file(&below)), wanted, "{path}");
                // The same by a path of the host, whichever way it leads there.
                for host in [given, &source] {
                    let host = Place::Host(host.join(path).to_str().unwrap().to_owned());
                    assert_eq!(text(names.file(&host)), wanted, "{host:?}");
                }
            }
        }
        let names = HostNames::new(&source);
        let outside = Place::Host(secret.to_str().unwrap().to_owned());
        assert_eq!(text(names.file(&outside)), "secret");
        assert_eq!(text(HostNames::default().file(&Place::Source("x".into()))), "! no source");
    }
}
