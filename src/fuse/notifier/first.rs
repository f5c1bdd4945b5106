//! Answers that go out when pages are gone, not before.
//!
//! The kernel lets who drops pages of a file wait for reads of them that are under way,
//! which we answer. So one thread at a time does it, and the others stay free for that: what
//! they bring is left to the one that is at it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use crate::sync::lock;

/// What is done when the pages of a node are gone.
type Then = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    /// Whether a thread is at it.
    busy: bool,
    waiting: VecDeque<(u64, Then)>,
}

/// The answers that wait.
#[derive(Default)]
pub(super) struct First(Mutex<State>);

impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("First").finish_non_exhaustive()
    }
}

impl First {
    /// Has `forget` called for a node, and `then` after it; by this thread, or by another
    /// one that is at it already.
    pub(super) fn run(&self, node: u64, then: Then, forget: impl Fn(u64)) {
        let mut state = lock(&self.0);
        state.waiting.push_back((node, then));
        if state.busy {
            return;
        }
        state.busy = true;
        while let Some((node, then)) = state.waiting.pop_front() {
            drop(state);
            forget(node);
            then();
            state = lock(&self.0);
        }
        state.busy = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn who_comes_while_one_is_at_it_leaves_it_to_that() {
        let first = Arc::new(First::default());
        let ((began, begins), (go, goes), (done, all)) = (channel(), channel(), channel());
        let (other, said) = (Arc::clone(&first), done.clone());
        let one = thread::spawn(move || {
            let then = Box::new(move || said.send(1).unwrap());
            other.run(1, then, |node| {
                began.send(node).unwrap();
                goes.recv().unwrap();
            });
        });
        assert_eq!(begins.recv(), Ok(1));
        first.run(2, Box::new(move || done.send(2).unwrap()), |_| unreachable!());
        assert!(all.try_recv().is_err());
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert_eq!((begins.recv(), all.recv(), all.recv()), (Ok(2), Ok(1), Ok(2)));
        one.join().unwrap();
    }
}
