//! What makes datagrams belong to one flow. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use arrayvec::ArrayVec;

use crate::{
    sys::{Fd, udp::Message},
    table::{Record, Table, octets},
};

/// Two addresses, the listener, the client's scope and its port; and two addresses and ports that were told.
const KEY_BYTES: usize = 16 + 16 + 4 + 4 + 2 + 2 * (16 + 2);

/// What makes datagrams belong to one flow. Addresses are canonical: IPv4 ones never mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The listener.
    pub listener: u32,
    /// The client. Its scope is the interface if it, or the local address, is link-local, else 0.
    pub client: SocketAddr,
    /// The local address that it asked; unspecified if the kernel is to choose one for the answer.
    pub local: IpAddr,
    /// By whom and to which address the datagrams were sent, as a PROXY header tells; `client` only passes them on.
    pub told: Option<(SocketAddr, SocketAddr)>,
}

impl Key {
    /// The key of a message that came to a listener on the address `bound`; `None` without a sender.
    pub fn of(listener: u32, bound: IpAddr, message: &Message) -> Option<Self> {
        let local = message.asked.map_or(bound, |asked| answerable(asked.ip));
        let interface = message.asked.map_or(0, |asked| asked.interface);
        Some(Self { listener, client: canonical(message.from?, local, interface), local, told: None })
    }

    /// The key of the flow that is recorded here.
    pub fn recorded(table: &Table, fd: Fd, record: &Record) -> Self {
        let told = table.told(fd).and_then(|told| told.ends);
        Self { listener: record.listener(), client: record.udp_client(), local: record.udp_local(), told }
    }

    /// Who sends the datagrams, as far as it is known.
    pub fn source(&self) -> SocketAddr {
        self.told.map_or(self.client, |(source, _)| source)
    }

    /// What is hashed: the same in every pool that uses the flow table, whatever it was compiled by.
    pub fn bytes(&self) -> ArrayVec<u8, KEY_BYTES> {
        let scope = if let SocketAddr::V6(v6) = self.client { v6.scope_id() } else { 0 };
        let mut bytes = ArrayVec::new();
        bytes.extend(octets(self.client.ip()));
        bytes.extend(octets(self.local));
        bytes.extend(self.listener.to_le_bytes());
        bytes.extend(scope.to_le_bytes());
        bytes.extend(self.client.port().to_le_bytes());
        for told in self.told.into_iter().flat_map(|(source, asked)| [source, asked]) {
            bytes.extend(octets(told.ip()));
            bytes.extend(told.port().to_le_bytes());
        }
        bytes
    }
}

fn canonical(client: SocketAddr, local: IpAddr, interface: u32) -> SocketAddr {
    let SocketAddr::V6(v6) = client else { return client };
    let scope = match (v6.ip().is_unicast_link_local(), local) {
        (true, _) => v6.scope_id(),
        (false, IpAddr::V6(local)) if local.is_unicast_link_local() => interface,
        _ => 0,
    };
    match v6.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, v6.port()).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, v6.port(), 0, scope).into(),
    }
}

/// Nobody can answer from a group's address.
fn answerable(local: IpAddr) -> IpAddr {
    match local {
        IpAddr::V6(ip) if ip.is_multicast() => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V4(ip) if ip.is_multicast() || ip.is_broadcast() => Ipv4Addr::UNSPECIFIED.into(),
        _ => local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::udp::Asked;

    fn key(from: &str, asked: Option<(&str, u32)>, bound: &str) -> Key {
        let asked = asked.map(|(ip, interface)| Asked { ip: ip.parse().unwrap(), interface });
        let from = Some(from.parse().unwrap());
        let message = Message { from, asked, len: 0, segment: 0, cut: false };
        Key::of(3, bound.parse().unwrap(), &message).unwrap()
    }

    #[test]
    fn keys_are_canonical() {
        let mapped = key("[::ffff:10.0.0.1]:5", Some(("10.0.0.9", 2)), "::");
        assert_eq!(mapped, key("10.0.0.1:5", Some(("10.0.0.9", 7)), "::"));
        assert_eq!(key("10.0.0.1:5", None, "10.0.0.9"), mapped);
    }

    #[test]
    fn the_interface_counts_for_link_local_addresses_only() {
        let scoped = |key: Key| if let SocketAddr::V6(v6) = key.client { v6.scope_id() } else { 0 };
        assert_eq!(scoped(key("[fe80::1%4]:5", Some(("fe80::9", 4)), "::")), 4);
        assert_eq!(scoped(key("[2001:db8::1]:5", Some(("fe80::9", 4)), "::")), 4);
        assert_eq!(scoped(key("[2001:db8::1]:5", Some(("2001:db8::9", 4)), "::")), 0);
    }

    #[test]
    fn nobody_answers_from_a_group() {
        assert!(key("[fe80::1%4]:5", Some(("ff02::1", 4)), "::").local.is_unspecified());
        assert!(key("10.0.0.1:5", Some(("255.255.255.255", 4)), "::").local.is_unspecified());
    }

    fn told(source: &str, asked: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), asked.parse().unwrap()))
    }

    #[test]
    fn every_part_of_a_key_is_hashed() {
        let one = key("10.0.0.1:5", Some(("10.0.0.9", 2)), "::");
        let others = [
            key("10.0.0.2:5", Some(("10.0.0.9", 2)), "::"),
            key("10.0.0.1:6", Some(("10.0.0.9", 2)), "::"),
            key("10.0.0.1:5", Some(("10.0.0.8", 2)), "::"),
            Key { listener: 4, ..one },
            Key { told: told("192.0.2.7:1", "192.0.2.8:2"), ..one },
            Key { told: told("192.0.2.9:1", "192.0.2.8:2"), ..one },
            Key { told: told("192.0.2.7:3", "192.0.2.8:2"), ..one },
            Key { told: told("192.0.2.7:1", "192.0.2.9:2"), ..one },
            Key { told: told("192.0.2.7:1", "192.0.2.8:3"), ..one },
            key("[fe80::1%4]:5", Some(("fe80::9", 4)), "::"),
            key("[fe80::1%5]:5", Some(("fe80::9", 5)), "::"),
        ];
        let bytes: std::collections::BTreeSet<_> =
            others.iter().chain([&one]).map(|key| key.bytes().to_vec()).collect();
        assert_eq!(bytes.len(), others.len() + 1);
    }
}
