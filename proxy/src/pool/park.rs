//! Standing still between two turns, so that another supervisor's pools can go on in this one's place.

use std::{
    sync::atomic::Ordering::{Acquire, Release},
    time::Duration,
};

use crate::{
    sys::{bell, poll, process, time},
    table::Decision,
};

use super::worker::Worker;

/// How often the clock is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

impl Worker {
    /// Stands still for as long as the supervisor says. Called between two events, when every flow is as its
    /// record says. No heartbeat meanwhile: new traffic waits in the queues.
    pub(super) fn park(&mut self) {
        let block = self.lane.table.supervisor();
        let limit_ms = || u64::from(block.parking.load(Acquire));
        if limit_ms() == 0 {
            return;
        }
        let bell = self.lane.block().bell.fd();
        let began = time::monotonic_ns();
        self.lane.block().parked.store(1, Release);
        while limit_ms() != 0 {
            // What is waited for is the bell; an error would come again and again, at a look's pace.
            let _ = poll::readable(&[bell], LOOK);
            bell::silence(bell);
            let decision = self.pool.decision;
            if decision.get() == Decision::Taken {
                // The flows are another pool's now. Nothing of this one is to be closed for real.
                process::exit_now(0);
            }
            // By then the supervisor would have decided: it is stopped, or gone and its twin too.
            if time::monotonic_ns() - began > limit_ms() * 1_000_000 {
                decision.decide(Decision::Kept);
                if decision.get() != Decision::Taken {
                    break;
                }
            }
        }
        // First: who sees it go on sees its lease go on.
        self.rest_till_next_tick();
        self.lane.block().parked.store(0, Release);
    }
}
