//! Bells: event counters that wake a worker.

use std::io;

use super::{Fd, check};

/// An event counter (eventfd(2)), non-blocking, to ring a worker with.
///
/// # Errors
/// The descriptor limit is reached.
pub fn create() -> io::Result<Fd> {
    // SAFETY: integers only.
    check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) }).map(Fd::from_raw)
}

/// Makes the bell's descriptor readable.
pub fn ring(bell: Fd) {
    let one = 1u64;
    // SAFETY: eight bytes are read from a live local. EAGAIN means that it rings already.
    unsafe { libc::write(bell.raw(), (&raw const one).cast(), 8) };
}

/// Makes it unreadable again.
pub fn silence(bell: Fd) {
    let mut count = 0u64;
    // SAFETY: eight bytes are written to a live local.
    unsafe { libc::read(bell.raw(), (&raw mut count).cast(), 8) };
}
