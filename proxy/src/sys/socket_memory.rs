//! How full a socket's receive buffer is.

use std::io;

use super::{Fd, check};

/// `SO_MEMINFO` of a socket (`sk_get_meminfo`, net/core/sock.c; linux/sock_diag.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMemory {
    /// Bytes waiting to be received, with the kernel's overhead.
    pub queued_bytes: u32,
    /// Datagrams that the kernel dropped because the buffer was full (or their checksum wrong),
    /// since the socket was made; wraps.
    pub drops: u32,
}

/// Reads it.
///
/// # Errors
/// Not a socket.
pub fn read(socket: Fd) -> io::Result<SocketMemory> {
    const RMEM_ALLOC: usize = 0;
    const DROPS: usize = 8;
    let mut words = [0u32; DROPS + 1];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: at most `len` bytes are written to a live local array of that size.
    check(unsafe {
        libc::getsockopt(
            socket.raw(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &mut len,
        )
    })?;
    Ok(SocketMemory { queued_bytes: words[RMEM_ALLOC], drops: words[DROPS] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_waiting_datagram_is_seen() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = Fd::from_raw(std::os::fd::AsRawFd::as_raw_fd(&socket));
        assert_eq!(read(fd).unwrap(), SocketMemory { queued_bytes: 0, drops: 0 });
        socket.send_to(b"waits", socket.local_addr().unwrap()).unwrap();
        assert!(read(fd).unwrap().queued_bytes > 0);
    }
}
