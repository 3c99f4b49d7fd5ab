//! What the kernel counts of a TCP stream.

use std::io;

use super::{Fd, check};

/// A socket's counters, all of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCounters {
    /// The TCP state (include/net/tcp_states.h).
    pub state: u8,
    /// Bytes received in order, a FIN counted as one (`tcpi_bytes_received`).
    pub received: u64,
    /// Bytes acknowledged by the peer, SYN (if we connected) and FIN counted as one each
    /// (`tcpi_bytes_acked`).
    pub acknowledged: u64,
    /// Bytes received and not read yet (`SIOCINQ`); a FIN is not counted.
    pub unread: u64,
    /// Bytes written and not acknowledged yet, a FIN counted as one (`SIOCOUTQ`).
    pub unacknowledged: u64,
}

/// Tries to read them before a busy connection is given up on.
const TRIES: usize = 100;

/// The part of `struct tcp_info` (linux/tcp.h) that matters here.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Info {
    state: u8,
    _bytes: [u8; 7],
    _words: [u32; 24],
    _rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
}

/// Reads a socket's counters. They take several calls, which are repeated until nothing has
/// happened between them.
///
/// # Errors
/// Not a TCP socket, or a kernel before 4.1; `WouldBlock` if the connection never rests.
pub fn counters(socket: Fd) -> io::Result<StreamCounters> {
    at_rest(socket, of_both)
}

/// The same, as far as they tell what was written: however fast the peer sends meanwhile. What they tell of received
/// bytes may be of different moments.
///
/// # Errors
/// As [`counters`].
pub fn counters_of_sink(socket: Fd) -> io::Result<StreamCounters> {
    at_rest(socket, of_sink)
}

/// The same, as far as they tell what was read: however fast the peer acknowledges meanwhile.
///
/// # Errors
/// As [`counters`].
pub fn counters_of_source(socket: Fd) -> io::Result<StreamCounters> {
    at_rest(socket, of_source)
}

/// What must not change while the counters of both directions are read.
fn of_both(info: &Info) -> impl PartialEq + use<> {
    (info.state, info.bytes_acked, info.bytes_received)
}

/// The same for the one direction.
fn of_source(info: &Info) -> impl PartialEq + use<> {
    (info.state, info.bytes_received)
}

/// The same for the other.
fn of_sink(info: &Info) -> impl PartialEq + use<> {
    (info.state, info.bytes_acked)
}

/// Reads them until nothing that matters has changed meanwhile.
fn at_rest<T: PartialEq>(socket: Fd, matters: impl Fn(&Info) -> T) -> io::Result<StreamCounters> {
    for _ in 0..TRIES {
        let before = info(socket)?;
        let unread = queued(socket, libc::FIONREAD)?;
        let unacknowledged = queued(socket, libc::TIOCOUTQ)?;
        let after = info(socket)?;
        if matters(&before) == matters(&after) {
            return Ok(StreamCounters {
                state: after.state,
                received: after.bytes_received,
                acknowledged: after.bytes_acked,
                unread,
                unacknowledged,
            });
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

fn info(socket: Fd) -> io::Result<Info> {
    // SAFETY: Info is plain integers, so zeroes and what the kernel writes are valid; `len` bounds the write.
    unsafe {
        let mut info: Info = std::mem::zeroed();
        let mut len = size_of::<Info>() as libc::socklen_t;
        let pointer = (&raw mut info).cast();
        check(libc::getsockopt(socket.raw(), libc::IPPROTO_TCP, libc::TCP_INFO, pointer, &mut len))?;
        if (len as usize) < size_of::<Info>() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(info)
    }
}

fn queued(socket: Fd, request: libc::Ioctl) -> io::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int (tcp(7)).
    check(unsafe { libc::ioctl(socket.raw(), request, &mut count) })?;
    Ok(count.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_received_meanwhile_is_nothing_to_what_was_written() {
        // SAFETY: plain integers, as in `info`.
        let info: Info = unsafe { std::mem::zeroed() };
        let (received, acked) = (Info { bytes_received: 9, ..info }, Info { bytes_acked: 9, ..info });
        let closing = Info { state: 4, ..info };
        assert!(of_sink(&info) == of_sink(&received) && of_both(&info) != of_both(&received));
        for other in [acked, closing] {
            assert!(of_sink(&info) != of_sink(&other) && of_both(&info) != of_both(&other));
        }
    }
}
