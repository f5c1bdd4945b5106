//! Owners of range locks that wait for each other.
//!
//! As the kernel does for its own locks (`posix_locks_deadlock` of fs/locks.c): who is
//! about to wait for an owner that waits for them, directly or through others, is
//! refused. Only owners of this mount are known. The kernel leaves OFD locks out;
//! here they are owners as all others.

use std::collections::HashSet;
use std::sync::Mutex;

use super::opens::Opens;
use crate::source::Lock;
use crate::sync::lock;

/// A lock that an owner waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The inode.
    pub number: u64,
    /// The owner, as the kernel numbers them.
    pub owner: u64,
    /// The range and what is wanted.
    pub lock: Lock,
}

/// All locks that owners wait for.
#[derive(Debug, Default)]
pub(super) struct Deadlocks {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    list: Vec<(Ticket, Wanted)>,
    /// The ticket of the next that comes.
    tickets: u64,
}

/// Stands for one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Deadlocks {
    /// Notes that an owner waits from now on; `None` if that would last for ever.
    pub(super) fn enter(&self, opens: &Opens, wanted: Wanted) -> Option<Ticket> {
        let mut waiting = lock(&self.waiting);
        if waiting.closes_a_circle(opens, &wanted) {
            return None;
        }
        let ticket = Ticket(waiting.tickets);
        waiting.tickets = waiting.tickets.wrapping_add(1);
        waiting.list.push((ticket, wanted));
        Some(ticket)
    }

    /// Notes the end of a wait.
    pub(super) fn leave(&self, ticket: Ticket) {
        lock(&self.waiting).list.retain(|(other, _)| *other != ticket);
    }
}

impl Waiting {
    fn closes_a_circle(&self, opens: &Opens, wanted: &Wanted) -> bool {
        let mut seen = HashSet::new();
        let mut next = opens.in_the_way(wanted.number, wanted.owner, &wanted.lock);
        while let Some(holder) = next.pop() {
            if holder == wanted.owner {
                return true;
            }
            if seen.insert(holder) {
                let theirs = self.list.iter().filter(|(_, other)| other.owner == holder);
                for (_, other) in theirs {
                    next.extend(opens.in_the_way(other.number, other.owner, &other.lock));
                }
            }
        }
        false
    }
}
