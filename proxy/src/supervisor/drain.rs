//! Draining: new connections are refused by the kernel, those that wait are still accepted, and
//! old ones go on. Stopping is draining with a limit, and then the end.

use std::sync::atomic::Ordering::Relaxed;

use crate::table::DrainState;

use super::{listen, seats, setup::Setup};

/// How far it has come.
#[derive(Debug, Default)]
pub struct Drain {
    is_draining: bool,
    /// Stopping: when patience ends, monotonic nanoseconds.
    limit: Option<u64>,
    is_now: bool,
    /// At the last tick nothing was open.
    was_empty: bool,
}

impl Drain {
    /// Goes on with the draining that another supervisor has begun, if it has.
    pub fn resume(setup: &mut Setup) -> Self {
        let block = setup.table.supervisor();
        let stop_at = block.stop_at.load(Relaxed);
        let mut drain = Self { limit: (stop_at > 0).then_some(stop_at), ..Self::default() };
        if block.drain() != DrainState::No {
            drain.begin(setup);
        }
        drain
    }

    /// Begins to drain; again is harmless.
    pub fn begin(&mut self, setup: &mut Setup) {
        if self.is_draining {
            return;
        }
        self.is_draining = true;
        self.refuse_new(setup);
        setup.table.supervisor().set_drain(DrainState::Draining);
        seats::ring_all(&setup.table);
        let (connections, flows) = open_flows(setup);
        tracing::info!(connections, flows, "draining: new connections are refused");
    }

    /// Lets the kernel refuse new connections.
    pub fn refuse_new(&self, setup: &mut Setup) {
        if let Err(error) = listen::refuse_new(setup.config, &mut setup.steering, &setup.sockets) {
            tracing::error!(%error, "new connections cannot be refused; draining goes on");
        }
    }

    /// Drains and then ends.
    pub fn stop(&mut self, setup: &mut Setup, now: u64) {
        self.begin(setup);
        let limit = now + super::nanos(setup.config.drain_timeout);
        let limit = *self.limit.get_or_insert(limit);
        setup.table.supervisor().stop_at.store(limit, Relaxed);
    }

    /// Ends at once.
    pub fn stop_now(&mut self) {
        self.is_now = true;
    }

    /// Whether new connections are refused.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether the end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether it is to be at once.
    pub fn is_now(&self) -> bool {
        self.is_now
    }

    /// Looks how far it has come. Answers whether the proxy is to end.
    pub fn tick(&mut self, setup: &Setup, now: u64) -> bool {
        if !self.is_draining {
            return false;
        }
        let block = setup.table.supervisor();
        let is_empty = open_flows(setup) == (0, 0) && seats::waiting(setup) == 0;
        // Between its accept and its count a connection is in neither: so twice in a row.
        let is_drained = std::mem::replace(&mut self.was_empty, is_empty) && is_empty;
        if is_drained && block.drain() == DrainState::Draining {
            block.set_drain(DrainState::Drained);
            tracing::info!("drained: no connection and no flow is left");
        }
        self.limit.is_some_and(|limit| is_drained || now >= limit)
    }
}

/// Connections and flows that are open now.
pub fn open_flows(setup: &Setup) -> (u64, u64) {
    let connections = setup.table.sum_workers(|worker| worker.connections.get());
    (connections, setup.table.sum_workers(|worker| worker.udp_flows.get()))
}
