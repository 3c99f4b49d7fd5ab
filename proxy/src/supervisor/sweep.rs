//! Clearing up after a dead pool: its flows are reset and every descriptor that it owned is closed,
//! and so is what it had opened and not recorded.

use std::sync::atomic::Ordering::SeqCst;

use proxy_common::lease::SEATS;

use crate::{
    sys::{
        Fd,
        fd::{self, close},
        socket, time,
    },
    table::{GATE_LIMIT_MS, Kind, State, Table, Tag},
};

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// TCP connections that were cut.
    pub connections: u64,
    /// UDP flows that were cut.
    pub flows: u64,
    /// Descriptors that were open and nobody's.
    pub orphans: u64,
}

/// Cuts the flows of the pool with `epoch`, which must be dead.
pub fn cut(table: &Table, seat: u32, epoch: u32) -> Swept {
    let mut swept = Swept::default();
    for (number, cell) in table.tags().iter().enumerate() {
        let (fd, tag) = (Fd::from_raw(number as i32), cell.get());
        if tag.epoch != epoch {
            continue;
        }
        match tag.kind {
            Kind::Client => {
                swept.connections += 1;
                socket::reset(fd);
                forget(table, fd);
            }
            Kind::Upstream => socket::reset(fd),
            Kind::UdpFlow => {
                swept.flows += 1;
                forget(table, fd);
            }
            Kind::Pipe => {}
            Kind::Closing => {
                cell.forget_closing(epoch);
                continue;
            }
            Kind::Free | Kind::Supervisor => continue,
        }
        cell.set(Tag::FREE);
        close(fd);
    }
    clear_gauges(table, seat);
    swept
}

fn forget(table: &Table, fd: Fd) {
    if let Some(record) = table.record(fd) {
        record.set_state(State::Free);
    }
}

fn clear_gauges(table: &Table, seat: u32) {
    for worker in 0..table.dimensions().workers as u32 {
        let block = table.worker(seat, worker);
        let gauges =
            [&block.connections, &block.udp_flows, &block.pipes_free, &block.pipes_lent, &block.pipes_wanted];
        let listeners = table.listener_counters(seat, worker).iter().map(|counters| &counters.open);
        let servers = table.server_counters(seat, worker).iter().map(|counters| &counters.open);
        gauges.into_iter().chain(listeners).chain(servers).for_each(|gauge| gauge.set(0));
        block.pipe_gifts.iter().for_each(|gift| gift.set(0));
        block.opening.store(0, SeqCst);
    }
}

/// Closes sockets and pipes that no tag names: a pool died between opening and recording them.
/// Answers how many, or `None` if it took too long (a worker is hung in its window); then it has to
/// be tried again.
pub fn close_orphans(table: &Table) -> Option<u64> {
    // Most numbers are looked at before the gate is closed, for there may be a million of them. One
    // that a worker is about to record is among the suspects, and is looked at again.
    let mut suspects = fd::open_numbers().ok()?;
    suspects.retain(|fd| is_nobodys(table, *fd));
    if suspects.is_empty() {
        return Some(0);
    }
    let gate = &table.supervisor().gate;
    gate.store(1, SeqCst);
    let orphans = close_behind_gate(table, &suspects, time::monotonic_ms() + GATE_LIMIT_MS);
    gate.store(0, SeqCst);
    orphans
}

fn close_behind_gate(table: &Table, suspects: &[Fd], limit_ms: u64) -> Option<u64> {
    let is_open = |(seat, worker)| table.worker(seat, worker).opening.load(SeqCst) != 0;
    let workers = table.dimensions().workers as u32;
    let all = (0..SEATS as u32).flat_map(|seat| (0..workers).map(move |worker| (seat, worker)));
    for lane in all {
        while is_open(lane) {
            if time::monotonic_ms() >= limit_ms {
                return None;
            }
            std::thread::yield_now();
        }
    }
    let mut orphans = 0;
    for fd in suspects.iter().copied().filter(|fd| is_nobodys(table, *fd)) {
        if time::monotonic_ms() >= limit_ms {
            return None;
        }
        socket::reset(fd);
        close(fd);
        orphans += 1;
    }
    Some(orphans)
}

/// Whether a number is an open socket or pipe without a tag.
fn is_nobodys(table: &Table, fd: Fd) -> bool {
    let has_no_tag = table.tag(fd).is_some_and(|cell| cell.get() == Tag::FREE);
    has_no_tag && matches!(fd::kind(fd), Some(fd::Kind::Socket | fd::Kind::Pipe))
}
