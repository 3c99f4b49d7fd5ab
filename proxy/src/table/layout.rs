//! Where the parts of the flow table are.

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::{
    CheckCounters, ControlBlock, Index, ListenerCounters, RING_ENTRIES, Record, SeatBlock, ServerCell,
    ServerCounters, Sources, SupervisorBlock, TagCell, ToldCell, UdpFacts, UpstreamCell, WorkerBlock,
    WorkerCounters,
    access_log::{LogCell, LogCursor},
};
use crate::sys::epoll::EventBuffer;
use proxy_common::lease::SEATS;

/// Event buffers of a worker.
pub const EVENT_BUFFERS: usize = 2;

/// How many of each thing the table has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Descriptor numbers: the process's limit.
    pub descriptors: usize,
    /// Workers per pool.
    pub workers: usize,
    /// Listeners.
    pub listeners: usize,
    /// Upstreams.
    pub upstreams: usize,
    /// Server slots of all upstreams.
    pub servers: usize,
    /// Whether it is counted what each client has open: room that costs nothing else.
    pub counts_sources: bool,
}

#[cfg(test)]
impl Dimensions {
    /// One of each, for tests that care for one of them at most.
    pub const SMALL: Self =
        Self { descriptors: 64, workers: 1, listeners: 1, upstreams: 1, servers: 1, counts_sources: false };
}

/// Byte offsets of the parts.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub control: usize,
    pub seats: usize,
    pub workers: usize,
    pub inherited: usize,
    pub listeners: usize,
    pub server_counters: usize,
    pub upstreams: usize,
    pub servers: usize,
    pub checks: usize,
    pub events: usize,
    pub tags: usize,
    pub records: usize,
    pub udp_facts: usize,
    pub rates: usize,
    pub sources: usize,
    pub told: usize,
    pub log_cursors: usize,
    pub log_cells: usize,
    pub index_keys: usize,
    pub index: usize,
    pub end: usize,
}

impl Layout {
    pub fn new(dimensions: Dimensions) -> Self {
        let Dimensions { descriptors, workers, listeners, upstreams, servers, counts_sources } = dimensions;
        let all_workers = SEATS * workers;
        let mut end = 0;
        let mut part = |size: usize, count: usize| {
            // Each part starts on its own page, so that pages hold one kind of thing.
            let start = usize::next_multiple_of(end, 4096);
            end = start + size * count;
            start
        };
        part(size_of::<SupervisorBlock>(), 1);
        let control = part(size_of::<ControlBlock>(), 1);
        let seats = part(size_of::<SeatBlock>(), SEATS);
        let workers = part(size_of::<WorkerBlock>(), all_workers);
        // Of what was inherited: by worker and one more for workers that are no more; a lane more than workers.
        let inherited = part(size_of::<WorkerCounters>(), all_workers + 1);
        let listeners = part(size_of::<ListenerCounters>(), (all_workers + 1) * listeners);
        let server_counters = part(size_of::<ServerCounters>(), (all_workers + 1) * servers);
        let upstreams = part(size_of::<UpstreamCell>(), upstreams);
        let checks = part(size_of::<CheckCounters>(), servers);
        let servers = part(size_of::<ServerCell>(), servers);
        let events = part(size_of::<[EventBuffer; EVENT_BUFFERS]>(), all_workers);
        let tags = part(size_of::<TagCell>(), descriptors);
        let records = part(size_of::<Record>(), descriptors);
        let udp_facts = part(size_of::<UdpFacts>(), descriptors);
        let rates = part(size_of::<AtomicU64>(), listeners);
        let lanes_that_count = if counts_sources { all_workers } else { 0 };
        let sources = part(size_of::<AtomicU32>(), lanes_that_count * Sources::CELLS);
        let told = part(size_of::<ToldCell>(), descriptors);
        let log_cursors = part(size_of::<LogCursor>(), all_workers + 1);
        let log_cells = part(size_of::<LogCell>() * RING_ENTRIES, all_workers + 1);
        let index_keys = part(size_of::<AtomicU64>(), Index::KEYS);
        let index = part(size_of::<AtomicU64>(), Index::cells_for(descriptors));
        Self {
            control,
            seats,
            workers,
            inherited,
            listeners,
            server_counters,
            upstreams,
            servers,
            checks,
            events,
            tags,
            records,
            udp_facts,
            rates,
            sources,
            told,
            log_cursors,
            log_cells,
            index_keys,
            index,
            end,
        }
    }
}
