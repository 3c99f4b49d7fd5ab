//! The only place for syscalls and `unsafe`: one small safe function per call.
//!
//! The pools and the supervisor share ONE descriptor table, so descriptors are plain numbers
//! ([`Fd`]) and not owned objects: a number stays open when the process that opened it dies, which
//! is the point. Who may close which number is the flow table's business ([`crate::table`]).
//! A call on a number that was closed or reused meanwhile is an error or touches the wrong object,
//! never memory, so such calls are safe in Rust's sense.

pub mod access;
pub mod address;
pub mod bell;
pub mod bpf_map;
pub mod buffer;
mod call;
pub mod congestion;
pub mod credentials;
pub mod epoll;
pub mod exec;
pub mod fd;
pub mod listener;
pub mod listening;
pub mod mark;
pub mod memory;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod rights;
pub mod signal;
pub mod socket;
pub mod socket_memory;
pub mod stream;
pub mod time;
pub mod transparent;
pub mod udp;
pub mod unix;
pub mod urgent;

pub use fd::Fd;

use std::io;

/// The value of a call that answers -1 for "see errno".
pub(crate) fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// The same for calls that answer a length.
pub(crate) fn check_len(value: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

/// Whether a call failed for want of something of ours: descriptors, memory, epoll watches.
pub fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::ENOSPC];
    error.raw_os_error().is_some_and(|code| exhausted.contains(&code))
}

/// Whether a socket is of a kind that the call does not know, such as a unix one where TCP is asked for.
pub fn is_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Whether a call said "not now": the descriptor is dry or full.
pub fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
