//! An administrator's order to close connections and flows: control writes it here, one at a time; each worker sees
//! it at its tick, closes what it owns and is meant, and says so in its block ([`super::WorkerBlock`]).

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zerocopy::{FromZeros, KnownLayout};

use super::{Record, Table, octets};
use crate::sys::Fd;

/// In place of a number: any.
const ANY: u32 = u32::MAX;
/// Bits before an IPv4 address in its IPv6 form.
const MAPPED: u8 = 96;

/// Which connections and flows are meant: those for which all that is given holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// The client's network.
    pub source: Option<IpNet>,
    /// The number of the listener.
    pub listener: Option<u32>,
    /// The slot of the server.
    pub server: Option<u32>,
}

impl Criteria {
    /// Whether the flow whose record is at `fd` is meant.
    pub fn match_flow(&self, table: &Table, fd: Fd, record: &Record) -> bool {
        self.listener.is_none_or(|listener| listener == record.listener())
            && self.server.is_none_or(|server| Some(server) == record.server())
            && self.source.is_none_or(|source| source.contains(&table.client_of(fd, record).ip()))
    }
}

/// The order, written by control.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct CloseOrder {
    /// Its number; 0 while there is none.
    number: AtomicU64,
    /// The number of the last one.
    last: AtomicU64,
    network: [AtomicU32; 4],
    prefix: AtomicU32,
    listener: AtomicU32,
    server: AtomicU32,
}

impl CloseOrder {
    /// Gives an order, and answers its number. It holds until it is withdrawn.
    pub fn give(&self, criteria: &Criteria) -> u64 {
        self.withdraw();
        fence(Release);
        let (network, prefix) = match criteria.source {
            None => ([0; 16], ANY),
            Some(IpNet::V4(net)) => (octets(net.addr().into()), u32::from(net.prefix_len() + MAPPED)),
            Some(IpNet::V6(net)) => (net.addr().octets(), net.prefix_len().into()),
        };
        for (bytes, word) in network.as_chunks::<4>().0.iter().zip(&self.network) {
            word.store(u32::from_ne_bytes(*bytes), Relaxed);
        }
        self.prefix.store(prefix, Relaxed);
        self.listener.store(criteria.listener.unwrap_or(ANY), Relaxed);
        self.server.store(criteria.server.unwrap_or(ANY), Relaxed);
        let number = self.last.load(Relaxed) + 1;
        self.last.store(number, Relaxed);
        self.number.store(number, Release);
        number
    }

    /// Withdraws it: who sees it from now on does nothing.
    pub fn withdraw(&self) {
        self.number.store(0, Release);
    }

    /// The number of the order that holds; 0 if none does.
    pub fn number(&self) -> u64 {
        self.number.load(Acquire)
    }

    /// The order that holds, and its number.
    pub fn current(&self) -> Option<(u64, Criteria)> {
        let number = Some(self.number()).filter(|number| *number != 0)?;
        let given = |word: &AtomicU32| Some(word.load(Relaxed)).filter(|word| *word != ANY);
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(&self.network) {
            *bytes = word.load(Relaxed).to_ne_bytes();
        }
        let source = match given(&self.prefix) {
            None => None,
            // Bits that are no network (a wild write) mean nobody, not everybody.
            Some(prefix) => Some(network(octets, prefix)?),
        };
        let criteria = Criteria { source, listener: given(&self.listener), server: given(&self.server) };
        fence(Acquire);
        (self.number.load(Relaxed) == number).then_some((number, criteria))
    }
}

fn network(octets: [u8; 16], prefix: u32) -> Option<IpNet> {
    let (ip, prefix) = (Ipv6Addr::from(octets), u8::try_from(prefix).ok()?);
    match ip.to_canonical() {
        IpAddr::V4(ip) if prefix >= MAPPED => Ipv4Net::new(ip, prefix - MAPPED).ok().map(IpNet::V4),
        _ => Ipv6Net::new(ip, prefix).ok().map(IpNet::V6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Dimensions, State};

    fn table() -> Table {
        let dimensions = Dimensions { descriptors: 8, ..Dimensions::SMALL };
        Table::create(dimensions).unwrap().1
    }

    fn record(table: &Table, fd: Fd, client: &str) -> &'static Record {
        let record = table.record(fd).unwrap();
        record.begin(State::Established, 0, 3, 0);
        record.set_client(client.parse().unwrap());
        record.set_server(Some(5));
        record
    }

    #[test]
    fn an_order_is_read_as_it_was_given_until_it_is_withdrawn() {
        let order = CloseOrder::new_zeroed();
        assert_eq!(order.current(), None);
        for (number, source) in (1..).zip([None, Some("10.0.0.0/8"), Some("2001:db8::/32"), Some("::/0")]) {
            let source = source.map(|source| source.parse().unwrap());
            let criteria = Criteria { source, listener: Some(0), server: None };
            assert_eq!(order.give(&criteria), number);
            assert_eq!(order.current(), Some((number, criteria)));
        }
        order.prefix.store(1000, Relaxed);
        assert_eq!(order.current(), None);
        order.withdraw();
        assert_eq!((order.current(), order.number()), (None, 0));
    }

    #[test]
    fn all_that_is_given_has_to_hold() {
        let (table, fd) = (table(), Fd::from_raw(3));
        let record = record(&table, fd, "10.1.2.3:5");
        let of = |source: &str, listener, server| {
            let source = (!source.is_empty()).then(|| source.parse().unwrap());
            Criteria { source, listener, server }.match_flow(&table, fd, record)
        };
        assert!(of("10.0.0.0/8", Some(3), Some(5)) && of("", None, None) && of("10.1.2.3/32", None, None));
        assert!(!of("10.0.0.0/8", Some(3), Some(6)) && !of("10.0.0.0/8", Some(2), Some(5)));
        assert!(!of("11.0.0.0/8", None, None) && !of("::/0", None, None));
    }
}
