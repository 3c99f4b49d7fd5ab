//! `poll(2)`, for the supervisor.

use std::{io, time::Duration};

use super::{Fd, check};

/// Waits until one of `fds` is readable, at most `timeout`, and says which are. A signal ends the
/// wait early with none.
///
/// # Errors
/// Out of memory.
pub fn readable(fds: &[Fd], timeout: Duration) -> io::Result<Vec<bool>> {
    ready(fds, libc::POLLIN, timeout)
}

/// Whether there is something to read, or to accept.
pub fn has_event(socket: Fd) -> bool {
    now(socket, libc::POLLIN) != 0
}

/// Whether a socket would take bytes now.
pub fn writable_now(socket: Fd) -> bool {
    now(socket, libc::POLLOUT) != 0
}

/// Whether a stream's peer has ended it: there is nothing behind what can be read now.
pub fn has_ended(socket: Fd) -> bool {
    now(socket, libc::POLLRDHUP) != 0
}

/// Whether a socket has an error that nobody has taken yet.
pub fn has_failed(socket: Fd) -> bool {
    now(socket, 0) & libc::POLLERR != 0
}

/// What there is of these events, and of those that are always told; nothing if it cannot be asked.
fn now(fd: Fd, events: libc::c_short) -> libc::c_short {
    let mut polled = libc::pollfd { fd: fd.raw(), events, revents: 0 };
    // SAFETY: one live local.
    unsafe { libc::poll(&mut polled, 1, 0) };
    polled.revents
}

fn ready(fds: &[Fd], events: libc::c_short, timeout: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.raw(), events, revents: 0 }).collect();
    let timeout_ms = timeout.as_millis().min(i32::MAX as u128) as i32;
    // SAFETY: pointer and length are those of a live vector.
    let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
    match check(count) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(polled.iter().map(|polled| polled.revents != 0).collect())
}
