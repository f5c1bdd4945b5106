//! What an event says, in terms of a source.

use super::volumes::Watched;
use crate::source::{Key, What};
use crate::sys::fanotify::{Entry, Event, File};

impl Watched {
    /// Passes on what an event says, once for each volume that shows the file
    /// system, and whether that is the only one. Reports whether it was understood:
    /// if not, anything may have happened.
    pub fn tell(&self, event: &Event<'_>, pass: &mut dyn FnMut(What, bool)) -> bool {
        let file = event.file.as_ref();
        let names = [event.old, event.new, event.entry.filter(|_| event.is_name())];
        // A directory that something is done to comes as an entry of its own.
        let about = file.or(event.entry.as_ref().map(|entry| &entry.dir));
        let attributes = event.is_attributes().then_some(What::Attributes as fn(Key) -> What);
        let contents = event.is_contents().then_some(What::Contents as fn(Key) -> What);
        let changes = [attributes, contents];

        let anything = names.iter().any(Option::is_some) || changes.iter().any(Option::is_some);
        let mut understood = anything && !event.is_overflow();
        for entry in names.iter().flatten() {
            understood &= self.name(entry, file, pass);
        }
        for what in changes.into_iter().flatten() {
            understood &= about
                .is_some_and(|file| self.each(file, &mut |_, key, only| pass(what(key), only)));
        }
        understood
    }

    fn name(
        &self,
        entry: &Entry<'_>,
        file: Option<&File>,
        pass: &mut dyn FnMut(What, bool),
    ) -> bool {
        self.each(&entry.dir, &mut |volume, dir, only| {
            let file = file.and_then(|file| volume.key(&file.handle));
            pass(What::Name { dir, name: entry.name.to_owned(), file }, only);
        })
    }
}
