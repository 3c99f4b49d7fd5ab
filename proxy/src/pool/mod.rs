//! The life of a pool: a process of workers, cloned by the supervisor, with the supervisor's
//! descriptor table. It opens descriptors for flows and nothing else; in particular it runs no
//! tokio, whose epoll set and event descriptor would be left in the shared table at its death.

mod adopt;
mod confine;
mod worker;

use std::ffi::CStr;

use crate::{
    config::Config,
    limits::Limits,
    steering::LivenessMap,
    sys::{Fd, process, signal},
    table::Table,
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
    /// Limits on flows.
    pub limits: Limits,
    /// Every listening socket, by slot.
    pub sockets: &'static [Fd],
    /// Pipes to start with, by worker.
    pub pipes: Vec<Vec<Fd>>,
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
        crate::fault::enter(self.seat, self.epoch);
        if std::env::var_os(TEST_HOOKS).is_some() {
            signal::hang_on_usr1();
        }
        if let Err(error) = confine::confine(self.config.user.as_ref()) {
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
