//! What workers count, but for listeners and servers.

use zerocopy::{FromZeros, KnownLayout};

use super::{Counted, Counter, LogCounters, Visit};

/// What an adopted flow was about, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptedState {
    /// TCP: accepted, not connecting yet.
    Accepted,
    /// TCP: connecting to a server.
    Connecting,
    /// TCP: nothing in flight.
    Idle,
    /// TCP: bytes in flight or to be moved, or one side ended.
    Busy,
    /// TCP: being closed.
    Closing,
    /// A UDP flow.
    Udp,
}

impl AdoptedState {
    /// All, with their label values: protocol and state.
    pub const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Accepted, "tcp", "accepted"),
        (Self::Connecting, "tcp", "connecting"),
        (Self::Idle, "tcp", "idle"),
        (Self::Busy, "tcp", "busy"),
        (Self::Closing, "tcp", "closing"),
        (Self::Udp, "udp", "established"),
    ];
}

/// Why an established flow was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// Its pool died, and nobody adopted it: cut by the sweep.
    PoolDied,
    /// The same, because what the pool left had no heir: too many heirs died of it, or none had room.
    NoHeir,
    /// What the dead pool left of it made no sense to its heir.
    Corrupt,
    /// Its stream positions did not agree after its adoption, or could not be read.
    Audit,
}

impl LostReason {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::PoolDied, "pool_died"),
        (Self::NoHeir, "no_heir"),
        (Self::Corrupt, "corrupt"),
        (Self::Audit, "audit"),
    ];
}

/// Established flows lost, by [`LostReason`].
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct Lost {
    /// TCP connections.
    pub tcp: [Counter; LostReason::ALL.len()],
    /// UDP flows.
    pub udp: [Counter; LostReason::ALL.len()],
}

impl Counted for Lost {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { tcp, udp } = self;
        for (protocol, counts) in [("tcp", tcp), ("udp", udp)] {
            for ((_, reason), count) in LostReason::ALL.iter().zip(counts) {
                visit(&["lost", protocol, reason], count);
            }
        }
    }
}

/// What one worker has counted.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct WorkerCounters {
    /// Turns of its loop.
    pub turns: Counter,
    /// Turns in which a flow had to wait for a pipe.
    pub pipe_waits: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Flows adopted, by [`AdoptedState`].
    pub adopted: [Counter; AdoptedState::ALL.len()],
    /// Flows that were left to it and that it did not carry on.
    pub lost: Lost,
    /// Directions of adopted connections whose stream positions did not agree.
    pub audit_mismatches: Counter,
    /// Directions of adopted connections that were audited.
    pub audits: Counter,
    /// Directions of adopted connections that cannot be audited, for one of their sockets is a unix socket.
    pub unaudited: Counter,
    /// Flows closed by order.
    pub ordered: Counter,
    /// Of its ring of the access log.
    pub log: LogCounters,
}

impl Counted for WorkerCounters {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self {
            turns,
            pipe_waits,
            accepted,
            adopted,
            lost,
            audit_mismatches,
            audits,
            unaudited,
            ordered,
            log,
        } = self;
        visit(&["turns"], turns);
        visit(&["pipe_waits"], pipe_waits);
        visit(&["accepted"], accepted);
        for ((_, protocol, state), count) in AdoptedState::ALL.iter().zip(adopted) {
            visit(&["adopted", protocol, state], count);
        }
        lost.each_counter(visit);
        visit(&["audit_mismatches"], audit_mismatches);
        visit(&["audits"], audits);
        visit(&["unaudited"], unaudited);
        visit(&["ordered"], ordered);
        log.each_counter(visit);
    }
}
