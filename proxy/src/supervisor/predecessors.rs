//! The processes of the supervisor before this one. They have copies of every descriptor that was handed over, so
//! no close is real before they are gone.

use std::time::Duration;

use crate::{
    sys::process::{self, Child},
    table::SupervisorBlock,
};

/// Time that they have to end by themselves, nanoseconds.
const LIMIT: u64 = 500_000_000;

/// Those that are not gone yet.
#[derive(Default)]
pub struct Predecessors {
    left: Vec<Child>,
    since: u64,
}

impl Predecessors {
    /// All of them.
    pub fn new(left: Vec<Child>, now: u64) -> Self {
        Self { left, since: now }
    }

    /// Looks whether they are gone, and kills what does not go: it is stopped, or hangs.
    pub fn tick(&mut self, block: &SupervisorBlock, now: u64) {
        let gone = self.left.extract_if(.., |process| process::is_dead(*process, Duration::ZERO));
        gone.for_each(process::forget);
        if !self.left.is_empty() {
            block.expect_copies(now);
        }
        if now - self.since < LIMIT {
            return;
        }
        for process in &self.left {
            let outcome = process::kill(*process);
            tracing::warn!(
                pid = process.pid,
                ?outcome,
                "a process of the supervisor before has not ended: killing it"
            );
        }
        self.since = now;
    }
}
