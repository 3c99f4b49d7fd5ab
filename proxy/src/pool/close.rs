//! Closing what an administrator has ordered to be closed ([`crate::table::CloseOrder`]), in steps between turns.

use std::sync::atomic::Ordering::{Acquire, Release};

use crate::{
    sys::Fd,
    table::{Criteria, Kind},
};

use super::worker::Worker;

/// Tags that are looked at in one step.
const LOOKS: usize = 16_384;
/// Flows that are closed in one step: a few milliseconds.
const CLOSES: u64 = 128;

/// An order that is being carried out.
pub(super) struct Closing {
    number: u64,
    criteria: Criteria,
    /// Where the walk over the tags goes on.
    next: usize,
}

impl Worker {
    /// Looks whether there is an order that this worker has not carried out.
    pub(super) fn look_for_order(&mut self) {
        let order = &self.lane.table.control().close;
        let is_new = |number: &u64| *number != 0 && *number != self.lane.block().close_done.load(Acquire);
        if self.closing.is_none() && is_new(&order.number()) {
            let current = order.current();
            self.closing = current.map(|(number, criteria)| Closing { number, criteria, next: 0 });
        }
    }

    /// Carries out a part of the order that is under way, if one is.
    pub(super) fn close_ordered(&mut self) {
        let Some(mut closing) = self.closing.take() else { return };
        if self.lane.table.control().close.number() != closing.number {
            // Nobody waits for it any more.
            return;
        }
        let tags = self.lane.table.tags();
        let (end, mut closed) = ((closing.next + LOOKS).min(tags.len()), 0);
        while closing.next < end && closed < CLOSES {
            closed += u64::from(self.close_one(closing.next, &closing.criteria));
            closing.next += 1;
            self.beat_now_and_then();
        }
        if closing.next < tags.len() {
            self.closing = Some(closing);
            return;
        }
        self.lane.block().close_done.store(closing.number, Release);
    }

    fn close_one(&mut self, number: usize, criteria: &Criteria) -> bool {
        let tag = self.lane.table.tags()[number].get();
        let fd = Fd::from_raw(number as i32);
        let table = &self.lane.table;
        let is_meant = || table.record(fd).is_some_and(|record| criteria.match_flow(table, fd, record));
        if tag.epoch != self.lane.epoch || !is_meant() {
            return false;
        }
        let is_closed = match tag.kind {
            Kind::Client => self.tcp.close_ordered(&self.lane, fd),
            Kind::UdpFlow => self.udp.close_ordered(&self.lane, fd),
            _ => false,
        };
        self.lane.block().counters.ordered.add(is_closed.into());
        is_closed
    }
}
