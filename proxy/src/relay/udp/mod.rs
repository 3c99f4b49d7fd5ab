//! The UDP relay of one worker. A flow is what one client sends to one local address of one
//! listener; each has a connected socket to one upstream server.
//!
//! Datagrams are received in batches, sorted by flow, and each flow's are sent on in one send as
//! far as their sizes allow. Of a worker that dies at most the batch in hand is lost.

mod chosen;
mod fault;
mod flows;
mod forward;
mod header;
mod hold;
mod key;
mod room;
mod run;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use arrayvec::ArrayVec;
use chosen::Chosen;
use fault::Fault;
use flows::Flows;
pub use flows::{is_indexed, migrate};
use forward::{Load, Way, forward};
use hold::Held;
use key::Key;

use crate::{
    config::Listener,
    fault::{self as faults, Point},
    relay::{
        Lane,
        expiry::{self, Times},
        servers,
    },
    sys::{
        Fd, socket,
        udp::{BATCH, Destination, Inbox},
    },
    table::{
        Direction, DropReason, Ending, Entry, Kind, ListenerCounters, LostReason, Record, State, Tag, flag,
    },
};

/// Bytes that one socket may receive in a turn; the batch that exceeds it is the last.
const TURN_BYTES: usize = 400_000;
/// Silence after which a flow counts as ended while the proxy, or its listener, drains.
const DRAIN_IDLE: Duration = Duration::from_secs(2);
/// Receive calls for one socket in a turn.
const TURN_CALLS: usize = 64 / BATCH;

/// The UDP relay of one worker.
#[derive(Default)]
pub struct Udp {
    flows: Flows,
    // Made when the first datagram comes: a worker without UDP pays nothing for it.
    inbox: Option<Inbox>,
    keys: Vec<Option<Key>>,
    /// Bytes of each message's PROXY header; empty where none has one.
    headers: Vec<usize>,
}

impl Udp {
    /// A relay without flows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what waits in a listening socket, of any seat, and sends it to the flows' servers.
    /// While a sweep looks at the descriptors nothing is taken; the socket stays readable.
    pub fn on_listener(&mut self, lane: &Lane, socket: Fd, listener: u32, now_ms: u32) {
        let Some(_window) = lane.window() else { return };
        let counters = lane.listener(listener);
        let mut turn = Turn::default();
        while turn.goes_on() {
            // All that a socket without a peer can say is that it is empty, or memory is short.
            let Ok(count) = self.inbox.get_or_insert_default().receive(socket) else { return };
            faults::point(Point::UdpTaken);
            let bytes = self.send_up(lane, listener, counters, now_ms);
            turn.took(count, bytes);
        }
    }

    /// Takes what waits in a flow's socket and sends it to the client. An event of a flow that has
    /// ended meanwhile, or that its owner reads, does nothing.
    pub fn on_flow(&mut self, lane: &Lane, fd: Fd, generation: u32, now_ms: u32) {
        let entry = Entry { fd, generation };
        let held = Held::take(lane, entry).filter(|flow| flow.is_read_here(lane));
        let Some((flow, way)) = held.and_then(|flow| way_down(lane, flow.record).map(|way| (flow, way)))
        else {
            return hold::unwatch(lane, entry);
        };
        let counters = lane.listener(flow.record.listener());
        let mut turn = Turn::default();
        while turn.goes_on() {
            match self.inbox.get_or_insert_default().receive_from_peer(fd) {
                Ok(count) => {
                    let bytes = self.send_down(lane, &flow, &way, counters, now_ms);
                    turn.took(count, bytes);
                    if flows::is_answered(lane, fd, flow.record) {
                        return self.flows.finish(lane, &flow, Ending::Responses);
                    }
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Congestion => return,
                    Fault::Datagram => turn.took(BATCH, 0),
                    Fault::Server(failure) => {
                        counters.dropped(DropReason::Upstream, 1);
                        return self.flows.fail(lane, &flow, failure, now_ms);
                    }
                },
            }
        }
    }

    /// Does what could not be done before. To be called before the flows are looked at for those that are to end.
    pub fn tick(&mut self, lane: &Lane) {
        self.flows.tick(lane);
    }

    /// Ends the flow at `fd` if it is this worker's and is to end ([`over`]) or to make room. Answers whether it has.
    pub fn expire_one(&mut self, lane: &Lane, fd: Fd, now_ms: u32) -> bool {
        let Some(record) = own_record(lane, fd) else { return false };
        let why = over(lane, fd, record, now_ms)
            .or_else(|| self.flows.is_due(lane, fd, record, now_ms).then_some(Ending::Evicted));
        why.into_iter().for_each(|why| self.flows.end(lane, fd, why));
        why.is_some()
    }

    /// Ends the flow at `fd` because an administrator wants it. Answers whether it is this worker's.
    pub fn close_ordered(&mut self, lane: &Lane, fd: Fd) -> bool {
        let is_own = own_record(lane, fd).is_some();
        if is_own {
            self.flows.end(lane, fd, Ending::Ordered);
        }
        is_own
    }

    /// Takes over the flow at `fd`, whose owner is dead, if it was a worker of this one's number. Answers
    /// whether there is one. What had ended already, or makes no sense, keeps its tag: the sweep closes it.
    pub fn adopt(&mut self, lane: &Lane, fd: Fd) -> bool {
        let Some(record) = lane.table.record(fd).filter(|record| record.worker() == lane.worker) else {
            return false;
        };
        if record.state() != State::Free && !is_sound(lane, record) {
            let lost = &lane.block().counters.lost;
            let of_protocol = if record.has(flag::UDP) { &lost.udp } else { &lost.tcp };
            of_protocol[LostReason::Corrupt as usize].add(1);
            record.set_state(State::Free);
            // It may be a TCP connection whose tag was overwritten, and must not seem to end.
            socket::reset(fd);
        }
        self.claim(lane, fd)
    }

    /// The same, without doing anything to what makes no sense.
    pub fn claim(&mut self, lane: &Lane, fd: Fd) -> bool {
        let (Some(record), Some(tag)) = (lane.table.record(fd), lane.table.tag(fd)) else { return false };
        if record.worker() != lane.worker || !is_sound(lane, record) {
            return false;
        }
        tag.set(Tag::new(Kind::UdpFlow, lane.epoch));
        faults::point(Point::UdpAdopted);
        self.flows.adopt(lane, fd, record);
        true
    }

    /// Sends the inbox to the servers, flow by flow, and answers how many bytes it held.
    fn send_up(&mut self, lane: &Lane, listener: u32, counters: &ListenerCounters, now_ms: u32) -> usize {
        let Some(settings) = lane.config.listeners.get(listener as usize) else { return 0 };
        self.read_keys(settings, listener, counters);
        let Some(inbox) = &self.inbox else { return 0 };
        let up = Up { lane, settings, inbox, headers: &self.headers, counters, now_ms };
        let mut left = Chosen::first(self.keys.len());
        let mut new = ArrayVec::<_, BATCH>::new();
        while let Some(first) = left.iter().next() {
            let key = self.keys[first];
            let of_flow = left.filter(|index| self.keys[index] == key);
            left = left.without(of_flow);
            let Some(key) = key else { continue };
            let hash = flows::hash(&lane.table, &key);
            match flows::find(lane, (&key, hash)) {
                Some(flow) => up.send(&mut self.flows, &flow, &key, of_flow),
                None => new.push((key, hash, of_flow)),
            }
        }
        // After the others, which are in use by now: a new flow may push out one that is silent.
        for (key, hash, of_flow) in new {
            match self.flows.begin(lane, (&key, hash), now_ms) {
                Ok(flow) => up.send(&mut self.flows, &flow, &key, of_flow),
                Err(reason) => counters.dropped(reason, datagrams(inbox, of_flow)),
            }
        }
        let bytes = inbox.messages().iter().map(|message| message.len).sum::<usize>();
        counters.datagrams_received.add(datagrams(inbox, Chosen::first(self.keys.len())));
        counters.received_bytes.add((bytes - self.headers.iter().sum::<usize>()) as u64);
        bytes
    }

    /// Finds out what each message of the inbox belongs to. What has to begin with a PROXY header and does not
    /// belongs to nothing.
    fn read_keys(&mut self, settings: &Listener, listener: u32, counters: &ListenerCounters) {
        let Some(inbox) = &self.inbox else { return };
        let (bound, accepts) = (settings.address.address.ip(), settings.rules.accept_proxy.as_ref());
        self.keys.clear();
        self.headers.clear();
        for (index, message) in inbox.messages().iter().enumerate() {
            let mut key = Key::of(listener, bound, message);
            if let (Some(of), Some(_)) = (&mut key, accepts) {
                let header = header::open(accepts, of, message, inbox.bytes(index));
                self.headers.push(header.unwrap_or(0));
                if header.is_none() {
                    counters.dropped(DropReason::Header, message.datagrams());
                    key = None;
                }
            } else if accepts.is_some() {
                self.headers.push(0);
            }
            self.keys.push(key);
        }
    }

    /// Sends the inbox to a flow's client, and answers how many bytes it held.
    fn send_down(
        &mut self,
        lane: &Lane,
        flow: &Held,
        way: &Way,
        counters: &ListenerCounters,
        now_ms: u32,
    ) -> usize {
        let Some(inbox) = &self.inbox else { return 0 };
        let messages = Chosen::first(inbox.messages().len());
        let sent = forward(&Load { inbox, messages, headers: &[], prefix: &[] }, way, counters);
        counters.datagrams_sent.add(sent.datagrams);
        counters.sent_bytes.add(sent.bytes);
        flow.note(lane, Direction::Down, &sent, now_ms);
        flow.record.server().into_iter().for_each(|server| servers::note_success(lane, server, now_ms));
        inbox.messages().iter().map(|message| message.len).sum()
    }
}

/// What clients have sent, on its way to the servers.
struct Up<'a> {
    lane: &'a Lane,
    settings: &'a Listener,
    inbox: &'a Inbox,
    headers: &'a [usize],
    counters: &'a ListenerCounters,
    now_ms: u32,
}

impl Up<'_> {
    /// Sends a flow's part of it.
    fn send(&self, flows: &mut Flows, flow: &Held, key: &Key, messages: Chosen) {
        let Self { lane, inbox, headers, counters, now_ms, .. } = *self;
        let prefix = header::prefix(lane, self.settings, key);
        let load = Load { inbox, messages, headers, prefix: &prefix };
        let sent = forward(&load, &Way { socket: flow.fd, client: None }, counters);
        faults::point(Point::UdpSent);
        if !flow.is_own() {
            counters.foreign_datagrams.add(sent.datagrams);
        }
        match sent.failure {
            Some(failure) => flows.fail(lane, flow, failure, now_ms),
            None => {
                flow.note(lane, Direction::Up, &sent, now_ms);
                flow.watch(lane);
            }
        }
    }
}

/// How much of its budget a socket has used in this turn.
#[derive(Default)]
struct Turn {
    calls: usize,
    bytes: usize,
    emptied: bool,
}

impl Turn {
    fn goes_on(&self) -> bool {
        !self.emptied && self.calls < TURN_CALLS && self.bytes < TURN_BYTES
    }

    /// Notes a batch; one that is not full has emptied the socket.
    fn took(&mut self, messages: usize, bytes: usize) {
        self.calls += 1;
        self.bytes += bytes;
        self.emptied = messages < BATCH;
    }
}

fn datagrams(inbox: &Inbox, messages: Chosen) -> u64 {
    messages.iter().map(|index| inbox.messages()[index].datagrams()).sum()
}

/// Whether a record is of an established flow, as far as it can be told.
fn is_sound(lane: &Lane, record: &Record) -> bool {
    let is_known = |server| servers::is_known(lane, server);
    record.state() == State::Established && record.has(flag::UDP) && record.server().is_some_and(is_known)
}

/// The record of an established flow of this worker.
fn own_record(lane: &Lane, fd: Fd) -> Option<&'static Record> {
    let record = lane.table.record(fd)?;
    (hold::is_own(lane, fd, record) && record.state() == State::Established).then_some(record)
}

/// How a flow's client is reached: by this worker's own listening socket, from the address it asked.
fn way_down(lane: &Lane, record: &Record) -> Option<Way> {
    let bound = lane.config.listeners.get(record.listener() as usize)?.address.address;
    let socket = lane.socket(record.listener())?;
    let from = reply_address(bound, record.udp_local());
    Some(Way { socket, client: Some(Destination::new(record.udp_client(), from, bound.is_ipv6())) })
}

/// The source address to give the kernel; a socket that is bound to one has no choice.
fn reply_address(bound: SocketAddr, asked: IpAddr) -> Option<IpAddr> {
    (bound.ip().is_unspecified() && !asked.is_unspecified()).then_some(asked)
}

/// Why a flow of this worker is to end: another worker has seen that it is of no more use, or has died in ending it, or
/// it has had its time.
fn over(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> Option<Ending> {
    match record.has(flag::FAILED) || record.ending().is_some() {
        true if flows::is_answered(lane, fd, record) => Some(Ending::Responses),
        true => Some(Ending::ServerFailed),
        false => has_had_its_time(lane, fd, record, now_ms),
    }
}

fn has_had_its_time(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> Option<Ending> {
    let began_ms = lane.table.udp_facts(fd)?.opened_ms();
    let times = Times { began_ms, active_ms: record.active_ms() };
    let drain_idle = flows::is_ending(lane, record.listener()).then_some(DRAIN_IDLE);
    expiry::of_flow(lane.config.rules(record.listener()), times, drain_idle, now_ms)
}
