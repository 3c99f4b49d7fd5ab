//! Relaying: what a worker does with a flow's descriptors. Knows nothing of pools.

mod admission;
pub mod balance;
pub mod buffers;
pub mod chooser;
mod expiry;
pub mod pipes;
mod rate;
pub mod servers;
pub mod tcp;
pub mod token;
pub mod udp;

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    config::Config,
    limits::Limits,
    sys::{Fd, fd::close},
    table::{ListenerCounters, Record, ServerCounters, Table, Window, WorkerBlock},
};
use proxy_common::slot;
use std::time::Duration;

/// A duration as the times of records are: milliseconds, at most half of what they wrap after.
pub fn millis(duration: Duration) -> u32 {
    duration.as_millis().min(i32::MAX as u128) as u32
}

/// Who may be counted on.
pub trait Leases: Sync {
    /// Whether the lease of this seat's worker goes on, now.
    fn is_live(&self, seat: u32, worker: u32) -> bool;

    /// Whether new traffic goes to this seat, now.
    fn is_chosen(&self, seat: u32) -> bool;
}

/// What everything that one worker relays shares. It owns no descriptor.
#[derive(Clone, Copy)]
pub struct Lane {
    /// The flow table.
    pub table: Table,
    /// The seat of the worker's pool.
    pub seat: u32,
    /// The worker's number.
    pub worker: u32,
    /// Its pool's epoch, the owner of its descriptors.
    pub epoch: u32,
    /// Its epoll set.
    pub set: Fd,
    /// The settings.
    pub config: &'static Config,
    /// The limits.
    pub limits: Limits,
    /// Every listening socket, by [`slot::index`].
    pub sockets: &'static [Fd],
    /// The workers' leases.
    pub leases: &'static dyn Leases,
}

impl Lane {
    /// This worker's block.
    pub fn block(&self) -> &'static WorkerBlock {
        self.table.worker(self.seat, self.worker)
    }

    /// This worker's counters of a listener. A number that is none (a wild write to a record)
    /// counts for the last one.
    pub fn listener(&self, listener: u32) -> &'static ListenerCounters {
        let counters = self.table.listener_counters(self.seat, self.worker);
        &counters[(listener as usize).min(counters.len() - 1)]
    }

    /// Counts a connection or flow that begins at a listener, or is adopted.
    pub fn count_open(&self, listener: u32) {
        self.listener(listener).open.up();
        self.listener(self.config.group(listener)).open_in_group.up();
    }

    /// Counts one that ends.
    pub fn count_closed(&self, listener: u32) {
        self.listener(listener).open.down();
        self.listener(self.config.group(listener)).open_in_group.down();
    }

    /// Connections and flows that all workers of both seats have open at all addresses of a listener's group.
    pub fn open_in_group(&self, listener: u32) -> u64 {
        self.table.open_in_group(self.config.group(listener))
    }

    /// This worker's counters of an upstream server; as [`Self::listener`].
    pub fn server(&self, server: u32) -> &'static ServerCounters {
        let counters = self.table.server_counters(self.seat, self.worker);
        &counters[(server as usize).min(counters.len() - 1)]
    }

    /// The worker's own listening socket of a listener; `None` if there is no such listener.
    pub fn socket(&self, listener: u32) -> Option<Fd> {
        let slot = slot::index(listener, self.seat, self.worker, self.config.workers);
        self.sockets.get(slot as usize).copied()
    }

    /// Connections and flows that all workers of both seats have open to an upstream server.
    pub fn open_to(&self, server: usize) -> u64 {
        self.table.open_to(server)
    }

    /// Opens this worker's opening window; `None` while a sweep is looking.
    pub fn window(&self) -> Option<Window<'static>> {
        Window::open(&self.block().opening, &self.table.supervisor().gate)
    }

    /// Tells the access log of the end of a flow, if it is to be told of those of its listener.
    pub fn log_end(&self, fd: Fd, record: &Record) {
        if self.config.logs(record.listener()) {
            let ring = self.table.log_ring(self.seat, self.worker);
            self.table.log_end(ring, &self.block().counters.log, fd, record);
        }
    }

    /// Closes a descriptor that this worker owns, in its pool's name.
    pub fn close(&self, fd: Fd) {
        match self.table.tag(fd) {
            Some(tag) => tag.close_with(self.epoch, self.worker, || close(fd)),
            None => close(fd),
        }
    }

    /// Whether this proxy takes what is new: a successor waits until it has taken over.
    pub fn is_serving(&self) -> bool {
        self.table.supervisor().serving.load(Relaxed) == 1
    }

    /// Connections open in both pools.
    pub fn connections(&self) -> usize {
        self.table.sum_workers(|worker| worker.connections.get()) as usize
    }

    /// UDP flows open in both pools.
    pub fn flows(&self) -> usize {
        self.table.sum_workers(|worker| worker.udp_flows.get()) as usize
    }
}
