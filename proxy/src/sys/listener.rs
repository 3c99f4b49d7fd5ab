//! Listening sockets.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{
    Fd,
    address::RawAddress,
    check, congestion,
    fd::close,
    socket::{
        FlowOptions, Protocol, get_int, keep_alive, new_socket, send_at_once, set_flow_options, set_int,
        set_pacing, set_user_timeout,
    },
};

/// What a listening socket is made with.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// IPv6 wildcard only: take no IPv4 traffic.
    pub v6_only: bool,
    /// TCP: connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// UDP: bytes that may wait in the socket.
    pub receive_buffer: i32,
    /// TCP: what accepted sockets have.
    pub flow: FlowOptions,
}

/// Whether a port is free of sockets that are not ours. Binding with `SO_REUSEPORT` would silently
/// join a group that another process of this user has made, and take its traffic.
///
/// # Errors
/// `AddrInUse`: somebody is bound there. `AddrNotAvailable`: no such local address.
/// `PermissionDenied`: a port below 1024 and no right to it.
pub fn probe_port(protocol: Protocol, address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    let socket = new_socket(protocol, address, libc::SOCK_CLOEXEC)?;
    let result = (|| {
        if protocol == Protocol::Tcp {
            // Connections in TIME_WAIT do not count as taken; a listening socket does. (For UDP
            // the option would mean sharing the port.)
            set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        bind_to(socket, address, options.v6_only)?;
        match protocol {
            Protocol::Tcp => listen(socket, 1),
            Protocol::Udp => Ok(()),
        }
    })();
    close(socket);
    result
}

/// Whether an address is one of this machine's: it can be bound to. Where anybody may bind to addresses of others
/// (`net.ipv4.ip_nonlocal_bind`, `net.ipv6.ip_nonlocal_bind`) that does not tell, and none is.
pub fn is_local(address: SocketAddr) -> bool {
    // Documentation addresses (RFC 5737, RFC 3849): nobody's.
    let nobodys: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1), 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 0).into(),
    };
    let can_bind = |mut address: SocketAddr| {
        address.set_port(0);
        let Ok(socket) = new_socket(Protocol::Udp, address, libc::SOCK_CLOEXEC) else { return false };
        let bound = bind_to(socket, address, true);
        close(socket);
        bound.is_ok()
    };
    can_bind(address) && !can_bind(nobodys)
}

/// Makes a non-blocking socket that nothing can come to.
///
/// # Errors
/// The descriptor limit is reached.
pub fn make(protocol: Protocol, address: SocketAddr) -> io::Result<Fd> {
    new_socket(protocol, address, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
}

/// Binds it as one of a reuseport group. A UDP socket is in the group from now on (`reuseport_add_sock` in
/// net/ipv4/udp.c), a TCP socket when it listens (`inet_reuseport_add_sock` in net/ipv4/inet_hashtables.c).
///
/// # Errors
/// As [`probe_port`].
pub fn bind(socket: Fd, protocol: Protocol, address: SocketAddr, options: ListenOptions) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    match protocol {
        Protocol::Tcp => {
            set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            prepare(socket, options.flow)?;
        }
        Protocol::Udp => set_receive_buffer(socket, options.receive_buffer)?,
    }
    bind_to(socket, address, options.v6_only)
}

/// Sets the TCP options that accepted sockets inherit (`sk_clone_lock`, net/core/sock.c).
///
/// # Errors
/// Not a TCP socket.
pub fn prepare(socket: Fd, options: FlowOptions) -> io::Result<()> {
    send_at_once(socket)?;
    set_flow_options(socket, options)?;
    keep_alive(socket, options.keepalive)?;
    // Another supervisor may have set what is not wanted any more.
    set_user_timeout(socket, options.user_timeout)?;
    if !(options.is_unpaced && congestion::is_needed()) {
        congestion::reset(socket);
    }
    set_pacing(socket, options.pacing)
}

/// Lets a bound TCP socket listen; one that does already gets the new backlog.
///
/// # Errors
/// `AddrInUse`: somebody else listens there.
pub fn listen(socket: Fd, backlog: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::listen(socket.raw(), backlog) }).map(drop)
}

/// Whether a TCP socket listens.
pub fn is_listening(socket: Fd) -> bool {
    get_int(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|accepts| accepts == 1)
}

fn bind_to(socket: Fd, address: SocketAddr, v6_only: bool) -> io::Result<()> {
    if address.is_ipv6() {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6_only.into())?;
    }
    let raw = RawAddress::from(address);
    let (address, len) = raw.as_raw();
    // SAFETY: `raw` lives for the call and `len` is its length.
    check(unsafe { libc::bind(socket.raw(), address, len) }).map(drop)
}

/// Sets the receive buffer, past `net.core.rmem_max` if this process may.
fn set_receive_buffer(socket: Fd, bytes: i32) -> io::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::accept;
    use std::{net::TcpStream, time::Duration};

    #[test]
    fn addresses_of_this_machine_are_known() {
        let is_local = |ip: &str| is_local(SocketAddr::new(ip.parse().unwrap(), 80));
        assert!(is_local("127.0.0.1") && is_local("127.9.9.9"));
        assert!(!is_local("192.0.2.9") && !is_local("2001:db8::9"));
    }

    #[test]
    fn accepted_sockets_have_what_was_said_last() {
        let (address, mut flow) = (
            "127.0.0.1:0".parse().unwrap(),
            FlowOptions {
                keepalive: Duration::from_secs(20),
                user_timeout: Some(Duration::from_millis(1500)),
                pacing: Some(1_000_000),
                is_unpaced: true,
            },
        );
        let options = ListenOptions { v6_only: false, backlog: 4, receive_buffer: 0, flow };
        let listener = make(Protocol::Tcp, address).unwrap();
        bind(listener, Protocol::Tcp, address, options).unwrap();
        listen(listener, 4).unwrap();
        let at = crate::sys::socket::local_address(listener).unwrap();
        let options_of_next = || {
            let _client = TcpStream::connect(at).unwrap();
            let socket = loop {
                match accept(listener) {
                    Ok((socket, _)) => break socket,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            };
            let tcp = |option| get_int(socket, libc::IPPROTO_TCP, option).unwrap();
            let pacing = get_int(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE).unwrap();
            let options = (tcp(libc::TCP_KEEPIDLE), tcp(libc::TCP_USER_TIMEOUT), pacing);
            let paces = congestion::paces(socket).unwrap();
            close(socket);
            (options, paces)
        };
        assert_eq!(options_of_next(), ((20, 1500, 1_000_000), false));
        (flow.user_timeout, flow.pacing, flow.is_unpaced) = (None, None, false);
        prepare(listener, flow).unwrap();
        let by_default = congestion::paces(make(Protocol::Tcp, address).unwrap()).unwrap();
        assert_eq!(options_of_next(), ((20, 0, -1), by_default), "the kernel's own, and none");
        close(listener);
    }
}
