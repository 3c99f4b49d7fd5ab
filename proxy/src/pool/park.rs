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

/// Longest stand: a supervisor that has not decided by then is gone, and its twin too.
const LIMIT_NS: u64 = 5_000_000_000;
/// How often the clock is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

impl Worker {
    /// Stands still for as long as the supervisor says. Called between two events, when every flow is as its
    /// record says. No heartbeat meanwhile: new traffic waits in the queues.
    pub(super) fn park(&mut self) {
        let block = self.lane.table.supervisor();
        let is_told = || block.parking.load(Acquire) != 0;
        if !is_told() {
            return;
        }
        let bell = self.lane.block().bell.fd();
        let began = time::monotonic_ns();
        self.lane.block().parked.store(1, Release);
        while is_told() {
            // What is waited for is the bell; an error would come again and again, at a look's pace.
            let _ = poll::readable(&[bell], LOOK);
            bell::silence(bell);
            let decision = self.pool.decision;
            if decision.get() == Decision::Taken {
                // The flows are another pool's now. Nothing of this one is to be closed for real.
                process::exit_now(0);
            }
            if time::monotonic_ns() - began > LIMIT_NS {
                decision.decide(Decision::Kept);
                if decision.get() != Decision::Taken {
                    break;
                }
            }
        }
        self.lane.block().parked.store(0, Release);
        self.rest_till_next_tick();
    }
}
