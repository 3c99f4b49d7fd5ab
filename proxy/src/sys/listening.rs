//! What a socket is that somebody else has made.

use std::{io, net::SocketAddr};

use super::{
    Fd, check,
    fd::owner,
    socket::{Protocol, get_int, local_address},
};

/// A socket that traffic can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// TCP, and listening, or UDP.
    pub protocol: Protocol,
    /// Where it is bound.
    pub address: SocketAddr,
    /// IPv6: takes no IPv4 traffic.
    pub v6_only: bool,
    /// It was bound with `SO_REUSEPORT`: others of its user can join it.
    pub is_shared: bool,
    /// The user who made it.
    pub user: u32,
}

/// Looks at a descriptor.
///
/// # Errors
/// `InvalidInput`: an internet socket that takes neither connections nor datagrams. Else no socket.
pub fn look(fd: Fd) -> io::Result<Listening> {
    let of_socket = |option| get_int(fd, libc::SOL_SOCKET, option);
    let protocol = match of_socket(libc::SO_PROTOCOL)? {
        libc::IPPROTO_TCP if of_socket(libc::SO_ACCEPTCONN)? == 1 => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let address = local_address(fd)?;
    let v6_only = address.is_ipv6() && get_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? == 1;
    Ok(Listening {
        protocol,
        address,
        v6_only,
        is_shared: of_socket(libc::SO_REUSEPORT)? == 1,
        user: owner(fd)?,
    })
}

/// Lets no call wait on a socket, in any process that has it.
///
/// # Errors
/// Not a descriptor.
pub fn never_wait(fd: Fd) -> io::Result<()> {
    // SAFETY: integers only.
    let flags = check(unsafe { libc::fcntl(fd.raw(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.raw(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use crate::config::rules::ListenerRules;
    use crate::sys::{
        credentials,
        fd::close,
        listener::{self, ListenOptions},
        socket,
    };

    #[test]
    fn sockets_tell_what_they_are() {
        let address = "127.0.0.1:0".parse().unwrap();
        let options = ListenOptions {
            v6_only: false,
            backlog: 1,
            receive_buffer: 4096,
            flow: ListenerRules::default().flow_options(address),
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let ours = listener::make(protocol, address).unwrap();
            listener::bind(ours, protocol, address, options).unwrap();
            if protocol == Protocol::Tcp {
                listener::listen(ours, options.backlog).unwrap();
            }
            let seen = look(ours).unwrap();
            assert_eq!((seen.protocol, seen.is_shared, seen.user), (protocol, true, credentials::user()));
            assert_eq!(seen.address, socket::local_address(ours).unwrap());
            close(ours);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!look(Fd::keep(listener)).unwrap().is_shared);
        let error = look(Fd::keep(stream)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(look(Fd::keep(file)).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn nobody_waits_on_it() {
        let socket = Fd::keep(UdpSocket::bind("127.0.0.1:0").unwrap());
        never_wait(socket).unwrap();
        let error = socket::receive_message(socket, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
