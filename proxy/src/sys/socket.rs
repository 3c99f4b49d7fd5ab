//! Sockets: listening, accepting, connecting, shutting down, resetting.

use std::{io, net::SocketAddr, time::Duration};

use super::{Fd, address::RawAddress, call, check, congestion, fd::close, is_unsupported, poll};

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// What a flow's TCP sockets have beside what all of them have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Idle time before the first keepalive probe.
    pub keepalive: Duration,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)); `None`: as the kernel's own
    /// retransmissions have it.
    pub user_timeout: Option<Duration>,
    /// Limit on sending, bytes a second (`SO_MAX_PACING_RATE`, socket(7)).
    pub pacing: Option<u64>,
    /// Not to be paced by the kernel's own choice of congestion control ([`congestion::unpace`]).
    pub is_unpaced: bool,
}

/// Makes a non-blocking TCP socket to connect with. [`keep_alive`] and [`send_at_once`] are for later: most connections
/// end before they matter.
///
/// # Errors
/// The descriptor limit is reached.
pub fn stream(to: SocketAddr, options: FlowOptions) -> io::Result<Fd> {
    let socket = new_socket(Protocol::Tcp, to, libc::SOCK_NONBLOCK)?;
    set_flow_options(socket, options).inspect_err(|_| close(socket))?;
    Ok(socket)
}

/// Makes a non-blocking UDP socket to reach an upstream server with.
///
/// # Errors
/// The descriptor limit is reached.
pub fn datagram(to: SocketAddr) -> io::Result<Fd> {
    new_socket(Protocol::Udp, to, libc::SOCK_NONBLOCK)
}

/// Starts to connect; readiness for writing tells the end of it.
///
/// # Errors
/// What connect(2) says at once, such as `ENETUNREACH`; being in progress is no error.
pub fn connect(socket: Fd, to: impl Into<RawAddress>) -> io::Result<()> {
    let raw = to.into();
    let (address, len) = raw.as_raw();
    // SAFETY: `raw` lives for the call and `len` is its length.
    match check(unsafe { call::connect(socket.raw(), address, len) }) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.map(drop),
    }
}

/// Accepts one waiting connection, non-blocking, open across exec, with its peer's address if that is an
/// internet one.
///
/// # Errors
/// `WouldBlock`: none waits. `ConnectionAborted`: it was reset meanwhile. `EMFILE`, `ENFILE`: no
/// descriptor left, and the connection goes on waiting.
pub fn accept(listener: Fd) -> io::Result<(Fd, Option<SocketAddr>)> {
    let mut raw = RawAddress::empty();
    let (address, len) = raw.as_raw_mut();
    // SAFETY: `address` has room for `len` bytes.
    let socket = check(unsafe { call::accept4(listener.raw(), address, len, libc::SOCK_NONBLOCK) })?;
    Ok((Fd::from_raw(socket), raw.decode()))
}

/// Looks at the first bytes of a stream without taking them; 0 if it has ended before any.
///
/// # Errors
/// `WouldBlock`: none has come.
pub fn peek(socket: Fd, buffer: &mut [u8]) -> io::Result<usize> {
    let (pointer, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and length are those of a live, exclusive slice.
    super::check_len(unsafe { call::recv(socket.raw(), pointer, len, libc::MSG_PEEK | libc::MSG_DONTWAIT) })
}

/// Takes the first bytes off a stream, a few. Answers how many, fewer if there are no more.
///
/// # Errors
/// `WouldBlock`: none has come.
pub fn discard(socket: Fd, bytes: usize) -> io::Result<usize> {
    // MSG_TRUNC (tcp(7)) would spare the copy, but a unix socket does not know it.
    receive_message(socket, &mut vec![0; bytes])
}

/// Writes bytes to a stream, as many as it takes now, and answers how many.
///
/// # Errors
/// `WouldBlock`: it is full. `BrokenPipe`, `ConnectionReset`: the peer is gone.
pub fn send(socket: Fd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: pointer and length are those of a live slice.
    super::check_len(unsafe { call::send(socket.raw(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Ends our sending: the peer reads the end of the stream. Doing it again is harmless.
pub fn shutdown_write(socket: Fd) {
    // SAFETY: integers only. ENOTCONN means that there is nobody left to tell.
    unsafe { libc::shutdown(socket.raw(), libc::SHUT_WR) };
}

/// Resets a connection (`connect` to `AF_UNSPEC`: `tcp_disconnect`, net/ipv4/tcp.c): the peer reads
/// `ECONNRESET`, bytes in the socket are dropped, the number stays open. To a unix socket it does nothing: closing it
/// is all that there is ([`super::unix`]).
pub fn reset(socket: Fd) {
    // SAFETY: all-zero is a valid sockaddr, of family AF_UNSPEC.
    unsafe {
        let unspecified: libc::sockaddr = std::mem::zeroed();
        libc::connect(socket.raw(), &unspecified, size_of::<libc::sockaddr>() as libc::socklen_t);
    }
}

/// Takes the pending error of a socket, if there is one (`SO_ERROR` clears it).
pub fn take_error(socket: Fd) -> Option<io::Error> {
    match get_int(socket, libc::SOL_SOCKET, libc::SO_ERROR) {
        Ok(0) => None,
        Ok(code) => Some(io::Error::from_raw_os_error(code)),
        Err(error) => Some(error),
    }
}

/// Whether a TCP socket is in a listening state, and how many connections wait in it.
///
/// # Errors
/// Not a TCP socket.
pub fn accept_queue(listener: Fd) -> io::Result<u32> {
    // For a listener the kernel reports sk_ack_backlog as unacked (tcp_get_info, net/ipv4/tcp.c).
    Ok(tcp_info(listener)?.tcpi_unacked)
}

/// How many connections wait in a listening socket; of a unix one 1 for all, and 0 for what is none.
pub fn waiting(listener: Fd) -> u32 {
    match accept_queue(listener) {
        Err(error) if is_unsupported(&error) => poll::has_event(listener).into(),
        other => other.unwrap_or(0),
    }
}

/// The `TCP_INFO` of a socket (linux/tcp.h).
///
/// # Errors
/// Not a TCP socket.
pub fn tcp_info(socket: Fd) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info is plain integers, so zeroes and what the kernel writes are valid; `len` bounds the write.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut len = size_of_val(&info) as libc::socklen_t;
        check(libc::getsockopt(
            socket.raw(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut len,
        ))?;
        Ok(info)
    }
}

/// TCP states (include/net/tcp_states.h).
pub const ESTABLISHED: u8 = 1;
/// Waiting for the answer to our SYN.
pub const SYN_SENT: u8 = 2;
/// We have sent our end, which is not acknowledged.
pub const FIN_WAIT1: u8 = 4;
/// We have sent our end.
pub const FIN_WAIT2: u8 = 5;
/// Both ends are sent, ours first.
pub const TIME_WAIT: u8 = 6;
/// Never connected, reset, or over.
pub const CLOSED: u8 = 7;
/// The peer has sent its end.
pub const CLOSE_WAIT: u8 = 8;
/// Both ends are sent, the peer's first; ours is not acknowledged.
pub const LAST_ACK: u8 = 9;
/// Both ends are sent at once; ours is not acknowledged.
pub const CLOSING: u8 = 11;

/// The state of a connection's socket; of a unix socket, the one that it would have.
///
/// # Errors
/// Not a connection's socket.
pub fn state(socket: Fd) -> io::Result<u8> {
    match tcp_info(socket) {
        Err(error) if is_unsupported(&error) => super::unix::state(socket),
        other => other.map(|info| info.tcpi_state),
    }
}

/// Whether we have sent our end, in this state of a TCP socket.
pub fn has_ended(state: u8) -> bool {
    matches!(state, FIN_WAIT1 | FIN_WAIT2 | CLOSING | LAST_ACK | TIME_WAIT)
}

/// The local address of a socket.
///
/// # Errors
/// Not a socket.
pub fn local_address(socket: Fd) -> io::Result<SocketAddr> {
    let mut raw = RawAddress::empty();
    let (address, len) = raw.as_raw_mut();
    // SAFETY: `address` has room for `len` bytes.
    check(unsafe { libc::getsockname(socket.raw(), address, len) })?;
    raw.decode().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

/// The address of a socket's peer, an IPv4 one in its own form.
///
/// # Errors
/// Not connected (any more), or not an internet socket.
pub fn peer_address(socket: Fd) -> io::Result<SocketAddr> {
    let mut raw = RawAddress::empty();
    let (address, len) = raw.as_raw_mut();
    // SAFETY: `address` has room for `len` bytes.
    check(unsafe { libc::getpeername(socket.raw(), address, len) })?;
    let peer = raw.decode().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    Ok((peer.ip().to_canonical(), peer.port()).into())
}

/// A pair of connected datagram-keeping local sockets, close-on-exec and non-blocking.
///
/// # Errors
/// The descriptor limit is reached.
pub fn message_pair() -> io::Result<(Fd, Fd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `ends` has room for the two numbers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    Ok((Fd::from_raw(ends[0]), Fd::from_raw(ends[1])))
}

/// Sends one message whole.
///
/// # Errors
/// `WouldBlock`: the other end does not read. `BrokenPipe`: it is gone.
pub fn send_message(socket: Fd, bytes: &[u8]) -> io::Result<()> {
    send(socket, bytes).map(drop)
}

/// Receives one message of at most `buffer`'s length; 0 if the other end is gone.
///
/// # Errors
/// `WouldBlock`: none waits.
pub fn receive_message(socket: Fd, buffer: &mut [u8]) -> io::Result<usize> {
    let (pointer, len) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: pointer and length are those of a live, exclusive slice.
    super::check_len(unsafe { call::recv(socket.raw(), pointer, len, libc::MSG_DONTWAIT) })
}

pub(super) fn new_socket(protocol: Protocol, address: SocketAddr, flags: libc::c_int) -> io::Result<Fd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = match protocol {
        Protocol::Tcp => libc::SOCK_STREAM,
        Protocol::Udp => libc::SOCK_DGRAM,
    };
    // SAFETY: integers only.
    check(unsafe { libc::socket(family, kind | flags, 0) }).map(Fd::from_raw)
}

/// Asks a silent peer after `idle` whether it is there, and again four times as often (tcp(7)): a dead one is noticed.
///
/// # Errors
/// Not a TCP socket.
pub fn keep_alive(socket: Fd, idle: Duration) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let seconds = idle.as_secs().clamp(1, 32_767) as libc::c_int;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 4).max(1))
}

/// Has small writes sent at once, whatever is unacknowledged (`TCP_NODELAY`, tcp(7)).
///
/// # Errors
/// Not a TCP socket.
pub fn send_at_once(socket: Fd) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// What every relayed TCP socket has from the beginning: urgent bytes are counted in the stream (needed for exact
/// stream positions).
pub(super) fn set_flow_options(socket: Fd, options: FlowOptions) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    if options.user_timeout.is_some() {
        set_user_timeout(socket, options.user_timeout)?;
    }
    if options.pacing.is_some() {
        set_pacing(socket, options.pacing)?;
    }
    if options.is_unpaced {
        congestion::unpace(socket);
    }
    Ok(())
}

/// Sets how long sent bytes may stay unacknowledged; `None` takes it back.
pub(super) fn set_user_timeout(socket: Fd, limit: Option<Duration>) -> io::Result<()> {
    let millis = limit.map_or(0, |limit| limit.as_millis().clamp(1, i32::MAX as u128) as libc::c_int);
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis)
}

/// Limits how fast a socket sends, bytes a second; `None` takes it back. TCP waits by timers of its own where no
/// fq queue does it (`tcp_update_skb_after_send`, net/ipv4/tcp_output.c), but not within its first ten segments.
pub(super) fn set_pacing(socket: Fd, rate: Option<u64>) -> io::Result<()> {
    let rate = rate.map_or(libc::c_ulong::MAX, |rate| rate as libc::c_ulong);
    set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &rate)
}

/// Sets an integer option.
///
/// # Errors
/// As setsockopt(2).
pub(crate) fn set_int(socket: Fd, level: i32, option: i32, value: i32) -> io::Result<()> {
    set(socket, level, option, &value)
}

fn set<T>(socket: Fd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `len` bytes are read from what `value` borrows.
    check(unsafe { libc::setsockopt(socket.raw(), level, option, (&raw const *value).cast(), len) }).map(drop)
}

/// Reads an integer option.
///
/// # Errors
/// As getsockopt(2).
pub(crate) fn get_int(socket: Fd, level: i32, option: i32) -> io::Result<i32> {
    let (mut value, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: at most `len` bytes are written to a live local.
    check(unsafe { libc::getsockopt(socket.raw(), level, option, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}
