//! TCP urgent data. `splice` stops before the urgent mark, and answers EAGAIN or 0 (a false end
//! of stream) there, so the byte at the mark has to be read by `recv` (tcp(7); `tcp_read_sock` in net/ipv4/tcp.c).

use std::io;

use super::{Fd, check, check_len};

/// Whether the next byte to read is the urgent one (`SIOCATMARK`).
///
/// # Errors
/// Not a stream socket.
pub fn at_mark(socket: Fd) -> io::Result<bool> {
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut mark: libc::c_int = 0;
    // SAFETY: SIOCATMARK writes one int.
    match check(unsafe { libc::ioctl(socket.raw(), SIOCATMARK, &mut mark) }) {
        // A unix socket, of a kernel without urgent bytes there (CONFIG_AF_UNIX_OOB).
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(false),
        other => other.map(|_| mark != 0),
    }
}

/// Looks at the next byte without taking it. Answers `None` at the end of the stream.
///
/// # Errors
/// `WouldBlock`: nothing to read.
pub fn peek(socket: Fd) -> io::Result<Option<u8>> {
    receive(socket, libc::MSG_PEEK)
}

/// Takes the next byte.
///
/// # Errors
/// As [`peek`].
pub fn take(socket: Fd) -> io::Result<Option<u8>> {
    receive(socket, 0)
}

fn receive(socket: Fd, flags: libc::c_int) -> io::Result<Option<u8>> {
    let mut byte = 0u8;
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: one byte is written to a live local.
    let count = unsafe { libc::recv(socket.raw(), (&raw mut byte).cast(), 1, flags) };
    Ok((check_len(count)? == 1).then_some(byte))
}
