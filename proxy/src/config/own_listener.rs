//! Servers that are our own listeners: each connection would open another one, to the limit. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Listener;
use crate::sys::socket::Protocol;

/// The listener that leads back to this proxy from a server of the upstream with this number, by a protocol that the
/// upstream is reached by; if there is one. `is_local` tells whether an address is one of this machine's, which is
/// asked for wildcards. (That addresses of the loopback are is known here.)
pub fn own_listener(
    server: SocketAddr,
    upstream: u32,
    listeners: &[Listener],
    is_local: impl Fn(SocketAddr) -> bool,
) -> Option<&Listener> {
    let mut server = server;
    server.set_ip(destination(server.ip()));
    let is_reached_by = |protocol: Protocol| {
        let mut of_it = listeners.iter().filter(|listener| listener.leads_to(upstream));
        of_it.any(|listener| listener.address.protocol == protocol)
    };
    let takes = |listener: &&Listener| {
        !listener.is_retired
            && is_reached_by(listener.address.protocol)
            && takes(listener, server, server.ip().is_loopback() || is_local(server))
    };
    let mut of_port = listeners.iter().filter(|listener| listener.address.address.port() == server.port());
    of_port.find(takes)
}

fn takes(listener: &Listener, server: SocketAddr, is_local: bool) -> bool {
    let at = listener.address.address;
    let takes_family = at.is_ipv4() == server.is_ipv4() || (at.is_ipv6() && !listener.v6_only);
    at.ip() == server.ip() || (at.ip().is_unspecified() && takes_family && is_local)
}

/// What the kernel takes an address for that is connected to: no address means the loopback's (ip(7)).
fn destination(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}
