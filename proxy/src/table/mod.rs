//! The flow table: the memory that supervisor, pools and control share, and nothing else is shared.
//!
//! Every word has one writer at a time: the supervisor its own block and the seats' blocks, a worker
//! its own block, counters and the tags and records of the flows it owns (until the supervisor has
//! seen it dead). Everybody may read everything, and believes nothing unchecked.

mod access_log;
mod blocks;
mod buffer;
mod checks;
mod closing;
mod counters;
mod ending;
mod estate;
mod facts;
pub mod flag;
mod handover;
mod holder;
mod index;
mod lap;
mod layout;
pub mod mark;
mod places;
mod record;
mod servers;
mod sources;
mod tag;
mod takeover;
mod told;
mod using;
mod window;
mod work;

pub use access_log::{LogCounters, LogEntry, LogRing, RING_ENTRIES};
pub use blocks::{
    ChildCell, ControlBlock, DrainState, FailoverReason, NumberCell, PoolState, SeatBlock, SupervisorBlock,
    TakeoverStage, WorkerBlock,
};
pub use buffer::{BUFFERS, BufferCell};
pub use checks::{CheckCounters, CheckResult, TRANSITIONS};
pub use closing::{CloseOrder, Criteria};
pub use counters::{
    ConnectFailure, Counted, Counter, DropReason, EXPIRIES, Gauge, HISTOGRAM_BOUNDS_MS, Histogram,
    ListenerCounters, Rejection, ServerCounters, Visit,
};
pub use ending::Ending;
pub use estate::{Estate, EstateStage};
pub use facts::{Facts, UdpFacts};
pub use handover::{Decision, DecisionCell, HandoverCell, HandoverKind, HandoverState};
pub use holder::Holder;
pub use index::{Entering, Entry, Found, Index};
pub use lap::lap_of;
pub use layout::{Dimensions, EVENT_BUFFERS};
pub use places::MovingPlaces;
pub use record::{Direction, Part, Record, State, octets};
pub use servers::{
    Health, Identity, LookupResult, Origin, Presence, RefusedAddress, ServerCell, ServerState, UpstreamCell,
    Wanted,
};
pub use sources::Sources;
pub use tag::{Kind, Tag, TagCell};
pub use takeover::{RECENT_TAKEOVERS, TakeoverCell};
pub use told::{Told, ToldCell};
pub use using::Using;
pub use window::{GATE_LIMIT_MS, Window, closed_gate};
pub use work::{AdoptedState, Lost, LostReason, WorkerCounters};

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    sync::atomic::{AtomicU64, Ordering::Acquire, fence},
};

use layout::Layout;

use crate::sys::{Fd, epoll::EventBuffer, memory::SharedMemory};
use proxy_common::lease::SEATS;

/// The flow table. Copies name the same memory, in every process that was cloned since.
#[derive(Clone, Copy)]
pub struct Table {
    memory: SharedMemory,
    layout: Layout,
    dimensions: Dimensions,
    /// The lowest number that can be a flow's.
    first: i32,
}

impl Table {
    /// Makes an empty table; pages are used as they are touched.
    ///
    /// # Errors
    /// The memory limit is reached.
    pub fn create(dimensions: Dimensions) -> io::Result<(Fd, Self)> {
        let layout = Layout::new(dimensions);
        let (fd, memory) = SharedMemory::create(c"proxy-flows", layout.end)?;
        let table = Self { memory, layout, dimensions, first: 0 };
        // The standard library has random numbers of the kernel's, and gives them away hashed.
        let random = |_| RandomState::new().hash_one(layout.end);
        table.index().set_keys([0, 1].map(random));
        Ok((fd, table))
    }

    /// Maps the table of another process.
    ///
    /// # Errors
    /// It is smaller than a table of these dimensions.
    pub fn open(fd: Fd, dimensions: Dimensions) -> io::Result<Self> {
        let layout = Layout::new(dimensions);
        let memory = SharedMemory::open(fd, layout.end)?;
        Ok(Self { memory, layout, dimensions, first: 0 })
    }

    /// From now on descriptors below `first` have neither tag nor record in this copy of the table and
    /// those made of it: they are the supervisor's for good, whatever a dying pool writes where.
    pub fn reserve_below(&mut self, first: Fd) {
        self.first = first.raw();
    }

    /// Where the tag of a descriptor is, bytes from the beginning.
    pub fn tag_offset(&self, fd: Fd) -> usize {
        self.layout.tags + fd.index() * size_of::<TagCell>()
    }

    /// Where the record of a descriptor is, bytes from the beginning.
    pub fn record_offset(&self, fd: Fd) -> usize {
        self.layout.records + fd.index() * size_of::<Record>()
    }

    /// Where the event buffers of a worker are, bytes from the beginning, and how long.
    pub fn events_range(&self, seat: u32, worker: u32) -> std::ops::Range<usize> {
        let size = size_of::<[EventBuffer; EVENT_BUFFERS]>();
        let start = self.layout.events + self.lane(seat, worker) * size;
        start..start + size
    }

    fn place(&self, fd: Fd) -> Option<usize> {
        usize::try_from(fd.raw()).ok().filter(|_| fd.raw() >= self.first)
    }

    /// What it has room for.
    pub fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    /// The supervisor's block.
    pub fn supervisor(&self) -> &'static SupervisorBlock {
        &self.memory.slice(0, 1)[0]
    }

    /// Control's block.
    pub fn control(&self) -> &'static ControlBlock {
        &self.memory.slice(self.layout.control, 1)[0]
    }

    /// A seat's block.
    pub fn seat(&self, seat: u32) -> &'static SeatBlock {
        &self.memory.slice(self.layout.seats, SEATS)[seat as usize]
    }

    /// A worker's block.
    pub fn worker(&self, seat: u32, worker: u32) -> &'static WorkerBlock {
        &self.memory.slice(self.layout.workers, self.all_workers())[self.lane(seat, worker)]
    }

    /// The blocks of one seat's workers.
    pub fn workers(&self, seat: u32) -> &'static [WorkerBlock] {
        let first = self.lane(seat, 0);
        &self.memory.slice(self.layout.workers, self.all_workers())[first..first + self.dimensions.workers]
    }

    /// A worker's counters, by listener.
    pub fn listener_counters(&self, seat: u32, worker: u32) -> &'static [ListenerCounters] {
        let count = self.dimensions.listeners;
        &self.all_listener_counters()[self.lane(seat, worker) * count..][..count]
    }

    /// A worker's counters, by upstream server.
    pub fn server_counters(&self, seat: u32, worker: u32) -> &'static [ServerCounters] {
        let count = self.dimensions.servers;
        &self.all_server_counters()[self.lane(seat, worker) * count..][..count]
    }

    /// A worker's counters of the server slots that are in use: of others no page is touched.
    pub fn used_server_counters(
        &self,
        seat: u32,
        worker: u32,
    ) -> impl Iterator<Item = &'static ServerCounters> {
        let counters = self.server_counters(seat, worker).iter().zip(self.servers());
        counters.filter(|(_, cell)| cell.presence() != Presence::Vacant).map(|(counters, _)| counters)
    }

    /// A listener's counters: those of all workers, and what was inherited.
    pub fn counters_of_listener(&self, listener: usize) -> impl Iterator<Item = &'static ListenerCounters> {
        self.all_listener_counters().iter().skip(listener).step_by(self.dimensions.listeners)
    }

    /// An upstream server's counters: those of all workers, and what was inherited.
    pub fn counters_of_server(&self, server: usize) -> impl Iterator<Item = &'static ServerCounters> {
        self.all_server_counters().iter().skip(server).step_by(self.dimensions.servers)
    }

    /// What was inherited of listeners: counted under supervisors that handed over to this one. Like all
    /// that was inherited it is written once, by the supervisor, and its gauges are 0.
    pub fn inherited_listeners(&self) -> &'static [ListenerCounters] {
        &self.all_listener_counters()[self.all_workers() * self.dimensions.listeners..]
    }

    /// What was inherited of upstream servers. Its gauge is what dead workers of this supervisor's have left open.
    pub fn inherited_servers(&self) -> &'static [ServerCounters] {
        &self.all_server_counters()[self.all_workers() * self.dimensions.servers..]
    }

    /// What was inherited of the worker of this number in this seat.
    pub fn inherited_worker(&self, seat: u32, worker: u32) -> &'static WorkerCounters {
        &self.all_inherited_workers()[self.lane(seat, worker)]
    }

    /// What was inherited of workers whose numbers there are no more.
    pub fn inherited_rest(&self) -> &'static WorkerCounters {
        &self.all_inherited_workers()[self.all_workers()]
    }

    /// What is known of an upstream.
    pub fn upstream(&self, upstream: usize) -> &'static UpstreamCell {
        &self.memory.slice(self.layout.upstreams, self.dimensions.upstreams)[upstream]
    }

    /// The server slots.
    pub fn servers(&self) -> &'static [ServerCell] {
        self.memory.slice(self.layout.servers, self.dimensions.servers)
    }

    /// What checks have counted, by server slot.
    pub fn checks(&self) -> &'static [CheckCounters] {
        self.memory.slice(self.layout.checks, self.dimensions.servers)
    }

    /// A worker's event buffers: of its own epoll set, and of adopted ones.
    pub fn events(&self, seat: u32, worker: u32) -> &'static [EventBuffer; EVENT_BUFFERS] {
        &self.memory.slice(self.layout.events, self.all_workers())[self.lane(seat, worker)]
    }

    /// All tags, by descriptor number.
    pub fn tags(&self) -> &'static [TagCell] {
        self.memory.slice(self.layout.tags, self.dimensions.descriptors)
    }

    /// The tag of a descriptor; `None` for a number out of range, or the supervisor's.
    pub fn tag(&self, fd: Fd) -> Option<&'static TagCell> {
        self.tags().get(self.place(fd)?)
    }

    /// The record of the flow whose client descriptor (TCP) or upstream descriptor (UDP) is `fd`;
    /// `None` for a number out of range, or the supervisor's.
    pub fn record(&self, fd: Fd) -> Option<&'static Record> {
        self.records().get(self.place(fd)?)
    }

    /// All records, by descriptor number.
    pub fn records(&self) -> &'static [Record] {
        self.memory.slice(self.layout.records, self.dimensions.descriptors)
    }

    /// The facts of the UDP flow whose upstream descriptor is `fd`; `None` as for [`Self::record`].
    pub fn udp_facts(&self, fd: Fd) -> Option<&'static UdpFacts> {
        let all: &[UdpFacts] = self.memory.slice(self.layout.udp_facts, self.dimensions.descriptors);
        all.get(self.place(fd)?)
    }

    /// What a PROXY header told of the flow whose record is at `fd`; `None` if none did.
    pub fn told(&self, fd: Fd) -> Option<Told> {
        self.record(fd).filter(|record| record.has(flag::TOLD))?;
        Some(self.told_cells().get(self.place(fd)?)?.get())
    }

    /// Notes what a PROXY header told of the flow whose record is at `fd`: for good, once it is noted.
    pub fn set_told(&self, fd: Fd, told: &Told) {
        if let (Some(record), Some(place)) = (self.record(fd), self.place(fd))
            && let Some(cell) = self.told_cells().get(place)
        {
            cell.set(told);
            record.set(flag::TOLD);
        }
    }

    fn told_cells(&self) -> &'static [ToldCell] {
        self.memory.slice(self.layout.told, self.dimensions.descriptors)
    }

    /// Flows lost for a reason: TCP connections and UDP flows.
    pub fn lost(&self, reason: LostReason) -> [u64; 2] {
        let lost = &self.supervisor().lost;
        let swept = [&lost.tcp, &lost.udp].map(|counts| counts[reason as usize].get());
        let tcp = self.sum_counters(|worker| worker.lost.tcp[reason as usize].get());
        let udp = self.sum_counters(|worker| worker.lost.udp[reason as usize].get());
        [swept[0] + tcp, swept[1] + udp]
    }

    /// The index of UDP flows.
    pub fn index(&self) -> Index {
        let keys = self.memory.slice(self.layout.index_keys, Index::KEYS);
        let cells = Index::cells_for(self.dimensions.descriptors);
        Index::new(keys, self.memory.slice(self.layout.index, cells))
    }

    /// Connections and flows open at a listener.
    pub fn open_at(&self, listener: usize) -> u64 {
        self.lanes().map(|(seat, worker)| self.listener_counters(seat, worker)[listener].open.get()).sum()
    }

    /// Connections and flows open at all addresses of a listener's group.
    pub fn open_in_group(&self, group: u32) -> u64 {
        let of_group = |(seat, worker)| self.listener_counters(seat, worker).get(group as usize);
        self.lanes().filter_map(of_group).map(|counters| counters.open_in_group.get()).sum()
    }

    /// The word by which the new connections of a listener's group are counted ([`crate::relay`]); any one if there
    /// is no such group.
    pub fn rate(&self, group: u32) -> &'static AtomicU64 {
        let words = self.memory.slice(self.layout.rates, self.dimensions.listeners);
        &words[(group as usize).min(words.len() - 1)]
    }

    /// What each client has open.
    pub fn sources(&self) -> Sources {
        let lanes = if self.dimensions.counts_sources { self.all_workers() } else { 0 };
        Sources::new(self.memory.slice(self.layout.sources, lanes * Sources::CELLS))
    }

    /// Connections and flows open to a server, with those that wait for their heirs. (While these adopt them some are
    /// counted twice.)
    pub fn open_to(&self, server: usize) -> u64 {
        let open = |(seat, worker)| self.server_counters(seat, worker)[server].open.get();
        let sum = self.lanes().map(open).sum::<u64>();
        fence(Acquire);
        sum + self.inherited_servers()[server].open.get()
    }

    /// Seat and number of all workers.
    pub fn lanes(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let workers = self.dimensions.workers as u32;
        (0..SEATS as u32).flat_map(move |seat| (0..workers).map(move |worker| (seat, worker)))
    }

    /// Sums a quantity over the workers of both seats.
    pub fn sum_workers(&self, quantity: impl Fn(&WorkerBlock) -> u64) -> u64 {
        (0..SEATS as u32).flat_map(|seat| self.workers(seat)).map(quantity).sum()
    }

    /// Sums what workers have counted: those of both seats, and those that were inherited.
    pub fn sum_counters(&self, quantity: impl Fn(&WorkerCounters) -> u64) -> u64 {
        let inherited: u64 = self.all_inherited_workers().iter().map(&quantity).sum();
        inherited + self.sum_workers(|worker| quantity(&worker.counters))
    }

    fn all_listener_counters(&self) -> &'static [ListenerCounters] {
        let count = (self.all_workers() + 1) * self.dimensions.listeners;
        self.memory.slice(self.layout.listeners, count)
    }

    fn all_server_counters(&self) -> &'static [ServerCounters] {
        let count = (self.all_workers() + 1) * self.dimensions.servers;
        self.memory.slice(self.layout.server_counters, count)
    }

    fn all_inherited_workers(&self) -> &'static [WorkerCounters] {
        self.memory.slice(self.layout.inherited, self.all_workers() + 1)
    }

    fn all_workers(&self) -> usize {
        SEATS * self.dimensions.workers
    }

    /// The place of a worker among those of both seats.
    pub fn lane(&self, seat: u32, worker: u32) -> usize {
        seat as usize * self.dimensions.workers + worker as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_records_fill_a_cache_line() {
        let dimensions = Dimensions {
            descriptors: 1000,
            workers: 3,
            listeners: 2,
            upstreams: 2,
            servers: 5,
            ..Dimensions::SMALL
        };
        let (_, table) = Table::create(dimensions).unwrap();
        assert_eq!(size_of::<Record>(), 64);
        let last = Fd::from_raw(999);
        table.record(last).unwrap().begin(State::Established, 2, 1, 7);
        table.tag(last).unwrap().set(Tag::new(Kind::Client, 9));
        for seat in 0..2 {
            for worker in 0..3 {
                table.listener_counters(seat, worker)[1].accepted.add(1);
                table.server_counters(seat, worker)[4].connections.add(1);
                table.events(seat, worker);
                assert_eq!(table.worker(seat, worker).epoll.get(), 0);
            }
        }
        table.inherited_listeners()[1].accepted.add(100);
        table.inherited_servers()[4].connections.add(100);
        table.inherited_worker(1, 2).audits.add(100);
        table.inherited_rest().audits.add(1000);
        table.worker(1, 2).counters.audits.add(1);
        let accepted =
            |listener| table.counters_of_listener(listener).map(|of| of.accepted.get()).sum::<u64>();
        assert_eq!((accepted(0), accepted(1)), (0, 106));
        let made = |server| table.counters_of_server(server).map(|of| of.connections.get()).sum::<u64>();
        assert_eq!((made(3), made(4)), (0, 106));
        assert_eq!(table.sum_counters(|worker| worker.audits.get()), 1101);
        assert_eq!(table.tag(last).unwrap().get(), Tag::new(Kind::Client, 9));
        assert_eq!(table.record(last).unwrap().listener(), 1);
        let flow = Entry { fd: last, generation: 1 };
        (0..5000).for_each(|hash| table.index().remove(hash, flow));
        assert_eq!(table.record(last).unwrap().listener(), 1);
        assert!(table.record(Fd::from_raw(1000)).is_none());
        assert!(table.record(Fd::from_raw(-1)).is_none());
    }

    #[test]
    fn the_supervisors_numbers_have_no_records() {
        let dimensions = Dimensions { descriptors: 100, ..Dimensions::SMALL };
        let (fd, mut table) = Table::create(dimensions).unwrap();
        table.reserve_below(Fd::from_raw(7));
        assert!(table.record(Fd::from_raw(6)).is_none() && table.tag(Fd::from_raw(6)).is_none());
        table.tag(Fd::from_raw(7)).unwrap().set(Tag::new(Kind::Pipe, 3));
        let other = Table::open(fd, dimensions).unwrap();
        assert_eq!(other.tag(Fd::from_raw(7)).unwrap().get(), Tag::new(Kind::Pipe, 3));
        assert!(Table::open(fd, Dimensions { descriptors: 10_000, ..dimensions }).is_err());
    }
}
