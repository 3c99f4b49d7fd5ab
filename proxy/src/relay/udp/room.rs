//! Room for new flows: where as many are open as may be, one that is to end anyway is ended, or a silent one
//! ([`expiry::makes_room`]).
//!
//! A worker ends its own flows only. There is no list of them in the order of their silence, which every datagram
//! would have to mend: a hand goes round over the tags, and of what it meets in one look the readiest end first, and
//! of these the longest silent. Numbers are given out from the lowest, so it comes to a new flow last.

use super::{over, own_record};
use crate::{
    relay::{
        Lane,
        expiry::{self, Readiness, Times, Traffic},
    },
    sys::{Fd, poll, udp::BATCH},
    table::{Direction, Ending, Kind, Record, Tag, flag},
};

/// Records of the pool's flows that one look reads: each is a cache miss, and most are other workers'.
const RECORDS: usize = 512;
/// Tags in one look, at most: some ten microseconds' worth.
const TAGS: usize = 1 << 15;
/// The part of what may be open that is kept free ([`Room::is_due`]).
const SPARE: usize = 16;

/// Which of a worker's flows is to be ended next.
#[derive(Default)]
pub struct Room {
    /// What the last look has found, the first to go last.
    found: Vec<(Readiness, Fd)>,
    /// Where the next look begins.
    hand: usize,
    looked_ms: Option<u32>,
    /// How many flows of this worker are to end for the spare part to be free.
    due: usize,
    /// How many may begin in this millisecond before it is counted again how many are left.
    granted: (u32, usize),
}

impl Room {
    /// Whether another flow may begin. What is left is not counted for each: that reads a cache line of every worker's,
    /// which those write to all the time. While there is enough for a batch of everybody's, twice, a worker counts once
    /// for a batch; where less is left, each time.
    pub fn has_place(&mut self, lane: &Lane, now_ms: u32) -> bool {
        if self.granted.0 != now_ms {
            self.granted = (now_ms, 0);
        }
        if self.granted.1 > 0 {
            self.granted.1 -= 1;
            return true;
        }
        let left = left(lane);
        let workers = lane.table.sum_workers(|_| 1) as usize;
        if left >= 2 * BATCH * workers {
            self.granted.1 = BATCH - 1;
        }
        left > 0
    }

    /// A flow of this worker that may be ended now, and as what. There may be more than are found: a look has its
    /// limits, and there is one a millisecond, so that a flood of what there is no room for costs little.
    pub fn next(&mut self, lane: &Lane, now_ms: u32) -> Option<(Fd, Ending)> {
        self.next_found(lane, now_ms).or_else(|| {
            if self.looked_ms.replace(now_ms) == Some(now_ms) {
                return None;
            }
            self.look(lane, now_ms);
            self.next_found(lane, now_ms)
        })
    }

    /// The number of one that was found may be another flow's by now, or have been used: each is looked at again, and
    /// what is less ready than it was waits for another look. So does what has something in its socket, which is
    /// passed on in a moment.
    fn next_found(&mut self, lane: &Lane, now_ms: u32) -> Option<(Fd, Ending)> {
        while let Some((was, fd)) = self.found.pop() {
            let next = own_record(lane, fd).and_then(|record| readiness(lane, fd, record, now_ms));
            let Some((readiness, why)) = next.filter(|(readiness, _)| *readiness <= was) else { continue };
            if readiness == Readiness::Over || !poll::has_event(fd) {
                return Some((fd, why));
            }
        }
        None
    }

    /// Goes on where the last look ended, and from the last tag to the first one.
    fn look(&mut self, lane: &Lane, now_ms: u32) {
        let (tags, own) = (lane.table.tags(), Tag::new(Kind::UdpFlow, lane.epoch));
        let (mut records, mut found) = (0, Vec::new());
        for _ in 0..TAGS.min(tags.len()) {
            let number = self.hand;
            self.hand = (number + 1) % tags.len();
            if tags[number].get() != own {
                continue;
            }
            let fd = Fd::from_raw(number as i32);
            if let Some(record) = own_record(lane, fd)
                && let Some((readiness, _)) = readiness(lane, fd, record, now_ms)
            {
                found.push((readiness, now_ms.wrapping_sub(record.active_ms()), fd));
            }
            records += 1;
            if records == RECORDS {
                break;
            }
        }
        let readiest = found.iter().map(|(readiness, ..)| *readiness).min();
        found.retain(|(readiness, ..)| Some(*readiness) == readiest);
        found.sort_unstable_by_key(|(_, silence_ms, _)| *silence_ms);
        self.found = found.into_iter().map(|(readiness, _, fd)| (readiness, fd)).collect();
    }

    /// Counts anew how far there is less room than there should be. By what flows may have, not by what is left of the
    /// descriptors, which many TCP connections take: that is no reason to end a flow before somebody wants the room.
    /// The others see the same: each has a share of it, by what it has of the flows.
    pub fn tick(&mut self, lane: &Lane) {
        let most = lane.limits.flows.min(lane.limits.descriptors);
        let (own, all) = (lane.block().udp_flows.get() as usize, lane.flows());
        let lack = (all + most.div_ceil(SPARE)).saturating_sub(most);
        self.due = (lack * own.min(all)).div_ceil(all.max(1));
    }

    /// Whether a flow of this worker is to be ended although none of its own clients wants the room: those of another
    /// worker may, which can end its own flows only, and has few after a failback. Questions only, of which nobody
    /// misses one: there may be no such client. If it is, it counts as ended.
    pub fn is_due(&mut self, lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> bool {
        let is_due = self.due > 0
            && makes_room(lane, fd, record, now_ms).is_some_and(|readiness| readiness < Readiness::Talked)
            && !poll::has_event(fd);
        self.due -= usize::from(is_due);
        is_due
    }
}

/// How many more flows may begin.
fn left(lane: &Lane) -> usize {
    let flows = lane.flows();
    let descriptors = lane.limits.descriptors.saturating_sub(2 * lane.connections() + flows);
    lane.limits.flows.saturating_sub(flows).min(descriptors)
}

fn readiness(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> Option<(Readiness, Ending)> {
    let over = over(lane, fd, record, now_ms).map(|why| (Readiness::Over, why));
    over.or_else(|| Some((makes_room(lane, fd, record, now_ms)?, Ending::Evicted)))
}

fn makes_room(lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> Option<Readiness> {
    let facts = lane.table.udp_facts(fd)?;
    let traffic = Traffic {
        up: facts.datagrams(Direction::Up),
        down: facts.datagrams(Direction::Down),
        went_on: record.has(flag::WENT_ON),
        times: Times { began_ms: facts.opened_ms(), active_ms: record.active_ms() },
    };
    expiry::makes_room(lane.config.rules(record.listener()), &traffic, now_ms)
}
