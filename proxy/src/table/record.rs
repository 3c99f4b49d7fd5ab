//! Flow records: all that a relay knows of a flow and the kernel does not. 64 bytes each.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{
        AtomicU8, AtomicU16, AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        fence,
    },
};

use super::{Ending, Holder, flag, lap_of};
use crate::sys::{Fd, time};

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// No flow.
    Free = 0,
    /// TCP: taken from the accept queue; no upstream connection yet.
    Accepted = 1,
    /// TCP: the upstream connection is being made.
    Connecting = 2,
    /// Bytes or datagrams flow.
    Established = 3,
    /// Being closed: nobody but its owner may touch its descriptors.
    Closing = 4,
}

/// A relay half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Direction {
    /// From the client to the upstream server.
    Up = 0,
    /// From the upstream server to the client.
    Down = 1,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// Of the client's and the upstream server's, the source's and the sink's; and the other way round.
    pub fn ends<T>(self, (client, upstream): (T, T)) -> (T, T) {
        match self {
            Self::Up => (client, upstream),
            Self::Down => (upstream, client),
        }
    }
}

/// A descriptor that is part of a TCP connection, beside the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The connection to the upstream server.
    Upstream,
    /// A direction's pipe.
    Pipe(Direction),
}

// Words of a record's body, by protocol.
/// At the number of a [`Part`]: whose it is. No flow's record is there, and `begin` clears it.
const OWNER: usize = 9;

mod tcp {
    pub const UPSTREAM: usize = 0;
    pub const HOLDERS: usize = 1;
    pub const OPENED: usize = 3;
    pub const TRIED: usize = 4;
    pub const TRIED_WORDS: usize = 2;
    /// In the client's record. (At the number of a part its last word is [`super::OWNER`].)
    pub const CLIENT: usize = 6;
}
mod udp {
    pub const CLIENT: usize = 0;
    pub const LOCAL: usize = 4;
    pub const SCOPE: usize = 8;
}

/// One flow. TCP: at the number of its client descriptor; UDP: of its upstream descriptor.
#[repr(C, align(64))]
#[derive(Debug, zerocopy::FromZeros, zerocopy::KnownLayout)]
pub struct Record {
    state: AtomicU8,
    ending: AtomicU8,
    marks: AtomicU8,
    pub(super) lap: AtomicU8,
    generation: AtomicU32,
    flags: AtomicU32,
    worker: AtomicU8,
    takeovers: AtomicU8,
    listener: AtomicU16,
    server: AtomicU16,
    port: AtomicU16,
    active: AtomicU32,
    body: [AtomicU32; 10],
}

impl Record {
    /// Begins a flow at this number: a new generation, no flags, nothing in flight. Before its descriptor is tagged.
    pub fn begin(&self, state: State, worker: u32, listener: u32, now_ms: u32) {
        self.generation.store(self.generation.load(Relaxed).wrapping_add(1), Relaxed);
        // Who reads the rest and then finds the old generation has read nothing of the new flow.
        fence(Release);
        self.flags.store(0, Relaxed);
        self.ending.store(0, Relaxed);
        self.marks.store(0, Relaxed);
        self.set_lap(lap_of(now_ms, time::monotonic_ms()));
        self.worker.store(worker as u8, Relaxed);
        self.takeovers.store(0, Relaxed);
        self.listener.store(listener as u16, Relaxed);
        self.server.store(u16::MAX, Relaxed);
        self.active.store(now_ms, Relaxed);
        for word in &self.body {
            word.store(0, Relaxed);
        }
        self.set_upstream(None);
        self.body[tcp::OPENED].store(now_ms, Relaxed);
        self.set_state(state);
    }

    /// The state; a word that is none (a wild write) reads as [`State::Closing`], which nobody touches.
    pub fn state(&self) -> State {
        match self.state.load(Acquire) {
            0 => State::Free,
            1 => State::Accepted,
            2 => State::Connecting,
            3 => State::Established,
            _ => State::Closing,
        }
    }

    /// Whether it is established and of this generation. What was read of it before belongs to this
    /// generation too then.
    pub fn is_established(&self, generation: u32) -> bool {
        fence(Acquire);
        self.state() == State::Established && self.generation() == generation
    }

    /// Moves on to a state, after everything that was written before.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Release);
    }

    /// Counts the flows that this number has had; events and to-do entries carry it, for numbers
    /// are reused at once.
    pub fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// The worker number of its owner.
    pub fn worker(&self) -> u32 {
        self.worker.load(Relaxed).into()
    }

    /// How often another pool has carried it on, at most 255.
    pub fn takeovers(&self) -> u8 {
        self.takeovers.load(Relaxed)
    }

    /// Sets it.
    pub fn set_takeovers(&self, takeovers: u8) {
        self.takeovers.store(takeovers, Relaxed);
    }

    /// The listener it came in by.
    pub fn listener(&self) -> u32 {
        self.listener.load(Relaxed).into()
    }

    /// Its upstream server, once one was chosen.
    pub fn server(&self) -> Option<u32> {
        Some(self.server.load(Relaxed)).filter(|server| *server != u16::MAX).map(u32::from)
    }

    /// Sets or forgets the upstream server.
    pub fn set_server(&self, server: Option<u32>) {
        self.server.store(server.map_or(u16::MAX, |server| server as u16), Relaxed);
    }

    /// When anything last happened, in milliseconds of the monotonic clock, wrapping.
    pub fn active_ms(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Notes that something happened.
    pub fn touch(&self, now_ms: u32) {
        self.active.store(now_ms, Relaxed);
    }

    /// Whether a flag of [`flag`] is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// All flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// Sets flags.
    pub fn set(&self, flag: u32) {
        self.flags.store(self.flags.load(Relaxed) | flag, Release);
    }

    /// Clears flags.
    pub fn clear(&self, flag: u32) {
        self.flags.store(self.flags.load(Relaxed) & !flag, Release);
    }

    /// Sets a flag of a flow that may be another worker's, which sets others.
    pub fn set_shared(&self, flag: u32) {
        self.flags.fetch_or(flag, AcqRel);
    }

    /// Why it is being ended, once that has begun.
    pub fn ending(&self) -> Option<Ending> {
        Ending::of_code(self.ending.load(Acquire))
    }

    /// Sets it.
    pub fn set_ending(&self, ending: Ending) {
        self.ending.store(ending.code(), Release);
    }

    /// Whether a mark of [`super::mark`] is set.
    pub fn is_marked(&self, mark: u8) -> bool {
        self.marks.load(Acquire) & mark != 0
    }

    /// Sets a mark, or clears it.
    pub fn mark(&self, mark: u8, is_set: bool) {
        let others = self.marks.load(Relaxed) & !mark;
        self.marks.store(others | if is_set { mark } else { 0 }, Release);
    }

    pub(super) fn body(&self) -> &[AtomicU32; 10] {
        &self.body
    }

    /// TCP: the number of its upstream, if that was chosen by what it began with.
    pub fn route(&self) -> Option<u32> {
        self.has(flag::ROUTED).then(|| self.flags() >> flag::HIGH_SHIFT)
    }

    /// TCP: sets or forgets it. Numbers are below 65,536.
    pub fn set_route(&self, upstream: Option<u32>) {
        let others = self.flags() & !flag::ROUTED & flag::LOW;
        let route = upstream.map_or(0, |upstream| flag::ROUTED | upstream << flag::HIGH_SHIFT);
        self.flags.store(others | route, Release);
    }

    /// TCP: the descriptor of the upstream connection.
    pub fn upstream(&self) -> Option<Fd> {
        Some(self.body[tcp::UPSTREAM].load(Acquire) as i32).filter(|fd| *fd >= 0).map(Fd::from_raw)
    }

    /// TCP: sets or forgets it.
    pub fn set_upstream(&self, fd: Option<Fd>) {
        self.body[tcp::UPSTREAM].store(fd.map_or(-1, Fd::raw) as u32, Release);
    }

    /// TCP: what holds a direction's bytes in flight.
    pub fn holder(&self, direction: Direction) -> Holder {
        Holder::decode(self.body[tcp::HOLDERS + direction as usize].load(Acquire))
    }

    /// TCP: sets it: BEFORE the first fill, and to none after the last drain.
    pub fn set_holder(&self, direction: Direction, holder: Holder) {
        self.body[tcp::HOLDERS + direction as usize].store(holder.encode(), Release);
    }

    /// At the number of a part: which connection uses it. Set before the connection's record names it.
    pub fn set_owner(&self, client: Fd, part: Part) {
        self.body[OWNER].store(owner(client, part), Release);
    }

    /// Whether the part at this number is this connection's: a record that a dying pool has written
    /// to in error names what is another's.
    pub fn is_owned_by(&self, client: Fd, part: Part) -> bool {
        self.body[OWNER].load(Acquire) == owner(client, part)
    }

    /// TCP: the client's address, which a PROXY header may have told; the unspecified one if it is not known.
    pub fn client(&self) -> SocketAddr {
        (self.address(tcp::CLIENT), self.port.load(Relaxed)).into()
    }

    /// TCP: sets it. An IPv4 one is kept mapped and given back as IPv4.
    pub fn set_client(&self, client: SocketAddr) {
        self.set_address(tcp::CLIENT, client.ip());
        self.port.store(client.port(), Relaxed);
    }

    /// TCP: when it was accepted, or its current connect began; milliseconds, wrapping.
    pub fn opened_ms(&self) -> u32 {
        self.body[tcp::OPENED].load(Relaxed)
    }

    /// TCP: sets it.
    pub fn set_opened(&self, now_ms: u32) {
        self.body[tcp::OPENED].store(now_ms, Relaxed);
    }

    /// TCP: the upstream servers that were tried in vain, by number within the upstream modulo 64.
    pub fn tried(&self) -> u64 {
        let word = |index: usize| u64::from(self.body[tcp::TRIED + index].load(Relaxed));
        word(0) | word(1) << 32
    }

    /// TCP: adds one to them.
    pub fn set_tried(&self, server: u32) {
        let tried = self.tried() | 1 << (server % 64);
        for index in 0..tcp::TRIED_WORDS {
            self.body[tcp::TRIED + index].store((tried >> (32 * index)) as u32, Relaxed);
        }
    }

    /// UDP: the client's address.
    pub fn udp_client(&self) -> SocketAddr {
        let ip = self.address(udp::CLIENT);
        let scope = self.body[udp::SCOPE].load(Relaxed);
        let port = self.port.load(Relaxed);
        match ip {
            // A dual-stack socket speaks of IPv4 peers in mapped form, and so do we.
            IpAddr::V6(ip) => std::net::SocketAddrV6::new(ip, port, 0, scope).into(),
            IpAddr::V4(ip) => (ip, port).into(),
        }
    }

    /// UDP: the local address that the client asked, and is answered from.
    pub fn udp_local(&self) -> IpAddr {
        self.address(udp::LOCAL)
    }

    /// UDP: sets the client's address and the local one. Addresses are kept as IPv6; an IPv4 one
    /// is kept mapped and given back as IPv4.
    pub fn set_udp(&self, client: SocketAddr, local: IpAddr) {
        self.set_address(udp::CLIENT, client.ip());
        self.set_address(udp::LOCAL, local);
        self.port.store(client.port(), Relaxed);
        self.set(flag::UDP);
        let scope = if let SocketAddr::V6(v6) = client { v6.scope_id() } else { 0 };
        self.body[udp::SCOPE].store(scope, Relaxed);
    }

    fn address(&self, first: usize) -> IpAddr {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(&self.body[first..]) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        Ipv6Addr::from(octets).to_canonical()
    }

    fn set_address(&self, first: usize, ip: IpAddr) {
        for (bytes, word) in octets(ip).as_chunks::<4>().0.iter().zip(&self.body[first..]) {
            word.store(u32::from_ne_bytes(*bytes), Relaxed);
        }
    }
}

/// An address as IPv6, an IPv4 one mapped: as records, keys and images have it.
pub fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Never 0, which is nobody.
pub(super) fn owner(client: Fd, part: Part) -> u32 {
    let part = match part {
        Part::Upstream => 1,
        Part::Pipe(direction) => 2 + direction as u32,
    };
    (client.raw() as u32) << 2 | part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::mark;
    use zerocopy::FromZeros;

    #[test]
    fn a_new_flow_forgets_the_last_one() {
        let record = Record::new_zeroed();
        record.begin(State::Accepted, 3, 9, 100);
        record.set_upstream(Some(Fd::from_raw(5)));
        record.set_holder(Direction::Down, Holder::Pipe(Fd::from_raw(6)));
        record.set(flag::of(flag::SHUT, Direction::Down));
        record.set_tried(65);
        assert_eq!(record.holder(Direction::Down), Holder::Pipe(Fd::from_raw(6)));
        assert_eq!(record.tried(), 2);
        record.set_takeovers(9);
        record.mark(mark::LOGGED, true);
        record.set_ending(Ending::Idle);
        record.set_ending(Ending::Ordered);
        assert!(record.has(flag::of(flag::SHUT, Direction::Down)));
        assert_eq!((record.worker(), record.ending()), (3, Some(Ending::Ordered)));
        let generation = record.generation();
        record.begin(State::Established, 1, 2, 200);
        assert_ne!(record.generation(), generation);
        assert_eq!((record.upstream(), record.tried(), record.server()), (None, 0, None));
        assert_eq!(record.holder(Direction::Down), Holder::None);
        assert!(!record.has(flag::of(flag::SHUT, Direction::Down)));
        assert_eq!((record.takeovers(), record.ending(), record.is_marked(mark::LOGGED)), (0, None, false));
    }

    #[test]
    fn a_route_comes_back_and_is_in_nothings_way() {
        let record = Record::new_zeroed();
        record.begin(State::Accepted, 3, 9, 100);
        record.set(flag::ADMITTED);
        for route in [Some(0), Some(65_535), None, Some(3)] {
            record.set_route(route);
            assert_eq!((record.route(), record.ending()), (route, None));
            assert!(record.has(flag::ADMITTED));
        }
        record.set_ending(Ending::Idle);
        assert_eq!((record.route(), record.ending()), (Some(3), Some(Ending::Idle)));
        assert!(record.has(flag::ADMITTED));
    }

    #[test]
    fn a_connections_client_comes_back_and_is_in_nothings_way() {
        let record = Record::new_zeroed();
        for client in ["10.1.2.3:53", "[2001:db8:1:2:3:4:5:6]:9"] {
            record.begin(State::Accepted, 3, 9, 100);
            let client: SocketAddr = client.parse().unwrap();
            record.set_client(client);
            record.set_tried(63);
            record.set_holder(Direction::Down, Holder::Pipe(Fd::from_raw(6)));
            record.set_opened(7);
            assert_eq!((record.client(), record.tried(), record.opened_ms()), (client, 1 << 63, 7));
        }
    }

    #[test]
    fn udp_addresses_come_back_as_they_were() {
        let record = Record::new_zeroed();
        for (client, local) in [("10.1.2.3:53", "127.0.0.2"), ("[fe80::1%7]:9", "::1")] {
            record.begin(State::Established, 0, 0, 0);
            let (client, local): (SocketAddr, IpAddr) = (client.parse().unwrap(), local.parse().unwrap());
            record.set_udp(client, local);
            assert_eq!((record.udp_client(), record.udp_local()), (client, local));
        }
    }
}
