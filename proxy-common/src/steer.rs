//! The steering policy: which seat and worker new traffic goes to. The kernel program runs this
//! very function, and so do the tests on the host.

use crate::lease::Liveness;

/// Number of counters kept per listener and seat; at least the number of [`Reason`]s.
pub const REASONS: usize = 8;

/// Why a verdict is what it is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first seat, all of its workers live.
    Preferred = 0,
    /// The first seat, but one or more of its workers are passed by: their leases have run out.
    WorkerExpired = 1,
    /// The other seat: the first one's liveness bit is clear.
    BitClear = 2,
    /// The other seat: every lease of the first one has run out.
    LeaseExpired = 3,
    /// Nobody is live: the seat used last gets it, to be served when somebody comes back.
    FailOpen = 4,
    /// No socket could be selected: the packet is dropped (TCP answers RST, UDP an ICMP error).
    Dropped = 5,
}

/// Where new traffic goes and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The seat chosen.
    pub seat: u32,
    /// The worker chosen, less than the number of workers.
    pub worker: u32,
    /// Why.
    pub reason: Reason,
}

/// Chooses a seat and a worker. TODO(A)
pub fn choose(_liveness: &Liveness, _now: u64, _hash: u32, _last: u32) -> Verdict {
    Verdict { seat: 0, worker: 0, reason: Reason::Preferred }
}
