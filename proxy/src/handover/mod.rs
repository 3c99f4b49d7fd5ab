//! What an old supervisor and its successor say to each other. The successor is another process, of another
//! version perhaps, with a flow table of its own, so nothing here is the layout of a table: the **offer** tells
//! what there is, before anything stands still; the **flows** are images of records, with their descriptors.
//!
//! ```text
//! old                                   successor
//! starts it          ── offer ──>       checks its settings, loads the kernel program, starts its pools
//!                    <── ready ──       (or: refused, and why)
//! parks its workers  ── flows ──>       makes records of them, its workers claim them
//!                    <── taken ──       after it has decided so in the old one's flow table
//! ends
//! ```
//!
//! Until it is taken, the old one can go on at any moment, whatever has become of the successor.

use std::time::Duration;

pub mod flows;
pub mod line;
pub mod offer;

pub use crate::sys::mark::FORMAT;

/// Time that a successor's workers have to claim so many flows: several times what it takes on a busy machine.
/// If they hang, all stand still for so long.
pub fn claim_limit(flows: usize) -> Duration {
    let flows = u32::try_from(flows).unwrap_or(u32::MAX);
    (Duration::from_millis(400) + flows * Duration::from_micros(50)).min(Duration::from_millis(1600))
}

/// Time that the old supervisor waits for the decision: longer, so that a successor can say what is wrong.
pub fn move_limit(flows: usize) -> Duration {
    claim_limit(flows) + Duration::from_millis(200)
}
