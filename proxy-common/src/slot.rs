//! Index arithmetic of the socket array and of the verdict counters.

use crate::lease::SEATS;
use crate::steer::REASONS;

/// The slot of a listening socket: listeners one after the other, in each the primary's workers
/// and then the standby's.
pub const fn index(listener: u32, seat: u32, worker: u32, workers: u32) -> u32 {
    (listener * SEATS as u32 + seat) * workers + worker
}

/// Slots that `listeners` listeners of `workers` workers need.
pub const fn count(listeners: u32, workers: u32) -> u32 {
    index(listeners, 0, 0, workers)
}

/// The counter of a verdict. A dropped packet is counted under the seat that was tried first.
pub const fn verdict_index(listener: u32, seat: u32, reason: u32) -> u32 {
    (listener * SEATS as u32 + seat) * REASONS as u32 + reason
}
