//! Capabilities of threads: capabilities(7).

use std::fmt::Write as _;

use nix::errno::Errno;

// Of linux/capability.h, as bits of a set.

/// `CAP_CHOWN`.
pub const CHOWN: u64 = 1;
/// `CAP_DAC_OVERRIDE`.
pub const DAC_OVERRIDE: u64 = 1 << 1;
/// `CAP_DAC_READ_SEARCH`.
pub const DAC_READ_SEARCH: u64 = 1 << 2;
/// `CAP_FOWNER`.
pub const FOWNER: u64 = 1 << 3;
/// `CAP_FSETID`.
pub const FSETID: u64 = 1 << 4;
/// `CAP_KILL`.
pub const KILL: u64 = 1 << 5;
/// `CAP_SETGID`.
pub const SETGID: u64 = 1 << 6;
/// `CAP_SETUID`.
pub const SETUID: u64 = 1 << 7;
/// `CAP_SETPCAP`.
pub const SETPCAP: u64 = 1 << 8;
/// `CAP_LINUX_IMMUTABLE`.
pub const LINUX_IMMUTABLE: u64 = 1 << 9;
/// `CAP_SYS_PTRACE`.
pub const SYS_PTRACE: u64 = 1 << 19;
/// `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: u64 = 1 << 21;
/// `CAP_SYS_RESOURCE`.
pub const SYS_RESOURCE: u64 = 1 << 24;
/// `CAP_MKNOD`.
pub const MKNOD: u64 = 1 << 27;
/// `CAP_SETFCAP`.
pub const SETFCAP: u64 = 1 << 31;

/// The names of those above, which are all that a server may keep.
const NAMES: [(u64, &str); 15] = [
    (CHOWN, "CHOWN"),
    (DAC_OVERRIDE, "DAC_OVERRIDE"),
    (DAC_READ_SEARCH, "DAC_READ_SEARCH"),
    (FOWNER, "FOWNER"),
    (FSETID, "FSETID"),
    (KILL, "KILL"),
    (SETGID, "SETGID"),
    (SETUID, "SETUID"),
    (SETPCAP, "SETPCAP"),
    (LINUX_IMMUTABLE, "LINUX_IMMUTABLE"),
    (SYS_PTRACE, "SYS_PTRACE"),
    (SYS_ADMIN, "SYS_ADMIN"),
    (SYS_RESOURCE, "SYS_RESOURCE"),
    (MKNOD, "MKNOD"),
    (SETFCAP, "SETFCAP"),
];

/// Returns the names of the capabilities of a set, without `CAP_`.
pub fn names(set: u64) -> String {
    let mut text = String::new();
    for (bit, name) in NAMES {
        if set & bit != 0 {
            let space = if text.is_empty() { "" } else { " " };
            let (Ok(()) | Err(_)) = write!(text, "{space}{name}");
        }
    }
    text
}

/// The capabilities of a thread, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Those in effect.
    pub effective: u64,
    /// Those that can be.
    pub permitted: u64,
    /// Those that a program which is executed may have.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

/// Effective, permitted and inheritable; first the low, then the high words.
type CapData = [[u32; 3]; 2];

impl CapHeader {
    /// `_LINUX_CAPABILITY_VERSION_3`, of the calling thread.
    const fn this_thread() -> Self {
        Self { version: 0x2008_0522, pid: 0 }
    }
}

impl Caps {
    /// Returns those of this thread.
    ///
    /// # Errors
    /// As capget(2).
    pub fn get() -> nix::Result<Self> {
        let mut header = CapHeader::this_thread();
        let mut data: CapData = [[0; 3]; 2];
        let (head, body) = (&raw mut header, data.as_mut_ptr());
        // SAFETY: version 3 reads the header and writes two triples.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, head, body) })?;
        let [low, high] = data;
        let join = |low, high| u64::from(low) | u64::from(high).wrapping_shl(32);
        Ok(Self {
            effective: join(low[0], high[0]),
            permitted: join(low[1], high[1]),
            inheritable: join(low[2], high[2]),
        })
    }

    /// Gives this thread these capabilities.
    ///
    /// # Errors
    /// As capset(2): `EPERM` for one that is not permitted by now.
    #[expect(clippy::cast_possible_truncation, reason = "the halves are taken apart")]
    pub fn set(self) -> nix::Result<()> {
        let mut header = CapHeader::this_thread();
        let all = [self.effective, self.permitted, self.inheritable];
        let data: CapData = [all.map(|set| set as u32), all.map(|set| (set >> 32) as u32)];
        let (head, body) = (&raw mut header, data.as_ptr());
        // SAFETY: version 3 reads the header and two triples.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, head, body) }).map(drop)
    }
}

/// Securebits with which a change of ids takes no capability away, and nothing gives
/// one, for good.
pub const SECURE: libc::c_int = libc::SECBIT_NO_SETUID_FIXUP
    | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
    | libc::SECBIT_NOROOT
    | libc::SECBIT_NOROOT_LOCKED
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

/// Sets securebits of this thread, besides those that are set; it takes
/// `CAP_SETPCAP` unless all of them are.
///
/// # Errors
/// As prctl(2) with `PR_SET_SECUREBITS`: `EPERM` without the capability.
pub fn set_securebits(add: libc::c_int) -> nix::Result<()> {
    // SAFETY: no memory is involved.
    let now = Errno::result(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) })?;
    if now & add != add {
        let bits = libc::c_long::from(now | add);
        // SAFETY: no memory is involved.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) })?;
    }
    Ok(())
}

/// Keeps of this thread's capabilities those of a set alone, for it and all
/// threads that it makes: in no set are there others. Those that it may have
/// by executing a program (the bounding set) go too, where it may drop them.
///
/// Returns what is left.
///
/// # Errors
/// As capset(2), prctl(2).
pub fn keep(set: u64) -> nix::Result<u64> {
    let had = Caps::get()?;
    // SAFETY: no memory is involved.
    let cleared =
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(cleared)?;
    if had.effective & SETPCAP != 0 {
        bind(set)?;
    }
    let permitted = had.permitted & set;
    Caps { effective: had.effective & set, permitted, inheritable: 0 }.set()?;
    Ok(permitted)
}

/// Takes all but a set out of the bounding set, however many there are.
fn bind(set: u64) -> nix::Result<()> {
    for number in 0..64_u32 {
        if set & 1_u64.wrapping_shl(number) != 0 {
            continue;
        }
        let number = libc::c_ulong::from(number);
        // SAFETY: no memory is involved.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(done) {
            // The kernel has no capability of that number, nor of a larger one.
            Err(Errno::EINVAL) => break,
            done => drop(done?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::id_map::Line;
    use crate::sys::namespace;

    /// What is dropped is dropped for the thread alone, so one is made for it.
    fn apart<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().unwrap()
    }

    fn status(key: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn what_is_not_kept_is_in_no_set() {
        apart(|| {
            let (had, bound) = (Caps::get().unwrap(), status("CapBnd:"));
            let left = keep(FOWNER | CHOWN).unwrap();
            assert_eq!(left, had.permitted & (FOWNER | CHOWN));
            assert_eq!((status("CapEff:"), status("CapPrm:")), (left, left));
            assert_eq!((status("CapInh:"), status("CapAmb:")), (0, 0));
            let may = had.effective & SETPCAP != 0;
            let bound = if may { bound & (FOWNER | CHOWN) } else { bound };
            assert_eq!(status("CapBnd:"), bound);
            // Nor can it be had again.
            if left != 0 {
                assert_eq!(had.set(), Err(Errno::EPERM));
            }
        });
    }

    #[test]
    fn sets_have_names() {
        assert_eq!(names(0), "");
        assert_eq!(names(CHOWN | SETFCAP | SYS_ADMIN), "CHOWN SYS_ADMIN SETFCAP");
    }

    /// As a confined server makes them: nobody may look into it, nor it into others.
    #[test]
    fn what_a_server_keeps_is_enough_to_make_user_namespaces() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: not root");
            return;
        }
        nix::sys::prctl::set_dumpable(false).unwrap();
        let made = apart(|| {
            keep(SYS_ADMIN | SETUID | SETGID | SETFCAP | DAC_OVERRIDE).unwrap();
            let whole = Line { inside: 0, outside: 0, count: u32::MAX };
            (0..300).try_for_each(|_| namespace::make(&[whole], &[whole]).map(drop))
        });
        nix::sys::prctl::set_dumpable(true).unwrap();
        made.unwrap();
    }
}
