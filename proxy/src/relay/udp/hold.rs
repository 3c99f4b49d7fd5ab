//! Using a flow, whoever owns it.
//!
//! A worker's datagrams may belong to a flow of another one: while that is silent or dead, after a
//! failback, or because the kernel spreads clients over the live workers alone. Any worker may send on any
//! flow's socket. The answers are the owner's to read; if it is not live, who sends reads them too.

use proxy_common::lease::SEATS;

use super::{forward::Sent, key::Key};
use crate::{
    relay::{Lane, token::Token},
    sys::{Fd, epoll, udp},
    table::{Direction, Entry, EstateStage, Found, Kind, Record, Tag, Using, flag},
};
use std::sync::atomic::Ordering::Relaxed;

/// Answers after which the kernel is asked to join those that follow: most flows are a question and its answer, for
/// which that is a system call in vain.
const JOINS_AFTER: u32 = 8;

/// A flow that is established and whose socket is not closed while this lives.
pub struct Held {
    /// Its socket.
    pub fd: Fd,
    /// Its record.
    pub record: &'static Record,
    /// Nobody closes a worker's own flows but itself.
    using: Option<Using<'static>>,
}

impl Held {
    /// Takes a flow for use; `None` if it has ended.
    pub fn take(lane: &Lane, Entry { fd, generation }: Entry) -> Option<Self> {
        let record = lane.table.record(fd)?;
        let is_own = is_own(lane, fd, record);
        let using = (!is_own).then(|| Using::declare(&lane.block().using, fd));
        (is_flow(lane, fd) && record.is_established(generation)).then_some(Self { fd, record, using })
    }

    /// Notes what was sent by it.
    pub fn note(&self, lane: &Lane, direction: Direction, sent: &Sent, now_ms: u32) {
        self.record.touch(now_ms);
        let Some(facts) = lane.table.udp_facts(self.fd) else { return };
        let before = facts.add(direction, sent.bytes, sent.datagrams, now_ms);
        match direction {
            Direction::Down if before < JOINS_AFTER => join_answers(lane, self.fd),
            Direction::Up if facts.datagrams(Direction::Down) > 0 && !self.record.has(flag::WENT_ON) => {
                self.record.set_shared(flag::WENT_ON);
            }
            _ => {}
        }
    }

    /// Whether it is this worker's.
    pub fn is_own(&self) -> bool {
        self.using.is_none()
    }

    /// Whether this worker is to read the flow's answers.
    pub fn is_read_here(&self, lane: &Lane) -> bool {
        self.is_own() || !(self.record.has(flag::FAILED) || owner_is_live(lane, self.fd, self.record))
    }

    /// Sees to it that answers are read while the owner is not live.
    pub fn watch(&self, lane: &Lane) {
        if !self.is_own() && self.is_read_here(lane) {
            let token = Token::UdpFlow { fd: self.fd, generation: self.record.generation() };
            // EEXIST: it is watched already. A close takes it out of every set, there being one table.
            let _ = epoll::add(lane.set, self.fd, epoll::IN | epoll::ERR, token.encode());
        }
    }
}

/// Has the kernel join a flow's answers from now on, if there were so many that it is worth it.
pub fn join_answers(lane: &Lane, fd: Fd) {
    let answers = lane.table.udp_facts(fd).map_or(0, |facts| facts.datagrams(Direction::Down));
    if answers >= JOINS_AFTER {
        // It fails on no UDP socket; what is not joined comes one by one.
        let _ = udp::join_received(fd, true);
    }
}

/// Ends the watch over a socket that tells of answers which are not read here. A number that is no such
/// flow's any more is left alone: it may be registered for something else by now.
pub fn unwatch(lane: &Lane, Entry { fd, generation }: Entry) {
    let is_same = |record: &&Record| record.generation() == generation;
    if is_flow(lane, fd) && lane.table.record(fd).as_ref().is_some_and(is_same) {
        let estates = lane.block().estates.iter().filter(|estate| estate.stage() != EstateStage::None);
        let sets = estates.map(|estate| estate.set.fd()).filter(|set| set.raw() > 0);
        sets.chain([lane.set]).for_each(|set| epoll::remove(set, fd));
    }
}

/// What an entry of the index turns out to be to who looks for a flow of this key.
pub fn judge(lane: &Lane, key: &Key, Entry { fd, generation }: Entry) -> Found {
    let Some(record) = lane.table.record(fd).filter(|record| !record.has(flag::FAILED)) else {
        return Found::Gone;
    };
    let is_wanted = Key::recorded(&lane.table, fd, record) == *key;
    // Asked last: what was read is of this generation then.
    if !is_flow(lane, fd) || !record.is_established(generation) {
        return Found::Gone;
    }
    if is_wanted { Found::Wanted } else { Found::Other }
}

/// Whether a flow's tag and record say that it is this worker's.
pub fn is_own(lane: &Lane, fd: Fd, record: &Record) -> bool {
    let is_tagged = |tag| tag == Tag::new(Kind::UdpFlow, lane.epoch);
    lane.table.tag(fd).is_some_and(|cell| is_tagged(cell.get())) && record.worker() == lane.worker
}

fn is_flow(lane: &Lane, fd: Fd) -> bool {
    lane.table.tag(fd).is_some_and(|cell| cell.get().kind == Kind::UdpFlow)
}

/// Whether a flow's owner is there to read the answers: a worker of a seat's present pool whose lease
/// goes on.
fn owner_is_live(lane: &Lane, fd: Fd, record: &Record) -> bool {
    let Some(tag) = lane.table.tag(fd).map(|cell| cell.get()) else { return false };
    let epoch = |seat: u32| lane.table.seat(seat).epoch.load(Relaxed);
    let seat = (0..SEATS as u32).find(|seat| Tag::new(Kind::UdpFlow, epoch(*seat)) == tag);
    let worker = record.worker();
    seat.is_some_and(|seat| worker < lane.config.workers && lane.leases.is_live(seat, worker))
}
