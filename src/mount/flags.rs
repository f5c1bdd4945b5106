//! The flags of a mount, in the kernel's words and in those of fusermount3.

use super::error::MountError;
use super::options::{Atime, Flags};
pub(super) use crate::sys::mount::Attributes;

impl Flags {
    /// Returns the flags with the defaults in place of what was not given.
    pub(super) fn with_defaults(self) -> Self {
        Self {
            read_only: self.read_only.or(Some(false)),
            suid: self.suid.or(Some(false)),
            dev: self.dev.or(Some(false)),
            exec: self.exec.or(Some(true)),
            symfollow: self.symfollow.or(Some(true)),
            atime: self.atime.or(Some(Atime::Relative)),
            diratime: self.diratime.or(Some(true)),
        }
    }

    /// Returns the flags with the defaults in place of what was not given, but for what
    /// stays on any remount: access times, and `ro`, which mount(8) says anyway.
    pub(super) fn with_defaults_of_a_remount(self) -> Self {
        let Self { read_only, atime, diratime, .. } = self;
        Self { read_only, atime, diratime, ..self.with_defaults() }
    }

    /// Returns the attributes to change.
    pub(super) fn attributes(self) -> Attributes {
        let not = |on: Option<bool>| on.map(|on| !on);
        let mut attributes = Attributes::default();
        let bits = [
            (libc::MOUNT_ATTR_RDONLY, self.read_only),
            (libc::MOUNT_ATTR_NOSUID, not(self.suid)),
            (libc::MOUNT_ATTR_NODEV, not(self.dev)),
            (libc::MOUNT_ATTR_NOEXEC, not(self.exec)),
            (libc::MOUNT_ATTR_NOSYMFOLLOW, not(self.symfollow)),
            (libc::MOUNT_ATTR_NODIRATIME, not(self.diratime)),
        ];
        for (bit, on) in bits {
            match on {
                Some(true) => attributes.set |= bit,
                Some(false) => attributes.clear |= bit,
                None => {}
            }
        }
        if let Some(atime) = self.atime {
            // The three are values of one field, which is cleared as a whole.
            attributes.clear |= libc::MOUNT_ATTR__ATIME;
            attributes.set |= match atime {
                Atime::Relative => libc::MOUNT_ATTR_RELATIME,
                Atime::Strict => libc::MOUNT_ATTR_STRICTATIME,
                Atime::Never => libc::MOUNT_ATTR_NOATIME,
            };
        }
        attributes
    }

    /// Returns what to change of the server's copy of the source's mount, where access
    /// times change when something is read: by a read-only mount none do.
    pub(super) fn access_times(self) -> Attributes {
        let atime = if self.read_only == Some(true) { Some(Atime::Never) } else { self.atime };
        Self { atime, diratime: self.diratime, ..Self::default() }.attributes()
    }

    /// Reports whether they say when access times change.
    pub(super) const fn say_access_times(self) -> bool {
        self.atime.is_some() || self.diratime.is_some()
    }

    /// Returns the words that fusermount3 takes for them.
    ///
    /// # Errors
    /// `suid` and `dev`, which it leaves out without a word; `nosymfollow`, which not
    /// each version of it knows.
    pub(super) fn helper_words(self) -> Result<Vec<&'static str>, MountError> {
        if self.suid == Some(true) {
            return Err(MountError::Unprivileged("suid"));
        }
        if self.dev == Some(true) {
            return Err(MountError::Unprivileged("dev"));
        }
        if self.symfollow == Some(false) {
            return Err(MountError::Unprivileged("nosymfollow"));
        }
        let words = [
            (self.read_only == Some(true), "ro"),
            (self.exec == Some(false), "noexec"),
            (self.atime == Some(Atime::Never), "noatime"),
            (self.diratime == Some(false), "nodiratime"),
        ];
        Ok(words.into_iter().filter_map(|(on, word)| on.then_some(word)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_nosuid_and_nodev() {
        let attributes = Flags::default().with_defaults().attributes();
        assert_eq!(attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV);
        assert_eq!(Flags::default().attributes(), Attributes::default());
    }

    #[test]
    fn each_flag_is_set_or_cleared() {
        let given = Flags {
            read_only: Some(true),
            suid: Some(true),
            dev: Some(true),
            exec: Some(false),
            symfollow: Some(false),
            atime: Some(Atime::Never),
            diratime: Some(false),
        };
        let Attributes { set, clear } = given.attributes();
        let (ro, noexec) = (libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_NOEXEC);
        let noatime = libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NODIRATIME;
        assert_eq!(set, ro | noexec | libc::MOUNT_ATTR_NOSYMFOLLOW | noatime);
        let (nosuid, nodev) = (libc::MOUNT_ATTR_NOSUID, libc::MOUNT_ATTR_NODEV);
        assert_eq!(clear, nosuid | nodev | libc::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn access_times_of_the_source_change_as_was_said() {
        let (given, never) = (Flags::default(), libc::MOUNT_ATTR_NOATIME);
        let clear = libc::MOUNT_ATTR__ATIME;
        for (flags, set, clear) in [
            (Flags { suid: Some(true), read_only: Some(false), ..given }, 0, 0),
            (Flags { atime: Some(Atime::Never), ..given }, never, clear),
            (Flags { atime: Some(Atime::Strict), ..given }, libc::MOUNT_ATTR_STRICTATIME, clear),
            (Flags { read_only: Some(true), atime: Some(Atime::Strict), ..given }, never, clear),
            (Flags { diratime: Some(false), ..given }, libc::MOUNT_ATTR_NODIRATIME, 0),
        ] {
            assert_eq!(flags.access_times(), Attributes { set, clear }, "{flags:?}");
        }
    }

    #[test]
    fn the_helper_refuses_what_it_would_drop() {
        for (flags, word) in [
            (Flags { suid: Some(true), ..Flags::default() }, "suid"),
            (Flags { dev: Some(true), ..Flags::default() }, "dev"),
            (Flags { symfollow: Some(false), ..Flags::default() }, "nosymfollow"),
        ] {
            let error = flags.helper_words().unwrap_err();
            assert!(matches!(error, MountError::Unprivileged(w) if w == word), "{error}");
        }
        let flags = Flags { read_only: Some(true), exec: Some(false), ..Flags::default() };
        assert_eq!(flags.helper_words().unwrap(), ["ro", "noexec"]);
    }
}
