//! Locks whose holder may have panicked: what they guard is plain data that is
//! whole after every step, so the next one goes on with it. Threads that others start.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::thread::{self, Builder, JoinHandle};

/// Locks a mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Something to be done by the thread that starts others.
type Work = Box<dyn FnOnce() + Send>;

static STARTER: OnceLock<SyncSender<Work>> = OnceLock::new();

/// Has a thread of its own start all others from now on, see [`start`].
///
/// A thread has the processors and the scheduling policy of the one that starts it, and
/// a worker may be bound to one processor, and run where nothing else wants to.
///
/// # Errors
/// If it cannot be started.
pub fn begin_starter() -> io::Result<()> {
    let (sender, work) = sync_channel::<Work>(1);
    let starter = Builder::new().name("starter".to_owned());
    drop(starter.spawn(move || work.into_iter().for_each(|work| work()))?);
    STARTER.get_or_init(|| sender);
    Ok(())
}

/// Starts a thread; what it shares with the one that asks is the process alone, once
/// there is a starter.
///
/// # Errors
/// If it cannot be started.
pub fn start<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let builder = Builder::new().name(name.to_owned());
    let Some(starter) = STARTER.get() else { return builder.spawn(body) };
    let (tell, started) = sync_channel(1);
    let work = move || {
        let (Ok(()) | Err(_)) = tell.send(builder.spawn(body));
    };
    // A starter that is gone says nothing.
    drop(starter.send(Box::new(work)));
    started.recv().map_err(io::Error::other)?
}

/// Returns how many processors this thread may use.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
