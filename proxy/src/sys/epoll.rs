//! Epoll sets: one per worker and pool, made by the supervisor, so that it outlives the pool.

use std::io;

use super::{Fd, call, check};

/// Readable.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Writable.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// Urgent data.
pub const PRI: u32 = libc::EPOLLPRI as u32;
/// The peer has shut down its writing half.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// Both halves are shut down.
pub const HUP: u32 = libc::EPOLLHUP as u32;
/// An error is pending.
pub const ERR: u32 = libc::EPOLLERR as u32;
/// Everything that a flow's socket can tell, once per change.
pub const FLOW: u32 = IN | OUT | PRI | RDHUP | libc::EPOLLET as u32;
/// The same but for what comes in. Not [`PRI`] either: the kernel wakes for that with every segment
/// (`sock_def_readable`, net/core/sock.c).
pub const FLOW_BUT_IN: u32 = FLOW & !(IN | PRI);

/// Connections to a listening socket that is in several sets: as a rule one of those that wait is told. It cannot
/// be changed by [`modify`].
pub const IN_ONE: u32 = IN | libc::EPOLLEXCLUSIVE as u32;

/// Events that one wait can answer.
pub const BATCH: usize = 256;

/// One readiness event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The event bits.
    pub mask: u32,
    /// What was given at [`add`].
    pub data: u64,
}

/// Makes an epoll set. It is close-on-exec: sets are handed over by fork, not by exec.
///
/// # Errors
/// The descriptor limit is reached.
pub fn create() -> io::Result<Fd> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Fd::from_raw)
}

/// Registers a descriptor.
///
/// # Errors
/// `EEXIST`: it is in the set already. `ENOSPC`: `/proc/sys/fs/epoll/max_user_watches` is reached.
pub fn add(set: Fd, fd: Fd, mask: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: mask, u64: data };
    // SAFETY: `event` lives for the call, which only reads it.
    check(unsafe { libc::epoll_ctl(set.raw(), libc::EPOLL_CTL_ADD, fd.raw(), &mut event) }).map(drop)
}

/// Changes what is told of a descriptor; nothing but errors for a mask of 0. What is so at the call is told, edges or
/// not (`ep_modify`, fs/eventpoll.c). Not being in the set is no error; answers whether it is.
pub fn modify(set: Fd, fd: Fd, mask: u32, data: u64) -> bool {
    let mut event = libc::epoll_event { events: mask, u64: data };
    // SAFETY: as in `add`. ENOENT: it is not in the set (any more), so there is nothing to change.
    unsafe { libc::epoll_ctl(set.raw(), libc::EPOLL_CTL_MOD, fd.raw(), &mut event) == 0 }
}

/// Takes a descriptor out of a set; not being in it is no error.
pub fn remove(set: Fd, fd: Fd) {
    // SAFETY: the event argument is ignored for DEL (epoll_ctl(2)).
    unsafe { libc::epoll_ctl(set.raw(), libc::EPOLL_CTL_DEL, fd.raw(), std::ptr::null_mut()) };
}

/// A worker's event buffer, in shared memory: what the kernel told a worker that died before it
/// acted is still there for the one that adopts its flows.
#[repr(C, align(8))]
#[derive(zerocopy::FromZeros, zerocopy::KnownLayout)]
pub struct EventBuffer {
    // struct epoll_event is packed to 12 bytes on x86_64 and 16 elsewhere.
    bytes: std::cell::UnsafeCell<[u8; size_of::<libc::epoll_event>() * BATCH]>,
}

// SAFETY: only the worker that the buffer belongs to (and after its death, its adopter) touches it.
unsafe impl Sync for EventBuffer {}

impl EventBuffer {
    /// Waits up to `timeout_ms` for events and answers how many there are. A signal ends the wait
    /// with none.
    ///
    /// # Errors
    /// The set is no epoll set.
    pub fn wait(&self, set: Fd, timeout_ms: i32) -> io::Result<usize> {
        let buffer = self.bytes.get().cast::<libc::epoll_event>();
        // SAFETY: the buffer holds BATCH events (its type) and nobody else uses it (Sync, above).
        let count = unsafe { call::epoll_wait(set.raw(), buffer, BATCH as i32, timeout_ms) };
        match check(count) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The event at `index`, which must be below [`BATCH`]; all-zero or stale if the last wait
    /// answered fewer.
    pub fn get(&self, index: usize) -> Event {
        assert!(index < BATCH, "event index {index} is out of the buffer");
        // SAFETY: in bounds (above); any bytes are a valid epoll_event; read unaligned, as it may be packed.
        let event = unsafe { self.bytes.get().cast::<libc::epoll_event>().add(index).read_unaligned() };
        Event { mask: event.events, data: event.u64 }
    }
}
