//! What is heard of a source in memory: what a test says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::super::{Covers, Happened, Key, Node, Unwatched, Watch, What};
use super::Memory;
use crate::error::Result;
use crate::sync::lock;

/// A watch whose words a test puts in its mouth.
#[derive(Debug)]
pub struct Script {
    /// How much is heard of each volume; of others nothing.
    pub covers: Mutex<HashMap<u64, Covers>>,
    /// Why no directory is heard of any more.
    pub shortage: Mutex<Option<String>>,
    /// How often a directory was to be heard.
    pub added: AtomicUsize,
    /// How often contents were to be ignored.
    pub ignored: AtomicUsize,
    era: AtomicU64,
    sender: Sender<Option<Happened>>,
    receiver: Mutex<Receiver<Option<Happened>>>,
}

impl Script {
    /// Makes one that hears so much of the volume of the root.
    pub fn new(covers: Covers) -> Arc<Self> {
        let (sender, receiver) = channel();
        Arc::new(Self {
            covers: Mutex::new(HashMap::from([(0, covers)])),
            shortage: Mutex::default(),
            added: AtomicUsize::new(0),
            ignored: AtomicUsize::new(0),
            era: AtomicU64::new(1),
            sender,
            receiver: Mutex::new(receiver),
        })
    }

    /// Says that something has happened.
    pub fn say(&self, what: What) {
        if what == What::Lost {
            self.era.fetch_add(1, Ordering::SeqCst);
        }
        self.sender.send(Some(Happened { what, own: false })).unwrap();
    }
}

impl Memory {
    /// Returns the identity of what a node holds.
    pub fn key(&self, node: &Node) -> Key {
        let serial = self.serial(node).unwrap();
        self.shared.lock().found(serial).unwrap().key
    }
}

impl Watch for Script {
    fn covers(&self, volume: u64) -> Covers {
        lock(&self.covers).get(&volume).copied().unwrap_or(Covers::Nothing)
    }

    fn unwatched(&self, volume: u64) -> Option<Unwatched> {
        (self.covers(volume) == Covers::Nothing).then(|| Unwatched("not in the script".to_owned()))
    }

    fn add(&self, _: &Node) -> Option<u64> {
        self.added.fetch_add(1, Ordering::SeqCst);
        self.shortage().is_none().then(|| self.era())
    }

    fn shortage(&self) -> Option<String> {
        lock(&self.shortage).clone()
    }

    fn era(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    fn wait(&self, each: &mut dyn FnMut(&Happened) -> bool) -> Result<()> {
        if let Ok(Some(happened)) = lock(&self.receiver).recv() {
            each(&happened);
        }
        Ok(())
    }

    fn wake(&self) {
        self.sender.send(None).unwrap();
    }

    fn ignore_contents(&self, _: &Node) {
        self.ignored.fetch_add(1, Ordering::SeqCst);
    }

    fn heed_contents(&self, _: &Node) {}

    fn describe(&self) -> String {
        "by a script".to_owned()
    }
}
