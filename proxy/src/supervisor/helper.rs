//! The control process, as the supervisor sees it: started, and started again when it dies.
//! Nothing on the data path waits for it.

use crate::{
    control::{self, Context},
    notices::Notice,
    sys::{
        Fd,
        process::{self, Child},
        socket,
    },
};

use super::{
    corpses::{Corpses, Who},
    seats,
    setup::Setup,
};

/// Wait before control is started again after it lived for less than this, nanoseconds.
const RESPAWN: u64 = 1_000_000_000;

/// The control process.
#[derive(Default)]
pub struct Control {
    child: Option<Child>,
    started_at: u64,
}

impl Control {
    /// Not started yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with the process that another supervisor has started.
    pub fn resume(child: Option<Child>, now: u64) -> Self {
        Self { child, started_at: now }
    }

    /// The process, if it runs.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Starts it if there is none.
    pub fn watch(&mut self, setup: &Setup, corpses: &mut Corpses, now: u64) {
        if let Some(child) = self.child
            && process::is_dead(child, std::time::Duration::ZERO)
        {
            setup.table.supervisor().control.clear();
            corpses.add(Who::Control, child, now);
            self.child = None;
        }
        let may_start = self.started_at == 0 || now - self.started_at >= RESPAWN;
        if self.child.is_none() && may_start {
            self.start(setup, now);
        }
    }

    fn start(&mut self, setup: &Setup, now: u64) {
        let unneeded = retired(setup);
        let listening = (0..setup.config.listeners.len() as u32).map(|listener| {
            let sockets = sockets(setup, listener);
            sockets.filter(|socket| !unneeded.contains(socket)).collect()
        });
        let context = Context {
            config: setup.config.clone(),
            table: setup.table,
            steering: &setup.steering,
            control_socket: setup.control_socket.socket,
            metrics: setup.metrics,
            orders: setup.orders.1,
            orders_peer: setup.orders.0,
            notices: setup.notices.1,
            notices_peer: setup.notices.0,
            access_log: setup.access_log,
            listening: listening.collect(),
            unneeded,
            last_kept: Fd::from_raw(setup.first_unneeded.raw() - 1),
        };
        forget_orders(setup);
        Notice::forget_all(setup.notices.1);
        let block = setup.table.supervisor();
        let parent = std::process::id() as i32;
        let life =
            || if seats::announce(&setup.table, &block.control, parent) { control::run(context) } else { 1 };
        match process::clone_sharing_files(life) {
            Ok(child) => {
                if self.started_at > 0 {
                    block.control_restarts.add(1);
                }
                block.control.set(child);
                self.child = Some(child);
            }
            Err(error) => tracing::error!(%error, "control cannot be started"),
        }
        self.started_at = now;
    }
}

/// Listening sockets that control must not have: the port would stay taken by its copies.
fn retired(setup: &Setup) -> Vec<Fd> {
    let listeners = (0..).zip(&setup.config.listeners).filter(|(_, listener)| listener.is_retired);
    listeners.flat_map(|(number, _)| sockets(setup, number)).collect()
}

fn sockets(setup: &Setup, listener: u32) -> impl Iterator<Item = Fd> {
    let all = setup.sockets.all;
    setup.sockets.of_listener(listener).map(move |slot| all[slot as usize])
}

/// Empties the line of what a dead control had asked or was answered: the new one would take an
/// answer that it did not wait for as the answer to its first order.
fn forget_orders(setup: &Setup) {
    let mut message = [0; 512];
    for end in [setup.orders.0, setup.orders.1] {
        while socket::receive_message(end, &mut message).is_ok_and(|length| length > 0) {
            tracing::warn!("an order, or its answer, was lost with control");
        }
    }
}
