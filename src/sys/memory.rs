//! Memory that the allocator keeps for later.

/// Gives the pages back that nothing is in.
///
/// The allocator of the GNU C library keeps what was freed, but for the end of
/// its heap: see malloc_trim(3). Others give it back by themselves, or cannot.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number only, and may be made by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
