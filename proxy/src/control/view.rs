//! What control reads: the flow table, the steering maps and the listening sockets.

use std::{cell::Cell, time::Duration};

use proxy_common::{
    lease::{Liveness, PRIMARY, STANDBY},
    steer::{self, Reason},
};

use super::{Context, health, names};
use crate::{
    config::Config,
    steering::Steering,
    sys::{
        Fd,
        socket::{self, Protocol},
        socket_memory, time,
    },
    table::{DrainState, HandoverState, ListenerCounters, Table},
};

/// The seats with the names that they have in metrics, status and logs.
pub const SEAT_NAMES: [(u32, &str); 2] = [(PRIMARY, "primary"), (STANDBY, "standby")];

/// A supervisor that has not looked for so long is dead, stopped, or starved: nobody is protected.
const SILENCE_NS: u64 = 1_000_000_000;

/// How often it is looked whether a handover has ended.
const MOVING_LOOK: Duration = Duration::from_millis(5);

/// What control reads of the steering.
pub trait SteeringView {
    /// Liveness bits and leases, as the kernel program sees them.
    fn liveness(&self) -> Liveness;
    /// Verdicts by [`proxy_common::slot::verdict_index`]; or why they cannot be read.
    fn verdicts(&self) -> Result<Vec<u64>, String>;
}

impl SteeringView for Steering {
    fn liveness(&self) -> Liveness {
        Steering::liveness(self).snapshot()
    }

    fn verdicts(&self) -> Result<Vec<u64>, String> {
        Steering::verdicts(self).map_err(|error| error.to_string())
    }
}

/// Everything that answers are made of.
pub struct View<'a> {
    pub config: &'a Config,
    pub table: Table,
    pub steering: &'a dyn SteeringView,
    listening: &'a [Vec<Fd>],
    /// What the last check of each server said.
    pub checks: health::Notes,
    /// What is known of names.
    pub names: names::Notes,
    /// Held while an order to close is carried out.
    pub closing: tokio::sync::Mutex<()>,
    /// Clients of the control socket that were turned away.
    pub control_refused: Cell<u64>,
    /// Clients of the metrics address that were turned away.
    pub metrics_refused: Cell<u64>,
    /// Whether it was logged that verdicts cannot be read.
    pub verdicts_missed: Cell<bool>,
}

impl<'a> View<'a> {
    pub fn new(context: &'a Context<'_>) -> Self {
        Self {
            config: &context.config,
            table: context.table,
            steering: context.steering,
            listening: &context.listening,
            checks: Default::default(),
            names: Default::default(),
            closing: Default::default(),
            control_refused: Cell::new(0),
            metrics_refused: Cell::new(0),
            verdicts_missed: Cell::new(false),
        }
    }

    /// The seat that the kernel would choose now; `None` while nobody is live.
    pub fn serving(&self) -> Option<u32> {
        let verdict = steer::choose(&self.steering.liveness(), time::monotonic_ns(), 0, PRIMARY);
        (!matches!(verdict.reason, Reason::FailOpen | Reason::Dropped)).then_some(verdict.seat)
    }

    /// Whether new traffic is served: somebody is live, and the proxy is not draining.
    pub fn ready(&self) -> bool {
        self.serving().is_some() && self.table.supervisor().drain() == DrainState::No
    }

    /// Waits while the flow table is being handed over: what is written and counted meanwhile may be lost.
    pub async fn stand_still_over_handover(&self) {
        while self.table.supervisor().handover.state() == HandoverState::Moving {
            tokio::time::sleep(MOVING_LOOK).await;
        }
    }

    /// Listeners of a protocol, with their numbers and labels.
    pub fn listeners(&self, protocol: Protocol) -> impl Iterator<Item = (usize, String)> {
        let listeners = self.config.listeners.iter().enumerate();
        let of_protocol = listeners.filter(move |(_, listener)| listener.address.protocol == protocol);
        of_protocol.map(|(number, listener)| (number, listener.address.to_string()))
    }

    /// Sums a quantity of a listener over all workers, and what was inherited.
    pub fn sum_listener(&self, listener: usize, quantity: impl Fn(&ListenerCounters) -> u64) -> u64 {
        self.table.counters_of_listener(listener).map(quantity).sum()
    }

    /// Connections that wait to be accepted from a TCP listener.
    pub fn accept_queue(&self, listener: usize) -> u64 {
        self.sockets(listener).filter_map(|socket| socket::accept_queue(socket).ok()).map(u64::from).sum()
    }

    /// Bytes that wait in a UDP listener, and datagrams that the kernel dropped for want of room.
    pub fn receive_queue(&self, listener: usize) -> (u64, u64) {
        let memories = self.sockets(listener).filter_map(|socket| socket_memory::read(socket).ok());
        memories.fold((0, 0), |(bytes, drops), memory| {
            (bytes + u64::from(memory.queued_bytes), drops + u64::from(memory.drops))
        })
    }

    fn sockets(&self, listener: usize) -> impl Iterator<Item = Fd> {
        self.listening.get(listener).into_iter().flatten().copied()
    }
}

/// How long the lease of each worker of a pool goes on, nanoseconds; 0 if it has run out.
pub fn leases(liveness: &Liveness, seat: u32, now_ns: u64) -> impl Iterator<Item = u64> {
    let seat = &liveness.seats[seat as usize];
    seat.deadlines.iter().take(liveness.workers as usize).map(move |deadline| deadline.saturating_sub(now_ns))
}

/// Whether the supervisor has looked at the pools within [`SILENCE_NS`]. It does a hundred times a
/// second; a twin takes its place within a tenth of a second.
pub fn supervisor_is_up(table: Table) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    let looked_at = table.supervisor().looked_at.load(Relaxed);
    time::monotonic_ns().saturating_sub(looked_at) < SILENCE_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_of_the_workers_there_are() {
        let mut liveness = Liveness { workers: 2, ..Liveness::EMPTY };
        liveness.seats[1].deadlines[..3].copy_from_slice(&[150, 90, 1000]);
        assert_eq!(leases(&liveness, 1, 100).collect::<Vec<_>>(), [50, 0]);
        liveness.workers = u32::MAX;
        assert_eq!(leases(&liveness, 1, 100).max(), Some(900));
    }
}
