//! Threads that begin while requests are answered.
//!
//! A thread has the processors, the scheduling policy and the ids of the one that starts
//! it; and a worker may be bound to one processor, run where nothing else wants to, or act
//! as its caller. So once there is a starter, that starts all others.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Builder, JoinHandle};

/// What the starter does.
type Work = Box<dyn FnOnce() + Send>;

static STARTER: OnceLock<SyncSender<Work>> = OnceLock::new();

/// Starts the starter, as this thread is.
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

/// Starts a thread.
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

/// Returns how many threads of this process have a name that begins so.
///
/// # Errors
/// If `/proc` does not tell.
pub fn named(beginning: &str) -> io::Result<usize> {
    let mut count = 0_usize;
    for task in std::fs::read_dir("/proc/self/task")? {
        // It may have ended meanwhile.
        let name = std::fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        count = count.saturating_add(usize::from(name.starts_with(beginning)));
    }
    Ok(count)
}

/// Returns how many processors this thread may use.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn threads_are_counted_by_their_names() {
        let (end, ended) = channel::<()>();
        let thread = start("counted-1", move || ended.recv()).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        // It says its name itself.
        while named("counted-").unwrap() != 1 {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(1));
        }
        drop(end);
        assert!(thread.join().unwrap().is_err());
    }
}
