//! Connecting from somebody else's address (`IP_TRANSPARENT`, ip(7)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use super::{
    Fd,
    address::RawAddress,
    check,
    credentials::{self, Capability},
    fd::close,
    socket::{Protocol, new_socket, set_int},
};

/// linux/in6.h; the libc crate lacks it for some targets.
const IPV6_TRANSPARENT: i32 = 75;

/// Gives a new socket of the family that `to` is of a foreign source address, before it is connected to `to`. The
/// kernel chooses the port then, so that it need only be free towards `to` (`IP_BIND_ADDRESS_NO_PORT`).
///
/// # Errors
/// `PermissionDenied`: neither `CAP_NET_RAW` nor `CAP_NET_ADMIN`. `EAFNOSUPPORT`: the address is of the other family.
pub fn bind(socket: Fd, source: IpAddr, to: SocketAddr) -> io::Result<()> {
    let source = source.to_canonical();
    if source.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    allow(socket, source)?;
    set_int(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let raw = RawAddress::from(SocketAddr::new(source, 0));
    let (address, len) = raw.as_raw();
    // SAFETY: `raw` lives for the call and `len` is its length.
    check(unsafe { libc::bind(socket.raw(), address, len) }).map(drop)
}

/// Whether this process may do that, and those that it clones, which keep `CAP_NET_RAW` for it.
pub fn is_allowed() -> bool {
    let any = SocketAddr::from(([0; 4], 0));
    if !credentials::has(Capability::NetRaw) {
        return false;
    }
    let Ok(socket) = new_socket(Protocol::Udp, any, libc::SOCK_CLOEXEC) else { return false };
    let is_allowed = allow(socket, any.ip()).is_ok();
    close(socket);
    is_allowed
}

fn allow(socket: Fd, source: IpAddr) -> io::Result<()> {
    match source {
        IpAddr::V4(_) => set_int(socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
        IpAddr::V6(_) => set_int(socket, libc::IPPROTO_IPV6, IPV6_TRANSPARENT, 1),
    }
}
