//! The start of a proxy whose servers are given by name.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::Supervisor;
use crate::{
    slots,
    sys::{poll, time},
};

/// Longest wait for the first look-up, nanoseconds. Then there are no servers until there is an answer.
const LIMIT: u64 = 2_000_000_000;
/// How often it is looked whether it is over.
const LOOK: Duration = Duration::from_millis(2);

impl Supervisor {
    /// Gives control time for the first look-up of names, if an upstream has no server without it, before there are
    /// pools: what comes meanwhile waits in the queues of the listening sockets.
    pub(super) fn await_names(&mut self) {
        let began = time::monotonic_ns();
        while self.lacks_names() && time::monotonic_ns() - began < LIMIT {
            let now = time::monotonic_ns();
            self.setup.table.supervisor().looked_at.store(now, Relaxed);
            self.control.watch(&self.setup, &mut self.corpses, now);
            if poll::readable(&[self.setup.signals], LOOK).is_ok_and(|ready| ready[0]) {
                // Somebody wants an end, or control has died: the ordinary turns see to it.
                return;
            }
        }
    }

    fn lacks_names(&self) -> bool {
        let (config, table) = (self.setup.config, &self.setup.table);
        let mut upstreams = 0..config.upstreams.len();
        upstreams.any(|number| {
            !table.upstream(number).is_looked_up()
                && slots::of_upstream(config, table, number).next().is_none()
        })
    }
}
