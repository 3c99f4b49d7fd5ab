//! Passing descriptors to another process (`SCM_RIGHTS`, unix(7)).

use std::{io, time::Duration};

use super::{Fd, check, check_len};

/// Descriptors that one message can carry (`SCM_MAX_FD`, include/net/scm.h).
pub const MOST_AT_ONCE: usize = 253;

/// Room for a control message with so many descriptors, as whole words, which it must be aligned to.
const CONTROL_WORDS: usize = 16 + MOST_AT_ONCE / 2;

/// A pair of connected message-keeping local sockets, close-on-exec, on which nothing waits for longer than
/// `patience`.
///
/// # Errors
/// The descriptor limit is reached.
pub fn pair(patience: Duration) -> io::Result<(Fd, Fd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for the two numbers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    let ends = ends.map(Fd::from_raw);
    for end in ends {
        set_patience(end, patience)?;
    }
    Ok((ends[0], ends[1]))
}

fn set_patience(socket: Fd, patience: Duration) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_usec: patience.subsec_micros() as libc::suseconds_t,
    };
    let len = size_of_val(&time) as libc::socklen_t;
    for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
        let value = (&raw const time).cast();
        // SAFETY: `len` bytes are read from a live local.
        check(unsafe { libc::setsockopt(socket.raw(), libc::SOL_SOCKET, option, value, len) })?;
    }
    Ok(())
}

/// Sends one message with at most [`MOST_AT_ONCE`] descriptors, which stay open here.
///
/// # Errors
/// `WouldBlock`: the other end has not read for the socket's patience. `BrokenPipe`: it is gone.
pub fn send(socket: Fd, bytes: &[u8], fds: &[Fd]) -> io::Result<()> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `message` names live locals only, whose lengths it tells: one part that is read, and a control
    // buffer that is aligned and has room for the header and MOST_AT_ONCE numbers (asserted).
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        if !fds.is_empty() {
            assert!(fds.len() <= MOST_AT_ONCE, "{} descriptors in one message", fds.len());
            let len = size_of_val(fds) as u32;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len) as _;
            let numbers = libc::CMSG_DATA(header).cast::<i32>();
            for (index, fd) in fds.iter().enumerate() {
                numbers.add(index).write_unaligned(fd.raw());
            }
        }
        check_len(libc::sendmsg(socket.raw(), &raw const message, libc::MSG_NOSIGNAL)).map(drop)
    }
}

/// Receives one message of at most `buffer`'s length and appends its descriptors, close-on-exec, to `fds`.
/// Answers the message's length; 0 if the other end is gone.
///
/// # Errors
/// `WouldBlock`: none came for the socket's patience. `InvalidData`: the message is longer, or has more
/// descriptors than this process may open.
pub fn receive(socket: Fd, buffer: &mut [u8], fds: &mut Vec<Fd>) -> io::Result<usize> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: as in `send`; the kernel writes at most the lengths told, and the headers that are walked are
    // those that it wrote.
    let (len, flags) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let len = check_len(libc::recvmsg(socket.raw(), &raw mut message, libc::MSG_CMSG_CLOEXEC))?;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers = libc::CMSG_DATA(header).cast::<i32>();
                let read = |index| Fd::from_raw(numbers.add(index).read_unaligned());
                fds.extend((0..bytes / size_of::<i32>()).map(read));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        (len, message.msg_flags)
    };
    if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut"));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{bell, fd::close, poll};

    #[test]
    fn descriptors_arrive_with_their_message_and_name_the_same_objects() {
        let (ours, theirs) = pair(Duration::from_secs(5)).unwrap();
        let bells: Vec<Fd> = (0..MOST_AT_ONCE).map(|_| bell::create().unwrap()).collect();
        send(ours, b"bells", &bells).unwrap();
        send(ours, b"none", &[]).unwrap();
        let (mut buffer, mut got) = ([0; 16], Vec::new());
        assert_eq!(receive(theirs, &mut buffer, &mut got).unwrap(), 5);
        assert_eq!(got.len(), MOST_AT_ONCE);
        bell::ring(bells[7]);
        assert!(poll::readable(&[got[7]], Duration::ZERO).unwrap()[0]);
        assert!(!poll::readable(&[got[8]], Duration::ZERO).unwrap()[0]);
        assert_eq!(receive(theirs, &mut buffer, &mut got).unwrap(), 4);
        assert_eq!(got.len(), MOST_AT_ONCE);
        close(ours);
        assert_eq!(receive(theirs, &mut buffer, &mut got).unwrap(), 0);
        bells.into_iter().chain(got).chain([theirs]).for_each(close);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (ours, theirs) = pair(Duration::from_millis(10)).unwrap();
        let error = receive(theirs, &mut [0; 16], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let full = (0..100_000).find_map(|_| send(ours, &[0; 1024], &[]).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        [ours, theirs].into_iter().for_each(close);
    }
}
