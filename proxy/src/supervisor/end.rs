//! The end of everything, in good order.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use proxy_common::lease::{PRIMARY, STANDBY};

use super::{Supervisor, drain, paths::Place, sweep};
use crate::{
    sys::{
        process::{self, Child},
        time,
    },
    table::Ending,
};

/// How often it is looked whether control has made room in the supervisor's ring for the access log.
const LOOK: Duration = Duration::from_millis(1);
/// Time that control has to write the last lines of the access log.
const LAST_LINES: Duration = Duration::from_secs(1);

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
                self.cut_off(epoch);
            }
        }
        let unswept = self.unswept.iter().map(|unswept| unswept.epoch);
        let epochs: Vec<u32> = unswept.chain(self.strays.iter().copied()).collect();
        epochs.into_iter().for_each(|epoch| self.cut_off(epoch));
        let will_end = self.finish_access_log();
        self.control.child().filter(|_| will_end).map(|control| process::is_dead(*control, LAST_LINES));
        self.control.child().copied().map(put_down);
        self.setup.control_socket.remove();
        self.setup.sockets.paths.iter().for_each(Place::remove);
        self.leave_to_manager();
        tracing::info!(connections_cut = cut.0, flows_cut = cut.1, "ended");
    }

    fn cut_off(&mut self, epoch: u32) {
        while !self.has_told(epoch, Ending::Stopped) {
            std::thread::sleep(LOOK);
        }
        sweep::cut(&self.setup.table, epoch);
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
