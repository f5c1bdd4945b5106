//! What one input costs and reaches: memory, processor time, code.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

thread_local! {
    static IN_USE: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that each thread has in use.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    /// Notes that as many bytes are in use less, and then more.
    fn note(less: usize, more: usize) {
        // A thread at its end has no such variables any more.
        let _ = IN_USE.try_with(|in_use| {
            // What another thread allocated may be freed here.
            let now = in_use.get().saturating_sub(less).saturating_add(more);
            in_use.set(now);
            MOST.with(|most| most.set(most.get().max(now)));
        });
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(0, layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::note(layout.size(), 0);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(layout.size(), size);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Calls, and returns how many more bytes were in use at most than before, and
/// how long a processor was at it.
pub fn measured<T>(call: impl FnOnce() -> T) -> (T, usize, Duration) {
    let before = IN_USE.get();
    MOST.set(before);
    let began = processor();
    let done = call();
    (done, MOST.get() - before, processor().saturating_sub(began))
}

/// Returns the processor time of this thread.
fn processor() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The compiler's counters, one for each edge between pieces of code, if it was
/// told to count: see `section_fuzz` of run.sh.
static COUNTERS: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static HOW_MANY: AtomicUsize = AtomicUsize::new(0);

/// Called before `main` by each part of the program that counts, always with
/// the same two ends of all counters.
// SAFETY: nothing else has this name; it is that of the compiler's interface.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(first: *mut u8, end: *mut u8) {
    COUNTERS.store(first, Ordering::Relaxed);
    HOW_MANY.store(end.addr() - first.addr(), Ordering::Relaxed);
}

/// Which code was reached so far, and about how often by one input.
#[derive(Debug, Default)]
pub struct Reached(Vec<u8>);

impl Reached {
    /// Forgets what has run until now.
    pub fn begin() {
        counters().iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// Adds what has run since [`Reached::begin`]; reports whether any is new.
    pub fn add(&mut self) -> bool {
        let counters = counters();
        self.0.resize(counters.len(), 0);
        let mut new = false;
        for (counter, seen) in counters.iter().zip(&mut self.0) {
            let bit = match counter.load(Ordering::Relaxed) {
                0 => continue,
                1 => 1,
                2 => 2,
                3 => 4,
                4..8 => 8,
                8..16 => 16,
                16..32 => 32,
                32..128 => 64,
                128.. => 128,
            };
            new |= *seen & bit == 0;
            *seen |= bit;
        }
        new
    }

    /// Returns how many edges were reached, and how many there are.
    pub fn edges(&self) -> (usize, usize) {
        (self.0.iter().filter(|seen| **seen != 0).count(), self.0.len())
    }
}

fn counters() -> &'static [AtomicU8] {
    let (first, count) = (COUNTERS.load(Ordering::Relaxed), HOW_MANY.load(Ordering::Relaxed));
    if first.is_null() {
        return &[];
    }
    // SAFETY: the compiler has so many bytes there for as long as the program
    // runs, and what counts does not mind others.
    unsafe { std::slice::from_raw_parts(first.cast::<AtomicU8>(), count) }
}
