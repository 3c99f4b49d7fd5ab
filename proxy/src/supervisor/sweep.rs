//! The sweep: closing what a dead pool left and nobody adopted, and what it had opened and not
//! recorded. A connection that was accepted and not recorded is found a worker.

use std::sync::atomic::{
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};

use proxy_common::lease::SEATS;

use crate::{
    config::{Config, Listener},
    fault::{self, Point},
    relay::tcp::evidence,
    sys::{
        Fd,
        fd::{self, close},
        socket::{self, Protocol},
        time, unix,
    },
    table::{
        GATE_LIMIT_MS, Kind, LostReason, Presence, Record, State, Table, Tag, TagCell, closed_gate, flag,
    },
};

/// Numbers that all workers together can have opened and not tagged, generously.
const OPENING_AT_ONCE: usize = 1024;

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// TCP connections that were cut.
    pub connections: u64,
    /// UDP flows that were cut.
    pub flows: u64,
    /// Sockets of UDP flows that a live worker is sending by, which were left for the next time.
    pub in_use: u64,
}

impl Swept {
    /// Frees a flow's record and counts it. The record, and not the tag, tells what it was about: one of
    /// them may be wrong.
    fn forget(&mut self, record: &Record) {
        match record.state() {
            State::Free => {}
            _ if record.has(flag::UDP) => self.flows += 1,
            _ => self.connections += 1,
        }
        record.set_state(State::Free);
    }
}

/// Cuts and closes what is tagged with `epoch`, whose pool must be dead. Can be repeated.
pub fn cut(table: &Table, epoch: u32) -> Swept {
    let mut swept = Swept::default();
    for fd in (0..table.tags().len()).map(|number| Fd::from_raw(number as i32)) {
        let (Some(cell), Some(record)) = (table.tag(fd), table.record(fd)) else { continue };
        let tag = cell.get();
        if tag.epoch != epoch {
            continue;
        }
        fault::point(Point::SweepCutting);
        match tag.kind {
            Kind::Client | Kind::Upstream | Kind::UdpFlow | Kind::Pipe => {}
            Kind::Closing => {
                cell.forget_closing(epoch);
                continue;
            }
            Kind::Free | Kind::Supervisor => continue,
        }
        swept.forget(record);
        if table.is_used(fd) {
            swept.in_use += 1;
            continue;
        }
        cell.set(Tag::FREE);
        if is_socket_or_pipe(fd) {
            if !(tag.kind == Kind::Client && evidence::is_over(record, fd)) {
                break_off(fd);
            }
            close(fd);
        }
    }
    swept
}

/// Counts what was cut.
pub fn count_lost(table: &Table, reason: LostReason, swept: Swept) {
    let lost = &table.supervisor().lost;
    lost.tcp[reason as usize].add(swept.connections);
    lost.udp[reason as usize].add(swept.flows);
}

/// Resets a connection, which must not look as if it had ended, unless it has: its pool died between its
/// last step and closing it, and the last bytes and the end may still be on their way to a slow reader.
fn break_off(fd: Fd) {
    if !socket::state(fd).is_ok_and(socket::has_ended) {
        socket::reset(fd);
    }
}

/// What a dead worker had open to servers is what its heirs are about to count in. The twin of a supervisor that died
/// in the middle of a move sets what was to be set, and adds nothing again.
fn keep_places(table: &Table, seat: u32, worker: u32) {
    let (lane, moving) = (table.lane(seat, worker), &table.supervisor().moving_places);
    let (kept, left) = (table.inherited_servers(), table.server_counters(seat, worker));
    let used = (0..).zip(table.servers()).filter(|(_, cell)| cell.presence() != Presence::Vacant);
    for (server, _) in used {
        let (kept, left) = (&kept[server].open, &left[server].open);
        if left.get() > 0 {
            kept.set(moving.begin(lane, server, || kept.get() + left.get()));
            fault::point(Point::PlacesKept);
            // Who sees this at 0 sees the other one: see `Table::open_to`.
            fence(Release);
            left.set(0);
        }
    }
}

/// Everything that dead workers left is adopted, or cut: it is counted where it is.
pub fn forget_places(table: &Table) {
    let kept = table.inherited_servers().iter().zip(table.servers());
    let kept = kept.filter(|(_, cell)| cell.presence() != Presence::Vacant);
    kept.for_each(|(kept, _)| kept.open.set(0));
}

/// Notes what a dead pool's workers have told the access log, sets its gauges to 0 (who adopts its flows counts them again), and says that its workers
/// open and use nothing any more. The places that its flows have at servers stay taken until [`forget_places`].
pub fn clear_workers(table: &Table, seat: u32) {
    table.note_told(table.seat(seat).epoch.load(Relaxed));
    for worker in 0..table.dimensions().workers as u32 {
        keep_places(table, seat, worker);
        let block = table.worker(seat, worker);
        let gauges =
            [&block.connections, &block.udp_flows, &block.pipes_free, &block.pipes_lent, &block.pipes_wanted];
        let listeners = table.listener_counters(seat, worker).iter();
        let listeners =
            listeners.flat_map(|counters| [&counters.open, &counters.open_in_group, &counters.waiting]);
        gauges.into_iter().chain(listeners).for_each(|gauge| gauge.set(0));
        block.pipe_gifts.iter().for_each(|gift| gift.set(0));
        block.opening.store(0, SeqCst);
        block.parked.store(0, SeqCst);
        block.using.store(0, SeqCst);
        // Before anybody adopts, though with source limits it takes 0.3 ms a worker the first time, and 0.03 later
        // (512 KiB, and the faults of its pages): after that it would clear what the seat's next pool has adopted, and
        // until then count the rest twice, and turn clients away who may come.
        table.sources().clear(table.lane(seat, worker));
    }
    table.supervisor().moving_places.finish();
}

/// Looks for sockets and pipes that no pool's tag names, when everything that dead pools left was swept:
/// a pool died between opening and recording them. Connections to a listener are recorded as `worker`'s, tagged with `epoch` (which nobody has) and
/// counted in the answer; everything else is closed. Answers `None` if a worker did not shut its
/// window in time (it is hung in it); then it has to be tried again. The supervisor's `own` are let be.
pub fn find_orphans(table: &Table, config: &Config, (worker, epoch): (u32, u32), own: &[Fd]) -> Option<u64> {
    // The list is made before the gate is closed, for it takes a call per untagged number.
    let numbers = numbers_in_use(table).filter(|fd| !own.contains(fd));
    let suspects: Vec<Fd> = numbers.filter(|fd| is_nobodys(table, *fd)).collect();
    if suspects.is_empty() {
        return Some(0);
    }
    fault::point(Point::SweepListed);
    let gate = &table.supervisor().gate;
    let now_ms = time::monotonic_ms();
    gate.store(closed_gate(now_ms), SeqCst);
    fault::point(Point::SweepGated);
    let found = find_behind_gate(table, config, &suspects, (worker, epoch), now_ms + GATE_LIMIT_MS);
    gate.store(0, SeqCst);
    fault::point(Point::SweepUngated);
    found
}

fn find_behind_gate(
    table: &Table,
    config: &Config,
    suspects: &[Fd],
    (finder, epoch): (u32, u32),
    limit_ms: u64,
) -> Option<u64> {
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
    let mut found = 0;
    for fd in suspects.iter().filter(|fd| is_nobodys(table, **fd) && !table.is_used(**fd)) {
        if time::monotonic_ms() >= limit_ms {
            return None;
        }
        let listener = listener_of(config, *fd);
        let is_ending = listener.is_some() && was_being_closed(table, *fd);
        match listener.filter(|_| !is_ending) {
            Some(listener) if record(table, *fd, finder, listener, epoch) => {
                found += 1;
                fault::point(Point::SweepFound);
            }
            _ => {
                if let (Some(cell), Some(record)) = (table.tag(*fd), table.record(*fd)) {
                    // An established connection had a tag, which was overwritten. (A UDP flow may have
                    // been about to get one.)
                    if record.state() == State::Established && !record.has(flag::UDP) {
                        count_lost(table, LostReason::Corrupt, Swept { connections: 1, ..Swept::default() });
                    }
                    record.set_state(State::Free);
                    cell.set(Tag::FREE);
                }
                if !is_ending {
                    break_off(*fd);
                }
                close(*fd);
            }
        }
    }
    Some(found)
}

fn was_being_closed(table: &Table, client: Fd) -> bool {
    table.record(client).is_some_and(|record| evidence::was_being_closed(record, client))
}

/// All numbers that can be open: the kernel gives the lowest free one, so that beyond the highest
/// tagged one there is only what was being opened.
fn numbers_in_use(table: &Table) -> impl Iterator<Item = Fd> + use<> {
    let tags = table.tags();
    let highest = tags.iter().rposition(|cell| cell.get() != Tag::FREE).unwrap_or(0);
    let end = tags.len().min(highest + 1 + OPENING_AT_ONCE);
    (0..end).map(|number| Fd::from_raw(number as i32))
}

/// Open, a socket or a pipe, and tagged with no epoch that a pool has now. The supervisor's own have
/// lower numbers or are of other kinds.
fn is_nobodys(table: &Table, fd: Fd) -> bool {
    let Some(tag) = table.tag(fd).map(TagCell::get) else { return false };
    let is_a_pools = |seat| table.seat(seat).epoch.load(Relaxed) == tag.epoch;
    let is_owned = tag.kind != Kind::Free && tag.kind != Kind::Supervisor;
    !(is_owned && (0..SEATS as u32).any(is_a_pools)) && is_socket_or_pipe(fd)
}

/// Whether it may be a flow's at all: epoll sets, bells and pidfds have numbers among the flows'.
fn is_socket_or_pipe(fd: Fd) -> bool {
    matches!(fd::kind(fd), Some(fd::Kind::Socket | fd::Kind::Pipe))
}

/// The listener that a socket was accepted at, if it is a live connection of one.
fn listener_of(config: &Config, fd: Fd) -> Option<u32> {
    let state = socket::state(fd).ok()?;
    if let Ok(Some(path)) = unix::local_path(fd) {
        // Its state does not tell whether it was ever used: its peer may have sent all and be gone.
        let is_there = |listener: &Listener| listener.address.path == Some(&path);
        let number = config.listeners.iter().position(is_there).map(|number| number as u32);
        return number.filter(|_| !unix::is_prepared(fd));
    }
    if !matches!(state, socket::ESTABLISHED | socket::CLOSE_WAIT) {
        return None;
    }
    let local = socket::local_address(fd).ok()?;
    let accepts = |address: std::net::SocketAddr| {
        let is_there = address.ip().is_unspecified() || address.ip() == local.ip().to_canonical();
        address.port() == local.port() && is_there
    };
    let listeners = config.listeners.iter().map(|listener| listener.address);
    (0..)
        .zip(listeners)
        .find(|(_, listener)| listener.protocol == Protocol::Tcp && accepts(listener.address))
        .map(|(number, _)| number)
}

fn record(table: &Table, fd: Fd, worker: u32, listener: u32, epoch: u32) -> bool {
    let (Some(record), Some(cell)) = (table.record(fd), table.tag(fd)) else {
        return false;
    };
    record.begin(State::Accepted, worker, listener, time::monotonic_ms() as u32);
    if matches!(unix::local_path(fd), Ok(Some(_))) {
        record.set(flag::UNIX);
    }
    socket::peer_address(fd).into_iter().for_each(|peer| record.set_client(peer));
    cell.set(Tag::new(Kind::Client, epoch));
    true
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
