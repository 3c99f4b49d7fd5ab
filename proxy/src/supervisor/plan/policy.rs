//! The settings that decide when somebody is silent, well again, or not worth starting at once.

use std::time::Duration;

use crate::{config::Config, supervisor::nanos};

/// Most that the time between two looks at the leases counts for.
const LONGEST_LOOK: Duration = Duration::from_millis(50);
/// Wait before a pool is killed again that did not die of it.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// Time that a new pool has to get ready.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// First wait before a pool that died young is started again.
const RESPAWN: Duration = Duration::from_millis(100);

/// The settings that decide. All in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Silence of a worker after which its pool is killed.
    pub fence_after: u64,
    /// Readiness after which new traffic returns to the primary by itself.
    pub failback_after: Option<u64>,
    /// Time that a new pool has to get ready.
    pub start_timeout: u64,
    /// A worker's lease must be seen valid for this long before its queues are taken back from the
    /// other pool, so that they do not flap.
    pub recovery: u64,
    /// Wait before a pool is started again after it died young; doubles up to 64 times.
    pub respawn: u64,
    /// Wait before a pool is killed again that did not die of it.
    pub kill_again: u64,
    /// Most that the time between two looks counts for.
    pub longest_look: u64,
    /// Workers per pool.
    pub workers: u32,
}

impl Policy {
    /// What follows from the settings.
    pub fn of(config: &Config) -> Self {
        Self {
            fence_after: nanos(config.fence_after),
            failback_after: config.failback_after.map(nanos),
            start_timeout: nanos(START_TIMEOUT),
            // A lease is the shortest silence that shows.
            recovery: nanos(config.lease),
            respawn: nanos(RESPAWN),
            kill_again: nanos(KILL_AGAIN),
            longest_look: nanos(LONGEST_LOOK),
            workers: config.workers,
        }
    }
}
