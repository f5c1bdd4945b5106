//! What others have changed in the source, as what the kernel has to be told.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::Ordering;

use super::Fs;
use crate::attr::Name;
use crate::error::Result;
use crate::source::{Happened, Key, What};

/// Something that the kernel is to ask for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Attributes and ACLs of a file.
    Attributes(u64),
    /// Contents and attributes of a file, or the listing of a directory.
    Pages(u64),
    /// Where a name in a directory leads, if anywhere.
    Name(u64, OsString),
    /// Everything that it knows, names included.
    All,
}

impl Fs {
    /// Takes note of a change, and passes on what the kernel has to be told.
    ///
    /// What is told of a file that the tree does not know is left out: whoever is
    /// just asking for it sees the note.
    pub fn heard(&self, happened: &Happened, tell: &mut dyn FnMut(Notice)) {
        // The kernel knows what it has asked us to do, by the number it asked for.
        if happened.own && !self.tree.any_moved() {
            return;
        }
        let own = happened.own;
        match &happened.what {
            What::Attributes(key) => {
                for number in self.changed(key, own) {
                    tell(Notice::Attributes(number));
                    // With attributes that it has been told to forget the kernel still
                    // decides who may remove or change a file, unless it looks the name
                    // up again.
                    for (dir, name) in self.places(number).unwrap_or_default() {
                        tell(Notice::Name(dir, name));
                    }
                }
            }
            What::Contents(key) => {
                self.fresh.note_contents((key.volume, key.ino));
                // Writes by one number are heard for the others.
                let several = self.tree.all_numbers(key).len() > 1;
                for number in self.changed(key, own) {
                    if !several {
                        self.ignore_contents(number);
                    }
                    // Of what it writes by itself the kernel keeps no pages, and of what
                    // nobody has open none count: the next open does not keep them.
                    let passed = self.is_passed_writing(number);
                    let read = !passed && self.opens.any(number).is_some();
                    let pages = read.then_some(Notice::Pages(number));
                    tell(pages.unwrap_or(Notice::Attributes(number)));
                }
            }
            What::Name { dir, name, file } => {
                let dirs = self.changed(dir, own);
                for &dir in &dirs {
                    // At once; the rest may have to wait.
                    tell(Notice::Attributes(dir));
                    tell(Notice::Name(dir, name.clone()));
                    tell(Notice::Pages(dir));
                }
                let Some(file) = file else { return };
                let files = self.changed(file, own);
                let elsewhere = |file: &u64| dirs.iter().any(|dir| self.leaves(*file, *dir, name));
                if files.iter().any(elsewhere) {
                    self.lose();
                    tell(Notice::All);
                }
                for number in files {
                    tell(Notice::Attributes(number));
                }
            }
            What::Lost => {
                self.lose();
                tell(Notice::All);
            }
        }
    }

    /// Notes that anything may have changed: all has to be told again.
    pub fn lose(&self) {
        self.fresh.note_all();
        if self.fresh.marked.swap(false, Ordering::SeqCst) {
            self.tree.unhear();
        }
        // For whoever began in between.
        self.fresh.note_all();
    }

    /// Notes a change of a file; returns the numbers by which it is known. What we
    /// did ourselves is news only for a file with several.
    fn changed(&self, key: &Key, own: bool) -> Vec<u64> {
        let mut numbers = self.tree.all_numbers(key);
        if own && numbers.len() < 2 {
            return Vec::new();
        }
        // Before the tree is asked: who comes later to it will see this.
        self.fresh.note((key.volume, key.ino));
        numbers.retain(|number| self.tree.knows(*number));
        numbers
    }

    /// Reports whether a known directory has come to a name where other rules are
    /// in force, for it and all below.
    fn leaves(&self, number: u64, dir: u64, name: &OsStr) -> bool {
        let Some(policy) = self.ruled() else { return false };
        let rules = policy.rules();
        let Ok(name) = Name::new(name) else { return false };
        self.tree.is_dir(number) && !self.stays(rules, (dir, name), number)
    }

    /// Returns the missing names that the kernel was told of.
    pub fn missing(&self) -> Vec<(u64, OsString)> {
        self.fresh.negative.all()
    }

    /// Remembers no more that the kernel was told a name is missing: it is about to hear
    /// that it is to ask for it again.
    pub fn forget_missing(&self, dir: u64, name: &OsStr) {
        self.fresh.negative.remove(dir, name);
    }

    /// Reports whether a number is known, so that the kernel knows it, or is
    /// about to.
    pub fn knows(&self, number: u64) -> bool {
        self.tree.knows(number)
    }

    /// Reports whether a known file is a directory.
    pub fn is_dir(&self, number: u64) -> bool {
        self.tree.is_dir(number)
    }

    /// Reports whether there is no such name in the source.
    ///
    /// # Errors
    /// As `Tree::node` and `Source::lookup`.
    pub fn is_missing(&self, dir: u64, name: &OsStr) -> Result<bool> {
        let node = self.node(dir)?;
        self.existing(&node, Name::new(name)?).map(|found| found.is_none())
    }
}
