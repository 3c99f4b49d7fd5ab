//! The flows of one worker: beginning, finding, ending them.
//!
//! Everything that must outlive the worker is in the flow table's records; the index here can be
//! rebuilt from them ([`Flows::adopt`]).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use super::fault;
use crate::{
    relay::{Lane, balance, servers, token::Token},
    sys::{
        Fd, epoll,
        fd::close,
        socket,
        udp::{self, Message},
    },
    table::{ConnectFailure, DrainState, DropReason, Kind, Record, State, Tag},
};

/// Servers that are tried for a new flow, at most.
const ATTEMPTS: usize = 3;

/// What makes datagrams belong to one flow. Addresses are canonical: IPv4 ones never mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The listener.
    pub listener: u32,
    /// The client. Its scope is the interface if it, or the local address, is link-local, else 0.
    pub client: SocketAddr,
    /// The local address that it asked; unspecified if the kernel is to choose one for the answer.
    pub local: IpAddr,
}

impl Key {
    /// The key of a message that came to a listener on the address `bound`; `None` without a sender.
    pub fn of(listener: u32, bound: IpAddr, message: &Message) -> Option<Self> {
        let local = message.asked.map_or(bound, |asked| answerable(asked.ip));
        let interface = message.asked.map_or(0, |asked| asked.interface);
        Some(Self { listener, client: canonical(message.from?, local, interface), local })
    }

    fn recorded(record: &Record) -> Self {
        Self { listener: record.listener(), client: record.udp_client(), local: record.udp_local() }
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

/// The flows of one worker.
#[derive(Default)]
pub struct Flows {
    index: HashMap<Key, Fd>,
}

impl Flows {
    /// The socket of a flow, which begins now if there is none. To be called inside the opening window.
    ///
    /// # Errors
    /// Why the datagrams are dropped. While the proxy drains no flow begins, as if no server were up.
    pub fn find_or_begin(&mut self, lane: &Lane, key: Key, now_ms: u32) -> Result<Fd, DropReason> {
        if let Some(fd) = self.index.get(&key) {
            return Ok(*fd);
        }
        if lane.table.supervisor().drain() != DrainState::No {
            return Err(DropReason::Upstream);
        }
        if !has_room(lane) {
            return Err(DropReason::Limit);
        }
        self.begin(lane, key, now_ms)
    }

    fn begin(&mut self, lane: &Lane, key: Key, now_ms: u32) -> Result<Fd, DropReason> {
        for _ in 0..ATTEMPTS {
            let server = servers::choose(lane, 0, now_ms).ok_or(DropReason::Upstream)?;
            match open(lane, key, server, now_ms) {
                Ok(fd) => {
                    self.enter(lane, key, fd);
                    lane.listener(key.listener).accepted.add(1);
                    lane.server(server).connections.add(1);
                    return Ok(fd);
                }
                Err(error) if fault::is_exhausted(&error) => return Err(DropReason::Descriptors),
                Err(error) => {
                    let failure = match fault::Fault::of(&error) {
                        fault::Fault::Server(failure) => failure,
                        _ => ConnectFailure::Other,
                    };
                    note_failure(lane, server, failure, now_ms);
                }
            }
        }
        Err(DropReason::Upstream)
    }

    /// Takes a recorded flow into the index, for a worker that was given the flows of a dead one (and
    /// has made tag and worker number its own). If a flow of the same key has begun meanwhile, the
    /// recorded one takes its place, so that the server goes on seeing one source port; the other
    /// still passes on answers until it is idle. Answers false if nothing is recorded there.
    pub fn adopt(&mut self, lane: &Lane, fd: Fd) -> bool {
        let Some(record) = lane.table.record(fd).filter(|record| record.state() == State::Established) else {
            return false;
        };
        self.enter(lane, Key::recorded(record), fd);
        true
    }

    fn enter(&mut self, lane: &Lane, key: Key, fd: Fd) {
        self.index.insert(key, fd);
        lane.block().udp_flows.up();
        lane.listener(key.listener).open.up();
        if let Some(server) = lane.table.record(fd).and_then(Record::server) {
            lane.server(server).open.up();
        }
    }

    /// Ends a flow and closes its socket.
    pub fn end(&mut self, lane: &Lane, fd: Fd) {
        let Some(record) = lane.table.record(fd) else { return };
        let key = Key::recorded(record);
        if self.index.get(&key) == Some(&fd) {
            self.index.remove(&key);
        }
        lane.block().udp_flows.down();
        lane.listener(key.listener).open.down();
        if let Some(server) = record.server() {
            lane.server(server).open.down();
        }
        record.set_state(State::Free);
        lane.close(fd);
    }

    /// Ends a flow because its server does not take datagrams; the next datagram begins a new one,
    /// to another server if there is one.
    pub fn fail(&mut self, lane: &Lane, fd: Fd, failure: ConnectFailure, now_ms: u32) {
        if let Some(server) = lane.table.record(fd).and_then(Record::server) {
            note_failure(lane, server, failure, now_ms);
        }
        self.end(lane, fd);
    }
}

fn has_room(lane: &Lane) -> bool {
    let flows = lane.flows();
    flows < lane.limits.flows && 2 * lane.connections() + flows < lane.limits.descriptors
}

/// Opens a flow's socket. The tag comes last: what has one is whole, what has none is swept.
fn open(lane: &Lane, key: Key, server: u32, now_ms: u32) -> io::Result<Fd> {
    let address = lane.config.servers[server as usize].address;
    let fd = socket::datagram(address)?;
    let result = (|| {
        let out_of_range = || io::Error::from_raw_os_error(libc::EMFILE);
        let record = lane.table.record(fd).ok_or_else(out_of_range)?;
        let tag = lane.table.tag(fd).ok_or_else(out_of_range)?;
        udp::prepare_flow(fd)?;
        socket::connect(fd, address)?;
        record.begin(State::Established, lane.worker, key.listener, now_ms);
        record.set_udp(key.client, key.local);
        record.set_server(Some(server));
        let token = Token::UdpFlow { fd, generation: record.generation() };
        epoll::add(lane.set, fd, epoll::IN | epoll::ERR, token.encode())
            .inspect_err(|_| record.set_state(State::Free))?;
        tag.set(Tag::new(Kind::UdpFlow, lane.epoch));
        Ok(fd)
    })();
    result.inspect_err(|_| close(fd))
}

/// Moves a flow's registration from dead workers' epoll sets to this worker's own.
pub fn migrate(lane: &Lane, fd: Fd, from: &[Fd]) {
    let is_own = |record: &&'static Record| record.worker() == lane.worker;
    let Some(record) = lane.table.record(fd).filter(is_own) else { return };
    let token = Token::UdpFlow { fd, generation: record.generation() };
    // EEXIST: it is there already.
    let _ = epoll::add(lane.set, fd, epoll::IN | epoll::ERR, token.encode());
    from.iter().for_each(|set| epoll::remove(*set, fd));
}

fn note_failure(lane: &Lane, server: u32, failure: ConnectFailure, now_ms: u32) {
    lane.server(server).failures[failure as usize].add(1);
    if let Some(state) = lane.table.servers().get(server as usize) {
        balance::note_failure(state, now_ms);
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
}
