//! The life of a pool: a process of workers, cloned by the supervisor, with the supervisor's
//! descriptor table. It opens descriptors for flows and nothing else; in particular it runs no
//! tokio, whose epoll set and event descriptor would be left in the shared table at its death.

mod adopt;
mod claim;
mod close;
mod confine;
mod park;
mod worker;

use std::ffi::CStr;

use proxy_common::slot;

use crate::{
    config::Config,
    limits::Limits,
    steering::LivenessMap,
    sys::{Fd, credentials::Capability, process, signal},
    table::{DecisionCell, Table},
};

/// All that a pool is given. Its memory is a copy of the supervisor's at the clone.
#[derive(Clone)]
pub struct Pool {
    /// The settings.
    pub config: &'static Config,
    /// The flow table.
    pub table: Table,
    /// The liveness bits and leases.
    pub liveness: LivenessMap,
    /// Its seat.
    pub seat: u32,
    /// Its epoch.
    pub epoch: u32,
    /// Epochs that pools of supervisors before this one have had.
    pub first_epoch: u32,
    /// Limits on flows.
    pub limits: Limits,
    /// Every listening socket, by slot; after the last slot, the surplus ones.
    pub sockets: &'static [Fd],
    /// The listeners of the surplus ones.
    pub surplus: &'static [u32],
    /// Pipes to start with, by worker.
    pub pipes: Vec<Vec<Fd>>,
    /// Whether the flows are another supervisor's pools'.
    pub decision: &'static DecisionCell,
    /// The file of all workers' buffers.
    pub buffers: Fd,
    /// `/dev/null`.
    pub null: Fd,
}

/// Environment variable that lets tests hang a worker by SIGUSR1.
pub const TEST_HOOKS: &str = "PROXY_TEST_HOOKS";

impl Pool {
    /// Runs the pool in a fresh clone. Ends only by failing; answers the exit code.
    pub fn run(self) -> i32 {
        process::set_name(self.name());
        #[cfg(feature = "fault-points")]
        crate::fault::enter(self.seat, self.epoch - self.first_epoch);
        if std::env::var_os(TEST_HOOKS).is_some() {
            signal::hang_on_usr1();
        }
        let kept: &[Capability] = if self.config.has_transparent() { &[Capability::NetRaw] } else { &[] };
        if let Err(error) = confine::confine(self.config.user.as_ref(), kept) {
            tracing::error!(seat = self.seat, %error, "the pool cannot give up its rights");
            return 1;
        }
        let pool: &'static Self = Box::leak(Box::new(self));
        let workers: Vec<_> = (0..pool.config.workers).map(|worker| spawn(pool, worker)).collect();
        for worker in workers {
            match worker {
                // A worker's loop never ends, so waiting for the first is waiting for all.
                Ok(thread) => drop(thread.join()),
                Err(error) => tracing::error!(seat = pool.seat, %error, "a worker thread cannot be made"),
            }
        }
        1
    }

    /// The listener of a slot; a number that is none if there is no such slot.
    fn listener_of(&self, slot: u32) -> u32 {
        let per_listener = slot::count(1, self.config.workers);
        let slots = slot::count(self.config.listeners.len() as u32, self.config.workers);
        match slot.checked_sub(slots) {
            None => slot / per_listener,
            Some(surplus) => self.surplus.get(surplus as usize).copied().unwrap_or(u32::MAX),
        }
    }

    fn name(&self) -> &'static CStr {
        if self.seat == proxy_common::lease::PRIMARY { c"proxy-primary" } else { c"proxy-standby" }
    }
}

fn spawn(pool: &'static Pool, worker: u32) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
        if let Err(error) = worker::Worker::new(pool, worker).run() {
            tracing::error!(seat = pool.seat, worker, %error, "the worker cannot wait for events");
            // One worker less than steering believes in: better to fail over as a whole.
            std::process::abort();
        }
    })
}
