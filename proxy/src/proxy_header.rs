//! PROXY headers (HAProxy's doc/proxy-protocol.txt): whom a connection or a datagram is from, told by who passes
//! it on. Pure; `ppp` knows the formats.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult as _, v1, v2};

use crate::{config::rules::ProxyVersion, sys::socket::Protocol};

/// Most bytes of a header that is taken, with what version 2 may append to the addresses (section 2.2).
pub const MAX_HEADER: usize = 4096;
/// Most bytes of a line of version 1, with its end (section 2.1).
const MAX_LINE: usize = 107;
/// What a line begins with.
const LINE: &[u8] = b"PROXY ";

/// The two ends of a connection as whoever passes it on has seen them. IPv4 addresses are never mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub asked: SocketAddr,
}

impl Ends {
    /// Two ends, in canonical form.
    pub fn new(source: SocketAddr, asked: SocketAddr) -> Self {
        Self { source: canonical(source), asked: canonical(asked) }
    }

    /// As a header has them: of one family.
    fn of_one_family(self) -> (SocketAddr, SocketAddr) {
        match self.source.is_ipv4() == self.asked.is_ipv4() {
            true => (self.source, self.asked),
            false => (mapped(self.source), mapped(self.asked)),
        }
    }
}

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header, perhaps.
    Partial,
    /// A header.
    Whole {
        /// Its bytes; what follows is the client's.
        len: usize,
        /// What it tells; nothing if who sent it speaks for itself (`LOCAL`, `UNKNOWN`), or the client has no
        /// internet address.
        ends: Option<Ends>,
    },
    /// Something else, or a header longer than [`MAX_HEADER`].
    Invalid,
}

/// Looks for a header of either version at the beginning of a stream, of which `bytes` have come.
pub fn parse(bytes: &[u8]) -> Parsed {
    let is_line = LINE.starts_with(&bytes[..bytes.len().min(LINE.len())]);
    if is_line && !bytes.is_empty() { parse_line(bytes) } else { parse_binary(bytes) }
}

/// Looks for a header of version 2 at the beginning of a datagram. It is whole, or none.
pub fn parse_datagram(bytes: &[u8]) -> Option<(usize, Option<Ends>)> {
    match parse_binary(bytes) {
        Parsed::Whole { len, ends } => Some((len, ends)),
        Parsed::Partial | Parsed::Invalid => None,
    }
}

fn parse_line(bytes: &[u8]) -> Parsed {
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return if line.len() < MAX_LINE { Parsed::Partial } else { Parsed::Invalid };
    };
    let len = end + 2;
    let Ok(header) = v1::Header::try_from(&line[..len]) else { return Parsed::Invalid };
    let ends = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(of) => {
            ends((of.source_address, of.source_port), (of.destination_address, of.destination_port))
        }
        v1::Addresses::Tcp6(of) => {
            ends((of.source_address, of.source_port), (of.destination_address, of.destination_port))
        }
    };
    Parsed::Whole { len, ends }
}

fn parse_binary(bytes: &[u8]) -> Parsed {
    let result = v2::Header::try_from(bytes);
    match &result {
        Err(v2::ParseError::Partial(_, announced)) if 16 + announced > MAX_HEADER => return Parsed::Invalid,
        Err(_) if result.is_incomplete() => return Parsed::Partial,
        _ => {}
    }
    let Ok(header) = result else { return Parsed::Invalid };
    if header.len() > MAX_HEADER {
        return Parsed::Invalid;
    }
    let ends = match (header.command, &header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(of)) => {
            ends((of.source_address, of.source_port), (of.destination_address, of.destination_port))
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(of)) => {
            ends((of.source_address, of.source_port), (of.destination_address, of.destination_port))
        }
        _ => None,
    };
    Parsed::Whole { len: header.len(), ends }
}

/// A client without an address is one that nobody tells of: it must not pass for known, or for everybody.
fn ends(source: (impl Into<IpAddr>, u16), asked: (impl Into<IpAddr>, u16)) -> Option<Ends> {
    let ends = Ends::new((source.0.into(), source.1).into(), (asked.0.into(), asked.1).into());
    Some(ends).filter(|ends| !ends.source.ip().is_unspecified())
}

/// A header that tells of these ends; without any (a health check, a client without an internet address) one
/// that says to look at the connection itself. At most 107 bytes.
pub fn build(version: ProxyVersion, protocol: Protocol, ends: Option<Ends>) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => {
            let addresses = ends.map_or(v1::Addresses::Unknown, |ends| ends.of_one_family().into());
            addresses.to_string().into_bytes()
        }
        ProxyVersion::V2 => build_binary(protocol, ends),
    }
}

fn build_binary(protocol: Protocol, ends: Option<Ends>) -> Vec<u8> {
    let protocol = match protocol {
        Protocol::Tcp => v2::Protocol::Stream,
        Protocol::Udp => v2::Protocol::Datagram,
    };
    let builder = match ends {
        Some(ends) => {
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, protocol, ends.of_one_family())
        }
        None => v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Local,
            v2::Protocol::Unspecified,
            v2::Addresses::Unspecified,
        ),
    };
    // It fails only if what follows the addresses is longer than 64 KiB, and nothing does.
    builder.build().unwrap_or_default()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    (address.ip().to_canonical(), address.port()).into()
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
