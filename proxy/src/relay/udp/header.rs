//! PROXY headers of datagrams: version 2, at the beginning of each.

use super::key::Key;
use crate::{
    config::{
        Listener,
        rules::{AcceptProxy, ProxyVersion},
    },
    proxy_header::{self, Ends},
    relay::Lane,
    sys::{socket::Protocol, udp::Message},
};

/// Reads the header of a message, if its sender has to begin with one: then the key tells what it tells. Answers
/// the bytes that it takes; `None` if it is missing. (Of datagrams that GRO has joined each would have one: where
/// headers are accepted, the listening sockets do not join.)
pub fn open(accepts: Option<&AcceptProxy>, key: &mut Key, message: &Message, bytes: &[u8]) -> Option<usize> {
    if !accepts.is_some_and(|accepts| accepts.trusts(key.client)) {
        return Some(0);
    }
    let (len, ends) = proxy_header::parse_datagram(bytes).filter(|_| message.segment == 0)?;
    key.told = ends.map(|ends| (ends.source, ends.asked));
    Some(len)
}

/// The header that goes before each datagram of a flow to its server; empty if none does.
pub fn prefix(lane: &Lane, listener: &Listener, key: &Key) -> Vec<u8> {
    if lane.config.upstream_rules(key.listener).send_proxy.is_none() {
        return Vec::new();
    }
    let asked = (key.local, listener.address.address.port()).into();
    let (source, asked) = key.told.unwrap_or((key.client, asked));
    proxy_header::build(ProxyVersion::V2, Protocol::Udp, Some(Ends::new(source, asked)))
}
