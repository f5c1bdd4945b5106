//! Nodes kept open because they are likely to be needed again.

use std::sync::{Mutex, MutexGuard};

use lru::LruCache;

use crate::source::{Key, Node};
use crate::sync::lock;

/// How many parts the cache has at most; each has a lock of its own.
const SHARDS: usize = 16;
/// A part is not worth its lock with fewer nodes than this.
const SHARD_MIN: usize = 64;

type Shard = LruCache<u64, (Key, Node)>;

/// Open nodes by number, the least recently used ones closed first.
#[derive(Debug)]
pub(super) struct Nodes {
    /// How many nodes each part holds at most.
    capacity: usize,
    shards: Box<[Mutex<Shard>]>,
}

impl Nodes {
    /// Makes an empty cache of at most `capacity` nodes, but at least one.
    pub(super) fn new(capacity: usize) -> Self {
        let shards = capacity.checked_div(SHARD_MIN).map_or(1, |parts| parts.clamp(1, SHARDS));
        let capacity = capacity.checked_div(shards).map_or(1, |part| part.max(1));
        // Not `LruCache::new`: that would allocate the capacity at once.
        let shards = (0..shards).map(|_| Mutex::new(LruCache::unbounded())).collect();
        Self { capacity, shards }
    }

    /// Returns the node of a number if it is this file's.
    pub(super) fn get(&self, number: u64, key: &Key) -> Option<Node> {
        let mut shard = self.shard(number)?;
        shard.get(&number).filter(|(of, _)| of == key).map(|(_, node)| node.clone())
    }

    /// Adds a node, and returns it or the one of the same file that another
    /// thread was first to add.
    pub(super) fn put(&self, number: u64, key: Key, node: Node) -> Node {
        let Some(mut shard) = self.shard(number) else {
            return node;
        };
        if let Some((_, first)) = shard.get(&number).filter(|(of, _)| *of == key) {
            return first.clone();
        }
        let old = shard.push(number, (key, node.clone()));
        let last = if shard.len() > self.capacity { shard.pop_lru() } else { None };
        // Closed without the lock.
        drop(shard);
        drop((old, last));
        node
    }

    /// Takes the node of a number out.
    pub(super) fn remove(&self, number: u64) {
        let node = self.shard(number).and_then(|mut shard| shard.pop(&number));
        drop(node);
    }

    /// Lets the less recently used half go; returns how many.
    pub(super) fn shrink(&self) -> usize {
        let mut gone = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let half = shard.len().div_ceil(2);
            gone.extend((0..half).map_while(|_| shard.pop_lru()));
        }
        gone.len()
    }

    /// Returns how many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, number: u64) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(super::spread(number, self.shards.len())).map(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64) -> Key {
        Key { volume: 0, ino, generation: 0 }
    }

    #[test]
    fn holds_at_most_its_capacity() {
        for capacity in [0, 1, 8, 63, 64, 1000, 5000] {
            let nodes = Nodes::new(capacity);
            for n in 0..20_000 {
                drop(nodes.put(n, key(n), Node::new(n)));
            }
            assert!(nodes.len() <= capacity.max(1), "{capacity}");
            assert!(nodes.len() >= capacity * 9 / 10, "{capacity}: {}", nodes.len());
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let nodes = Nodes::new(3);
        for n in [1, 2, 3, 1, 4] {
            if nodes.get(n, &key(n)).is_none() {
                drop(nodes.put(n, key(n), Node::new(n)));
            }
        }
        let held: Vec<u64> = (0..9).filter(|n| nodes.get(*n, &key(*n)).is_some()).collect();
        assert_eq!(held, [1, 3, 4]);
        assert_eq!(nodes.shrink(), 2);
        assert!(nodes.get(4, &key(4)).is_some());
        assert_eq!((nodes.shrink(), nodes.shrink()), (1, 0));
    }

    #[test]
    fn a_node_of_another_file_is_not_given_out() {
        let nodes = Nodes::new(3);
        let (old, new) = (key(9), Key { generation: 1, ..key(9) });
        drop(nodes.put(9, old.clone(), Node::new("old")));
        assert!(nodes.get(9, &new).is_none());
        assert_eq!(nodes.put(9, old.clone(), Node::new("late")).get(), Some(&"old"));
        assert_eq!(nodes.put(9, new.clone(), Node::new("new")).get(), Some(&"new"));
        assert!(nodes.get(9, &old).is_none());
        assert_eq!(nodes.get(9, &new).unwrap().get(), Some(&"new"));
        nodes.remove(9);
        assert_eq!(nodes.len(), 0);
    }
}
