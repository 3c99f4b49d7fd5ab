//! Unix stream sockets (unix(7)), as far as they differ from TCP ones. Connecting succeeds or fails at once; no
//! byte is counted; and there is no way to reset one: its peer reads `ECONNRESET` if the socket is closed with
//! something unread in it (`unix_release_sock`, net/unix/af_unix.c), else the end of the stream.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{
    Fd,
    address::RawAddress,
    check, check_len,
    fd::close,
    socket::{CLOSE_WAIT, CLOSED, ESTABLISHED, FIN_WAIT2, LAST_ACK, get_int, set_int},
};

/// Makes a non-blocking socket to connect with.
///
/// # Errors
/// The descriptor limit is reached.
pub fn stream() -> io::Result<Fd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
    // SAFETY: integers only.
    let socket = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }).map(Fd::from_raw)?;
    prepare(socket).inspect_err(|_| close(socket))?;
    Ok(socket)
}

/// Makes a non-blocking socket to listen with.
///
/// # Errors
/// The descriptor limit is reached.
pub fn listener() -> io::Result<Fd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: integers only.
    check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }).map(Fd::from_raw)
}

/// Makes a socket's file, at which nobody listens yet, with this mode: from the beginning, for to change it later by
/// the path could change another file's. Sets the process's umask for the moment, so other threads must not be there.
///
/// # Errors
/// `AddrInUse`: something is there. As open(2) with `O_CREAT`.
pub fn bind(socket: Fd, path: &Path, mode: libc::mode_t) -> io::Result<()> {
    let raw = RawAddress::of_path(path)?;
    let (address, len) = raw.as_raw();
    // SAFETY: `raw` lives for the call and `len` is its length. A socket's own mode is 0777 (sock_alloc, net/socket.c),
    // of which the umask leaves the rest (unix_bind, net/unix/af_unix.c).
    unsafe {
        let umask = libc::umask(!mode & 0o777);
        let bound = check(libc::bind(socket.raw(), address, len));
        libc::umask(umask);
        bound.map(drop)
    }
}

/// Connects, or does not.
///
/// # Errors
/// `ConnectionRefused`, `NotFound`: nobody listens there. `WouldBlock`: its queue is full.
pub fn connect(socket: Fd, path: &Path) -> io::Result<()> {
    super::socket::connect(socket, RawAddress::of_path(path)?)
}

/// Lets urgent bytes be read in their place, like any others: `splice` would skip them. To be done before the first
/// byte is read. (An accepted socket inherits nothing from the listening one.)
///
/// # Errors
/// Not a socket.
pub fn prepare(socket: Fd) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)
}

/// Whether [`prepare`] was called: one that was only just accepted is not prepared.
pub fn is_prepared(socket: Fd) -> bool {
    get_int(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE).is_ok_and(|inline| inline == 1)
}

/// The state that a TCP socket would be in. A peer that is gone counts as one that has ended after we did.
///
/// # Errors
/// Not a unix stream socket, or a listening one.
pub fn state(socket: Fd) -> io::Result<u8> {
    let of_socket = |option| get_int(socket, libc::SOL_SOCKET, option);
    let is_stream =
        of_socket(libc::SO_DOMAIN)? == libc::AF_UNIX && of_socket(libc::SO_TYPE)? == libc::SOCK_STREAM;
    if !is_stream || of_socket(libc::SO_ACCEPTCONN)? == 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Of nothing: it is refused if it could not be sent, and else the peer sees nothing.
    // SAFETY: no byte is read.
    let sent =
        unsafe { libc::send(socket.raw(), std::ptr::null(), 0, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    let we_ended = match check_len(sent) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => return Ok(CLOSED),
        Err(error) if error.raw_os_error() == Some(libc::EPIPE) => true,
        other => other.map(|_| false)?,
    };
    Ok(match (we_ended, super::poll::has_ended(socket)) {
        (false, false) => ESTABLISHED,
        (false, true) => CLOSE_WAIT,
        (true, false) => FIN_WAIT2,
        (true, true) => LAST_ACK,
    })
}

/// Where a socket is bound, or the one that it was accepted from; `None` if that is no path.
///
/// # Errors
/// Not a socket.
pub fn local_path(socket: Fd) -> io::Result<Option<PathBuf>> {
    let mut raw = RawAddress::empty();
    let (address, len) = raw.as_raw_mut();
    // SAFETY: `address` has room for `len` bytes.
    check(unsafe { libc::getsockname(socket.raw(), address, len) })?;
    Ok(raw.path().filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsStr::from_bytes(path))))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::Shutdown,
        os::unix::net::{UnixListener, UnixStream},
    };

    use super::*;
    use crate::sys::{pipe, socket, stream, would_block};

    fn fd(socket: &impl std::os::fd::AsRawFd) -> Fd {
        Fd::from_raw(socket.as_raw_fd())
    }

    fn listener() -> (tempfile::TempDir, UnixListener, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        (directory, UnixListener::bind(&path).unwrap(), path)
    }

    #[test]
    fn connecting_succeeds_or_fails_at_once() {
        let (directory, listener, path) = listener();
        let socket = stream().unwrap();
        assert_eq!(state(socket).unwrap(), CLOSED);
        connect(socket, &path).unwrap();
        assert_eq!((state(socket).unwrap(), is_prepared(socket)), (ESTABLISHED, true));
        let (mut accepted, _) = listener.accept().unwrap();
        assert_eq!(local_path(fd(&accepted)).unwrap(), Some(path.clone()));
        assert!(!is_prepared(fd(&accepted)));
        // That the state was asked for is not to be seen.
        close(socket);
        assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0);

        let full = loop {
            let error = connect(stream().unwrap(), &path).err();
            if error.is_some() {
                break error;
            }
        };
        assert!(would_block(&full.unwrap()));
        drop(listener);
        let refused = connect(stream().unwrap(), &path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let absent = connect(stream().unwrap(), &directory.path().join("no")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(connect(stream().unwrap(), Path::new(&"x".repeat(108))).is_err());
    }

    #[test]
    fn states_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let state = || socket::state(fd(&ours)).unwrap();
        theirs.write_all(b"bytes").unwrap();
        assert_eq!(state(), ESTABLISHED);
        ours.shutdown(Shutdown::Write).unwrap();
        assert_eq!(state(), FIN_WAIT2);
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(state(), LAST_ACK);
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(socket::state(fd(&ours)).unwrap(), CLOSE_WAIT);
        drop(theirs);
        assert_eq!(socket::state(fd(&ours)).unwrap(), LAST_ACK);
        let (_directory, listener, _) = listener();
        assert!(socket::state(fd(&listener)).is_err());
        assert!(super::super::is_unsupported(&stream::counters(fd(&ours)).unwrap_err()));
    }

    #[test]
    fn urgent_bytes_are_spliced_in_their_place() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        prepare(fd(&ours)).unwrap();
        let socket = socket2::SockRef::from(&theirs);
        socket.send(b"ab").unwrap();
        socket.send_out_of_band(b"X").unwrap();
        socket.send(b"cd").unwrap();
        let pipe = pipe::create(1 << 16).unwrap();
        while pipe::readable(fd(&ours)).unwrap() > 0 {
            assert!(pipe::splice(fd(&ours), pipe, 100).unwrap() > 0);
        }
        let mut bytes = [0; 5];
        std::fs::File::from(pipe.into_owned()).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"abXcd");
    }

    #[test]
    fn the_first_bytes_are_seen_and_taken_off() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"header, payload").unwrap();
        let mut bytes = [0; 6];
        assert_eq!((socket::peek(fd(&ours), &mut bytes).unwrap(), &bytes), (6, b"header"));
        assert_eq!(socket::discard(fd(&ours), 8).unwrap(), 8);
        assert_eq!((socket::peek(fd(&ours), &mut bytes).unwrap(), &bytes), (6, b"payloa"));
    }

    #[test]
    fn what_is_closed_with_something_unread_is_reset() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"unread").unwrap();
        socket::reset(fd(&ours));
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
