//! The end of everything, in good order.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

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
/// Time that there is for telling the access log of what is cut.
const TELLING: Duration = Duration::from_secs(10);
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
        // Both first: what the one still took while the other's connections are told of would be cut next.
        let seats = [PRIMARY, STANDBY].into_iter();
        let gone: Vec<u32> = seats
            .filter(|seat| self.seats.children[*seat as usize].take().is_none_or(put_down))
            .map(|seat| self.setup.table.seat(seat).epoch.load(Relaxed))
            .collect();
        let left = self.unswept.iter().map(|unswept| unswept.epoch).chain(self.strays.iter().copied());
        let epochs: Vec<u32> = gone.into_iter().chain(left).collect();
        let until = Instant::now() + TELLING;
        epochs.into_iter().for_each(|epoch| self.cut_off(epoch, until));
        let will_end = self.finish_access_log();
        self.control.child().filter(|_| will_end).map(|control| process::is_dead(*control, LAST_LINES));
        self.control.child().copied().map(put_down);
        self.setup.control_socket.remove();
        self.setup.sockets.paths.iter().for_each(Place::remove);
        self.leave_to_manager();
        tracing::info!(connections_cut = cut.0, flows_cut = cut.1, "ended");
    }

    fn cut_off(&mut self, epoch: u32, until: Instant) {
        // Nobody starts another control process any more.
        let is_read = |control: &Child| !process::is_dead(*control, Duration::ZERO);
        while self.control.child().is_some_and(is_read) && Instant::now() < until {
            if self.has_told(epoch, Ending::Stopped) {
                break;
            }
            std::thread::sleep(LOOK);
        }
        self.has_told_or_dropped(epoch, Ending::Stopped, false);
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
