//! Relays: what moves bytes and datagrams between clients and upstream servers.

pub mod balance;
pub mod token;
pub mod udp;

use proxy_common::slot;

use crate::{
    config::Config,
    sys::Fd,
    table::{ListenerCounters, ServerCounters, Table, WorkerBlock},
};

/// What all relays of one worker share. It owns no descriptor.
pub struct Lane {
    /// The shared memory.
    pub table: Table,
    /// The worker's seat.
    pub seat: u32,
    /// Its number in the pool.
    pub worker: u32,
    /// Its pool's epoch.
    pub epoch: u32,
    /// Its epoll set.
    pub set: Fd,
    /// The settings.
    pub config: &'static Config,
    /// The listening sockets of both seats, by [`slot::index`].
    pub sockets: &'static [Fd],
    /// Limit on UDP flows of all workers together.
    pub max_flows: u64,
}

impl Lane {
    /// The worker's block.
    pub fn block(&self) -> &'static WorkerBlock {
        self.table.worker(self.seat, self.worker)
    }

    /// The worker's counters of a listener; `None` if there is no such listener.
    pub fn listener_counters(&self, listener: u32) -> Option<&'static ListenerCounters> {
        self.table.listener_counters(self.seat, self.worker).get(listener as usize)
    }

    /// The worker's counters of an upstream server; `None` if there is no such server.
    pub fn server_counters(&self, server: u32) -> Option<&'static ServerCounters> {
        self.table.server_counters(self.seat, self.worker).get(server as usize)
    }

    /// The worker's own listening socket of a listener; `None` if there is no such listener.
    pub fn socket(&self, listener: u32) -> Option<Fd> {
        let slot = slot::index(listener, self.seat, self.worker, self.config.workers);
        self.sockets.get(slot as usize).copied()
    }

    /// Connections and flows that all workers of both seats have open to an upstream server.
    pub fn open_to(&self, server: usize) -> u64 {
        let workers = 0..self.config.workers;
        let seats = 0..proxy_common::lease::SEATS as u32;
        let open = |seat, worker| {
            self.table.server_counters(seat, worker).get(server).map_or(0, |counters| counters.open.get())
        };
        seats.map(|seat| workers.clone().map(|worker| open(seat, worker)).sum::<u64>()).sum()
    }
}
