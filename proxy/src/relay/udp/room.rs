//! Room for new flows: where as many are open as may be, a silent one is ended ([`expiry::makes_room`]).
//!
//! A worker ends its own flows only. There is no list of them in the order of their silence, which every datagram
//! would have to mend: a hand goes round over the tags, and of what it meets in one look the readiest end first, and
//! of these the longest silent. Numbers are given out from the lowest, so it comes to a new flow last.

use super::own_record;
use crate::{
    relay::{
        Lane,
        expiry::{self, Readiness},
    },
    sys::{Fd, poll},
    table::{Direction, Kind, Record, Tag},
};

/// Own flows in one look.
const FLOWS: usize = 512;
/// Tags in one look, at most: some ten microseconds' worth.
const TAGS: usize = 1 << 15;
/// The part of what may be open that [`is_due`] keeps free.
const SPARE: usize = 16;

/// Which of a worker's flows is to be ended next.
#[derive(Default)]
pub struct Room {
    /// What the last look has found, the first to go last.
    found: Vec<Fd>,
    /// Where the next look begins.
    hand: usize,
    looked_ms: Option<u32>,
}

impl Room {
    /// A flow of this worker that may be ended now. There may be more than are found: a look has its limits, and
    /// there is one a millisecond, so that a flood of what there is no room for costs little.
    pub fn next(&mut self, lane: &Lane, now_ms: u32) -> Option<Fd> {
        self.next_found(lane, now_ms).or_else(|| {
            if self.looked_ms.replace(now_ms) == Some(now_ms) {
                return None;
            }
            self.look(lane, now_ms);
            self.next_found(lane, now_ms)
        })
    }

    /// The number of one that was found may be another flow's by now, or have been used: each is looked at again.
    fn next_found(&mut self, lane: &Lane, now_ms: u32) -> Option<Fd> {
        while let Some(fd) = self.found.pop() {
            if own_record(lane, fd).is_some_and(|record| may_end(lane, fd, record, now_ms)) {
                return Some(fd);
            }
        }
        None
    }

    /// Goes on where the last look ended; behind so many tags without a flow there is none, and it begins anew.
    fn look(&mut self, lane: &Lane, now_ms: u32) {
        let start = self.hand;
        if self.look_from(start, lane, now_ms) == 0 && start > 0 {
            self.look_from(0, lane, now_ms);
        }
    }

    /// Answers how many own flows it has met.
    fn look_from(&mut self, start: usize, lane: &Lane, now_ms: u32) -> usize {
        let (own, mut met, mut found) = (Tag::new(Kind::UdpFlow, lane.epoch), 0, Vec::new());
        self.hand = start;
        for tag in lane.table.tags().iter().skip(start).take(TAGS) {
            let fd = Fd::from_raw(self.hand as i32);
            self.hand += 1;
            let Some(record) = (tag.get() == own).then(|| own_record(lane, fd)).flatten() else { continue };
            let silence_ms = now_ms.wrapping_sub(record.active_ms());
            found.extend(readiness(lane, fd, record, now_ms).map(|readiness| (readiness, silence_ms, fd)));
            met += 1;
            if met == FLOWS {
                break;
            }
        }
        let readiest = found.iter().map(|(readiness, ..)| *readiness).min();
        found.retain(|(readiness, ..)| Some(*readiness) == readiest);
        found.sort_unstable_by_key(|(_, silence_ms, _)| *silence_ms);
        self.found = found.into_iter().map(|(.., fd)| fd).collect();
        met
    }
}

/// How many more flows may begin.
pub fn left(lane: &Lane) -> usize {
    let flows = lane.flows();
    let descriptors = lane.limits.descriptors.saturating_sub(2 * lane.connections() + flows);
    lane.limits.flows.saturating_sub(flows).min(descriptors)
}

/// Whether a flow of this worker is to be ended although none of its own clients needs the room: those of another
/// worker may, which can end its own flows only, and has few after a failback.
pub fn is_due(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> bool {
    readiness(lane, fd, record, now_ms).is_some()
        && left(lane) <= lane.limits.flows.min(lane.limits.descriptors) / SPARE
        && !poll::has_event(fd)
}

/// Not while something waits in its socket, which is passed on in a moment.
fn may_end(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> bool {
    readiness(lane, fd, record, now_ms).is_some() && !poll::has_event(fd)
}

fn readiness(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> Option<Readiness> {
    let facts = lane.table.udp_facts(fd)?;
    let datagrams = (facts.datagrams(Direction::Up), facts.datagrams(Direction::Down));
    expiry::makes_room(lane.config.rules(record.listener()), datagrams, record.active_ms(), now_ms)
}
