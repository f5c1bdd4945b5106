//! What this process has done since it began, counted.
//!
//! Each thread counts in a slot of its own, so that no two of the first threads
//! share a line of the processor's cache; the sums are made when they are asked
//! for. What is *held* at a moment is not counted here but asked of those who
//! hold it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many slots there are; threads beyond that share.
const SLOTS: usize = 16;

/// Makes an enum of things that are counted, with a word for each.
macro_rules! counted {
    ($(#[$about:meta])* $name:ident: $($variant:ident = $word:literal),+ $(,)?) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`.")] $variant),+
        }

        impl $name {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the word that it goes by.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }
    };
}

counted! {
    /// What the kernel can ask for.
    Kind:
    Lookup = "lookup",
    Forget = "forget",
    Getattr = "getattr",
    Setattr = "setattr",
    Readlink = "readlink",
    Mknod = "mknod",
    Mkdir = "mkdir",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Symlink = "symlink",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Create = "create",
    Read = "read",
    Write = "write",
    Flush = "flush",
    Release = "release",
    Fsync = "fsync",
    Opendir = "opendir",
    Readdir = "readdir",
    Readdirplus = "readdirplus",
    Releasedir = "releasedir",
    Fsyncdir = "fsyncdir",
    Statfs = "statfs",
    Setxattr = "setxattr",
    Getxattr = "getxattr",
    Listxattr = "listxattr",
    Removexattr = "removexattr",
    Access = "access",
    Getlk = "getlk",
    Setlk = "setlk",
    Bmap = "bmap",
    Ioctl = "ioctl",
    Poll = "poll",
    Fallocate = "fallocate",
    Lseek = "lseek",
    CopyFileRange = "copy_file_range",
}

counted! {
    /// What else is counted: answers, caches, what the kernel is told unasked,
    /// what is heard of the source.
    Count:
    // A lookup that found nothing, and whose answer the kernel may keep.
    NoSuchName = "no_such_name",
    // A request refused for a reason that callers can bring about at will.
    Refused = "refused",
    // A request that failed otherwise: no memory, no descriptors, the disk.
    Failed = "failed",
    // A fault of the server, answered EIO.
    Fault = "fault",
    // A file that was open when it was needed, and one that was not.
    NodeHeld = "node_held",
    NodeReopened = "node_reopened",
    // Opens of files that the kernel reads by itself, and by way of the server.
    OpenPassthrough = "open_passthrough",
    OpenCached = "open_cached",
    // Opens of files that were open still from before.
    OpenAgain = "open_again",
    // What of an image was at hand when it was needed, and what was read and unpacked.
    ImageKept = "image_kept",
    ImageMade = "image_made",
    // What the kernel was told to ask for again.
    ToldAttributes = "told_attributes",
    ToldPages = "told_pages",
    ToldName = "told_name",
    // Of these, what was told once more, since it may not have been heard.
    ToldAgain = "told_again",
    // How often everything that it knows was told.
    ToldAll = "told_all",
    // What was heard of the source, what of it was our own doing, and how often
    // something was lost.
    Heard = "heard",
    HeardOwn = "heard_own",
    HeardLost = "heard_lost",
}

const NUMBERS: usize = Kind::ALL.len().saturating_add(Count::ALL.len());

/// The numbers of one thread, or of several: on cache lines of their own (two,
/// since processors fetch them in pairs).
#[repr(align(128))]
struct Slot([AtomicU64; NUMBERS]);

static COUNTED: [Slot; SLOTS] = [const { Slot([const { AtomicU64::new(0) }; NUMBERS]) }; SLOTS];

/// The slot of the thread that counts next for the first time.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: Option<&'static Slot> =
        COUNTED.get(NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS);
}

/// Counts a request.
pub fn request(what: Kind) {
    bump(what as usize, 1);
}

/// Counts something else.
pub fn add(what: Count) {
    bump(place(what), 1);
}

/// Counts something else this many times.
pub fn add_many(what: Count, times: u64) {
    bump(place(what), times);
}

/// Returns how often each kind of request came.
pub fn requests() -> impl Iterator<Item = (&'static str, u64)> {
    Kind::ALL.iter().map(|what| (what.word(), sum(*what as usize)))
}

/// Returns how often everything else happened.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    Count::ALL.iter().map(|what| (what.word(), sum(place(*what))))
}

const fn place(what: Count) -> usize {
    Kind::ALL.len().saturating_add(what as usize)
}

fn bump(at: usize, by: u64) {
    // None while the thread ends, or if there is no such number.
    let own = OWN.try_with(|own| own.and_then(|slot| slot.0.get(at)));
    if let Ok(Some(number)) = own {
        number.fetch_add(by, Ordering::Relaxed);
    }
}

fn sum(at: usize) -> u64 {
    let numbers = COUNTED.iter().filter_map(|slot| slot.0.get(at));
    numbers.map(|number| number.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(word: &str) -> u64 {
        requests().chain(counts()).find(|(known, _)| *known == word).unwrap().1
    }

    #[test]
    fn all_threads_are_summed() {
        let before = (now("bmap"), now("heard_lost"));
        std::thread::scope(|scope| {
            for _ in 0..SLOTS * 2 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        request(Kind::Bmap);
                    }
                    add(Count::HeardLost);
                    add_many(Count::HeardLost, 2);
                });
            }
        });
        let threads = u64::try_from(SLOTS * 2).unwrap();
        assert_eq!(now("bmap") - before.0, threads * 1000);
        assert_eq!(now("heard_lost") - before.1, threads * 3);
    }

    #[test]
    fn the_manual_names_all_but_requests() {
        let man = include_str!("../man/idmapfs.1").replace([',', '\n'], " ");
        for (word, _) in counts() {
            assert!(man.contains(&format!(" {word} ")), "{word}");
        }
    }

    #[test]
    fn every_number_has_a_place_and_a_word_of_its_own() {
        let mut words: Vec<&str> = requests().chain(counts()).map(|(word, _)| word).collect();
        assert_eq!(words.len(), NUMBERS);
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), NUMBERS);
        assert!(Count::ALL.iter().all(|what| (Kind::ALL.len()..NUMBERS).contains(&place(*what))));
    }
}
