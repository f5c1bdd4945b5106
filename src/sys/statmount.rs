//! statmount(2): what the table of mounts does not tell.

use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::id_map::{IdMap, Line};
use super::stat::mounted;

/// The same everywhere but on MIPS, where there is no call of that number.
const SYS_STATMOUNT: libc::c_long = 457;

// Of linux/mount.h.
const MNT_UIDMAP: u64 = 0x2000;
const MNT_GIDMAP: u64 = 0x4000;

/// The size of `struct statmount` before its strings.
const HEAD: usize = 512;
/// Where it has the mask of what was filled in.
const MASK: usize = 8;
/// Where it has the count of lines of each map, and 4 bytes on where they are
/// among the strings.
const MAPS: [usize; 2] = [152, 160];

/// `struct mnt_id_req` of linux/mount.h, as it was at first.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// Room for two maps of 340 lines.
const ROOM: usize = 64 << 10;

/// Returns the id maps of users and groups of the mount at a path, in the ids of
/// this process's user namespace; `None` where the kernel does not tell.
///
/// # Errors
/// As statx(2), statmount(2): `ENOSYS` before Linux 6.8.
pub fn id_maps(point: &Path) -> nix::Result<Option<[Vec<Line>; 2]>> {
    let mount = mounted(AT_FDCWD.as_fd(), point.as_os_str())?.mount;
    let request = Request { size: 24, spare: 0, mount, wanted: MNT_UIDMAP | MNT_GIDMAP };
    let mut answer = vec![0_u8; ROOM];
    let (asked, room) = (&raw const request, answer.as_mut_ptr());
    // SAFETY: the request is of the size that it says, the room of the size given.
    let done = unsafe { libc::syscall(SYS_STATMOUNT, asked, room, ROOM, 0) };
    Errno::result(done)?;
    Ok(maps(&answer))
}

/// Takes the answer apart.
fn maps(answer: &[u8]) -> Option<[Vec<Line>; 2]> {
    let word = |at: usize| {
        let bytes = answer.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_ne_bytes(*bytes)).ok()
    };
    let mask = u64::from_ne_bytes(*answer.get(MASK..)?.first_chunk::<8>()?);
    let map = |at: usize| {
        let (count, place) = (word(at)?, word(at.checked_add(4)?)?);
        let strings = answer.get(HEAD.checked_add(place)?..)?;
        let lines = strings.split(|byte| *byte == 0).take(count);
        let text = lines.map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
        Some(IdMap::parse(&text).lines().to_vec())
    };
    let [users, groups] = MAPS;
    let told = mask & (MNT_UIDMAP | MNT_GIDMAP) == MNT_UIDMAP | MNT_GIDMAP;
    if told { Some([map(users)?, map(groups)?]) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_without_a_map_has_none() {
        match id_maps(Path::new("/")) {
            Ok(maps) => assert_eq!(maps, None),
            Err(errno) => eprintln!("SKIP: statmount: {errno}"),
        }
    }

    #[test]
    fn answers_are_taken_apart() {
        let line = |inside, outside, count| Line { inside, outside, count };
        let mut answer = vec![0; HEAD];
        answer.extend_from_slice(b"0 100 10\x0020 7 1\x000 200 10\0");
        for (at, value) in [(MASK, 0x6000_u32), (152, 2), (156, 0), (160, 1), (164, 16)] {
            answer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        // The mask has 64 bits.
        answer[MASK..MASK + 8].copy_from_slice(&0x6000_u64.to_ne_bytes());
        let maps = maps(&answer).unwrap();
        assert_eq!(maps, [vec![line(0, 100, 10), line(20, 7, 1)], vec![line(0, 200, 10)]]);
        assert_eq!(super::maps(&answer[..100]), None);
    }
}
