//! What is agreed with the kernel when a session starts.

use std::io;

use fuser::{InitFlags, KernelConfig};

use super::SessionOptions;

/// The largest write, and read, in one request: what the kernel's default
/// limit of 256 pages allows.
const MAX_IO: u32 = 1 << 20;

/// How many requests that nobody waits for (readahead, asynchronous direct
/// I/O) may be under way.
const MAX_BACKGROUND: u16 = 64;

/// How many file systems may be stacked up to ours where the kernel uses files of
/// the host by itself: with 1, an overlay can still be mounted on top, and the
/// source cannot be one.
const STACK: u32 = 1;

/// What the file system would be wrong without.
///
/// - `DONT_MASK`: the umask does not apply where a default ACL decides; only
///   the source knows.
/// - `DO_READDIRPLUS`: listings come with attributes; plain ones are never
///   asked for, see `Adapter::readdir`.
const NEEDED: InitFlags = InitFlags::FUSE_DONT_MASK.union(InitFlags::FUSE_DO_READDIRPLUS);

/// What is asked for where the kernel has it. A whitelist, since some flags
/// change the wire format in ways that the library does not parse, or hang
/// every request if nothing more follows. Left out on purpose:
///
/// - `ATOMIC_O_TRUNC`: truncation comes as a setattr, with its own checks.
/// - `FLOCK_LOCKS`: the library cannot tell flock from fcntl; without it flock
///   is local to the mount and every lock request is a range lock.
/// - `WRITEBACK_CACHE`: ignores a size that was changed on the host; only for a
///   source that nobody else changes, see [`ALONE`].
/// - `READDIRPLUS_AUTO`: slower than always, and asks for plain listings.
/// - `CACHE_SYMLINKS`: cuts a target at the size in the attributes, which some
///   sources give as 0.
/// - `ALLOW_IDMAP`: hides the caller's ids in all requests but creates; only where
///   it is asked for.
/// - `SETXATTR_EXT`, `SECURITY_CTX`, `CREATE_SUPP_GROUP`, `OVER_IO_URING`: not
///   parsed, or not served, by the library.
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_HAS_IOCTL_DIR)
    // Pages go when a refresh of the attributes shows another size or mtime,
    // and each read refreshes attributes that have expired.
    .union(InitFlags::FUSE_AUTO_INVAL_DATA)
    .union(InitFlags::FUSE_POSIX_LOCKS)
    // Files that it has forgotten are asked for by their number.
    .union(InitFlags::FUSE_EXPORT_SUPPORT)
    // Set-id bits are cleared by the source: otherwise the kernel asks for
    // security.capability before every write.
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2);

/// What it takes to leave a source to the kernel that nobody else changes: it
/// caches what is written, and opens files without asking when it is told so.
const ALONE: InitFlags = InitFlags::FUSE_WRITEBACK_CACHE.union(InitFlags::FUSE_NO_OPEN_SUPPORT);

/// What has been agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    /// Whether the kernel opens files without asking, caches what is written, and
    /// keeps locks to itself.
    pub(super) alone: bool,
    /// Whether the kernel can let a name expire.
    pub(super) expires: bool,
}

/// Agrees with the kernel.
///
/// # Errors
/// `Unsupported` if the kernel lacks what is needed.
pub(super) fn negotiate(config: &mut KernelConfig, options: &SessionOptions) -> io::Result<Agreed> {
    let acl = if options.acl { InitFlags::FUSE_POSIX_ACL } else { InitFlags::empty() };
    config.add_capabilities(NEEDED | acl).map_err(|missing| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the kernel's FUSE lacks {missing:?}; Linux 4.9 or later has it"),
        )
    })?;
    if options.allow_idmap {
        config.add_capabilities(InitFlags::FUSE_ALLOW_IDMAP).map_err(|_missing| {
            let what =
                "option allow-idmap: this kernel maps no ids of FUSE; Linux 6.12 or later does";
            io::Error::new(io::ErrorKind::Unsupported, what)
        })?;
    }
    let offered = config.capabilities();
    log::debug!("FUSE {}: without {:?}", config.kernel_abi(), WANTED.difference(offered));
    let pass = options.passthrough.is_ok() && offered.contains(InitFlags::FUSE_PASSTHROUGH);
    // The kernel has one or the other.
    let alone = options.exclusive && !pass && offered.contains(ALONE);
    let wanted = match (pass, alone) {
        (true, _) => WANTED | InitFlags::FUSE_PASSTHROUGH,
        (false, true) => {
            // With a cache of writes every close has the kernel forget the blocks of a file
            // (fuse_flush), and the next stat asks for all of its attributes and its ACL.
            let own = if options.writes { ALONE } else { InitFlags::FUSE_NO_OPEN_SUPPORT };
            WANTED.difference(InitFlags::FUSE_POSIX_LOCKS) | own
        }
        (false, false) => WANTED,
    };
    config.add_capabilities(wanted & offered).map_err(|refused| refusal(&refused))?;
    if pass {
        config.set_max_stack_depth(STACK).map_err(|limit| refusal(&limit))?;
    }
    config.set_max_write(MAX_IO).map_err(|limit| refusal(&limit))?;
    config.set_max_background(MAX_BACKGROUND).map_err(|limit| refusal(&limit))?;
    // Nothing is to be agreed: the kernel only says that it has this.
    Ok(Agreed { alone, expires: offered.contains(InitFlags::FUSE_HAS_EXPIRE_ONLY) })
}

fn refusal(what: &dyn std::fmt::Debug) -> io::Error {
    io::Error::other(format!("the FUSE library refuses a setting; its limit is {what:?}"))
}
