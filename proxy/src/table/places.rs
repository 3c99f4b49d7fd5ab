//! The move of one gauge of places at a server, from a dead worker's to what is kept of all dead ones: two words, of
//! which the supervisor may die in the middle.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use zerocopy::{FromZeros, KnownLayout};

/// What the move that is under way comes to. Its writer is the supervisor.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct MovingPlaces {
    /// Which gauge is moved, counted from 1; 0: none.
    gauge: AtomicU64,
    sum: AtomicU64,
}

impl MovingPlaces {
    /// Begins to move the gauge of a worker's lane and a server, which is not 0. Answers what it comes to together with
    /// what is kept: `sum`, or what that was when a supervisor that died in the middle asked.
    pub fn begin(&self, lane: usize, server: usize, sum: impl FnOnce() -> u64) -> u64 {
        let gauge = (lane as u64) << 32 | (server as u64 + 1);
        if self.gauge.load(Acquire) != gauge {
            // The gauge that was moved before is 0 by now, and is not asked for.
            self.sum.store(sum(), Release);
            self.gauge.store(gauge, Release);
        }
        self.sum.load(Relaxed)
    }

    /// All gauges of a dead pool's workers are moved.
    pub fn finish(&self) {
        self.gauge.store(0, Release);
    }
}
