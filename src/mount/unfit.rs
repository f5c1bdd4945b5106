//! Why the kernel's idmapped mount would not do exactly what is asked, and what of that
//! is known from the options and the policy alone.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::options::Options;
use crate::id::{Extent, Kind};
use crate::policy::{Beyond, Spec};
use crate::source::image::ImageError;
use crate::sys::id_map::Line;
use crate::text::{plain, shown};

/// The most lines of a map that the kernel takes, and one byte more than the
/// longest text of one that it reads: user_namespaces(7).
const MOST_LINES: usize = 340;
const PAGE: usize = 4096;

/// Why the kernel's idmapped mount would not do exactly what is asked.
#[derive(Debug, Error)]
pub enum Unfit {
    /// The policy does more than to move ranges of ids.
    #[error("the policy {0}")]
    Policy(Beyond),
    /// The map is too long.
    #[error(
        "the policy moves {1} ranges of {0}s, and the kernel takes {MOST_LINES} of {PAGE} bytes"
    )]
    Scattered(&'static str, usize),
    /// An option is about a server.
    #[error("option {0}: {1}")]
    Option(&'static str, &'static str),
    /// Mounts below the source would have to be hidden.
    #[error("{}: submounts=hide, and the kernel would show what that mount covers", shown(.0))]
    Covering(PathBuf),
    /// A mount below the source cannot be copied.
    #[error("{}: that mount cannot be copied", shown(.0))]
    Unbindable(PathBuf),
    /// A mount has an id map already.
    #[error("{}: is on an idmapped mount already", shown(.0))]
    Mapped(PathBuf),
    /// A file system cannot be mapped.
    #[error("{}: the kernel maps no ids of that file system ({kind})", shown(.path))]
    FileSystem {
        /// Where it is mounted.
        path: PathBuf,
        /// Its type.
        kind: String,
    },
    /// This user may not.
    #[error("it takes root over the file system of the source")]
    Privilege,
    /// This user may not give those ids to anybody.
    #[error("this user may not make a user namespace with those ids")]
    Ids,
    /// The image cannot be used.
    #[error("image {0}")]
    Image(#[from] ImageError),
    /// The image was not unmounted, and the kernel would have to write to it.
    #[error(
        "ext4 with a journal to replay: the kernel would write to the image, which is opened \
             for reading; have e2fsck replay it"
    )]
    Journal,
    /// The image has data elsewhere, which the kernel would take from the image itself.
    #[error(
        "erofs with data on further devices: without them that kernel mount would show other \
             bytes; name them all, in their order: -o device=FILE"
    )]
    Devices,
    /// The image does not end with a sector, and that is as far as a loop device goes.
    #[error("{kind}: {}; its last {rest} bytes are no whole sector of a loop device: \
             truncate -s %4096 adds zeros", plain(.why))]
    Sector {
        /// Its type.
        kind: &'static str,
        /// How many bytes are left over.
        rest: u64,
        /// The error.
        why: io::Error,
    },
    /// The system refuses it for another reason.
    #[error("{what}: {}", plain(.why))]
    System {
        /// What was to be done.
        what: &'static str,
        /// The error.
        why: io::Error,
    },
}

impl Unfit {
    /// Reports whether that is a matter of what was asked for, and not of the
    /// system that it was asked of.
    pub const fn is_asked(&self) -> bool {
        match self {
            Self::Policy(_) | Self::Scattered(..) | Self::Option(..) | Self::Covering(_) => true,
            Self::Unbindable(_)
            | Self::Image(_)
            | Self::Mapped(_)
            | Self::FileSystem { .. }
            | Self::Privilege
            | Self::Ids
            | Self::Journal
            | Self::Devices
            | Self::Sector { .. }
            | Self::System { .. } => false,
        }
    }
}

/// Checks that no option asks for what takes a server.
///
/// Options about caches, passthrough and the log ask for nothing that the kernel
/// lacks: there is nothing between it and the source. Nor does `allow-other`.
///
/// # Errors
/// `Option`.
pub(super) fn of_options(options: &Options) -> Result<(), Unfit> {
    if options.foreground {
        return Err(Unfit::Option("foreground", "there would be nothing to serve"));
    }
    if options.allow_other == Some(false) {
        return Err(Unfit::Option("no-allow-other", "the kernel's mount lets every user in"));
    }
    if !options.owners.is_native() {
        return Err(Unfit::Option("owners", "the kernel's mount has those of the file system"));
    }
    if options.allow_idmap {
        return Err(Unfit::Option("allow-idmap", "the kernel maps ids of a mount once"));
    }
    if options.with_pid.is_some() {
        return Err(Unfit::Option("with-pid", "nothing would wait for the end of the process"));
    }
    if options.fsname.is_some() {
        return Err(Unfit::Option("fsname", "the mount table would show the source's device"));
    }
    Ok(())
}

/// Returns the maps of users and groups by which the kernel does what a policy says.
///
/// # Errors
/// `Policy` or `Scattered`: it cannot.
pub(super) fn of_policy(spec: &Spec) -> Result<(Vec<Line>, Vec<Line>), Unfit> {
    let ranges = spec.ranges().map_err(Unfit::Policy)?;
    Ok((lines(&ranges.users)?, lines(&ranges.groups)?))
}

/// Inside of the user namespace is the disk, outside the view.
fn lines<K: Kind>(extents: &[Extent<K>]) -> Result<Vec<Line>, Unfit> {
    let line = |extent: &Extent<K>| Line {
        inside: extent.disk().raw(),
        outside: extent.view().raw(),
        count: extent.count(),
    };
    let lines: Vec<Line> = extents.iter().map(line).collect();
    let length = |line: &Line| line.to_string().len().saturating_add(1);
    let bytes = lines.iter().map(length).fold(0, usize::saturating_add);
    if lines.len() > MOST_LINES || bytes >= PAGE {
        return Err(Unfit::Scattered(K::WORD, lines.len()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Id, User};

    fn extents(count: u32, apart: u32) -> Vec<Extent<User>> {
        let one = |n: u32| Extent::single(Id::new(n).unwrap(), Id::new(n * apart).unwrap());
        (0..count).map(one).collect()
    }

    #[test]
    fn a_map_has_as_many_lines_as_the_kernel_reads() {
        assert_eq!(lines(&extents(340, 2)).unwrap().len(), 340);
        assert!(lines(&extents(341, 2)).is_err());
        // Long numbers fill a page earlier.
        assert!(lines(&extents(300, 10_000_000)).is_err());
        let line = lines(&[Extent::<User>::parse("1000:101000:7").unwrap()]).unwrap();
        assert_eq!(line, [Line { inside: 1000, outside: 101_000, count: 7 }]);
    }
}
