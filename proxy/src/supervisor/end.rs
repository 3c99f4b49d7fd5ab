//! The end of everything, in good order.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use proxy_common::lease::{PRIMARY, STANDBY};

use super::{Supervisor, drain, paths::Place, sweep};
use crate::sys::{
    process::{self, Child},
    time,
};

impl Supervisor {
    /// Ends everything; what is still open is reset, and counted. Left to the exit of the process, a
    /// connection would be closed, and a stream broken off would look like one that has ended.
    pub(super) fn end(&mut self) {
        self.notify_stopping(time::monotonic_ns());
        self.end_handover();
        self.twin.end();
        let cut = drain::open_flows(&self.setup);
        for seat in [PRIMARY, STANDBY] {
            let is_gone = self.seats.children[seat as usize].take().is_none_or(put_down);
            if is_gone {
                let epoch = self.setup.table.seat(seat).epoch.load(Relaxed);
                sweep::cut(&self.setup.table, epoch);
            }
        }
        let epochs = self.unswept.iter().map(|unswept| &unswept.epoch).chain(&self.strays);
        epochs.for_each(|epoch| _ = sweep::cut(&self.setup.table, *epoch));
        self.control.child().copied().map(put_down);
        self.setup.control_socket.remove();
        self.setup.sockets.paths.iter().for_each(Place::remove);
        self.leave_to_manager();
        tracing::info!(connections_cut = cut.0, flows_cut = cut.1, "ended");
    }
}

/// Kills and collects a child. Answers whether it is dead.
pub fn put_down(child: Child) -> bool {
    let is_dead = process::kill(child).is_ok() && process::is_dead(child, Duration::from_secs(1));
    if is_dead {
        process::forget(child);
    }
    is_dead
}
