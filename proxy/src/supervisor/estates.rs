//! What dead pools leave, and to whom: each worker's flows go to the worker of the same number in
//! the other pool if that serves, else in the next pool of the same seat.
//!
//! Every step can be repeated, for the supervisor may die in the middle, and its twin does it all
//! again: an estate is put into the heir's list before it goes from the dead worker's.

use std::{cmp::Reverse, sync::atomic::Ordering::Relaxed};

use proxy_common::lease::{SEATS, other};

use crate::{
    fault::{self, Point},
    sys::{
        Fd, epoll,
        fd::{self, close},
    },
    table::{Estate, EstateStage, Table, WorkerBlock},
};

use super::{seats, setup::Setup};

/// An estate that so many heirs died of is cut instead.
const MOST_HEIRS: u32 = 4;

/// Leaves everything that the dead pool of a seat had, and what it had been left itself and may not
/// have finished with. Answers the epochs that could not be left to anybody.
pub fn leave(setup: &Setup, seat: u32, epoch: u32, other_serves: bool) -> Vec<u32> {
    let table = &setup.table;
    close_moved(table);
    let heir = if other_serves { other(seat) } else { seat };
    let mut refused = Vec::new();
    let mut used = sets_in_use(table, other(seat));
    // Nobody has died of that epoch: if it is among what was left, it was written there in error.
    let alive = other_serves.then(|| table.seat(other(seat)).epoch.load(Relaxed));
    for worker in 0..setup.config.workers {
        let [own, others] = [seat, other(seat)].map(|seat| &table.worker(seat, worker).estates);
        let heirs = if heir == seat { own } else { others };
        // The latest first: what its worker had adopted in part is tagged with its epoch in part.
        let latest = Left { epoch, seat, set: strip_set(setup, seat, worker, &mut used), heirs: 1 };
        if !(latest.is_in(own) || latest.is_in(others) || latest.put(heirs)) {
            refused.push(latest);
        }
        forget_set(table, seat, worker, &used);
        fault::point(Point::EstateLeft);
        for cell in latest_first(own).into_iter().filter(|cell| cell.epoch.load(Relaxed) != epoch) {
            let left = Left::by_heir(cell, &mut used);
            // The other seat may have been left it by a supervisor that died before it took it from here.
            if Some(left.epoch) == alive || left.is_in(others) {
                cell.set_stage(EstateStage::None);
                continue;
            }
            let is_left = if heir == seat { left.stay(cell) } else { left.put(heirs) };
            if !is_left {
                refused.push(left);
            }
            if heir != seat || !is_left {
                cell.set_stage(EstateStage::None);
            }
            fault::point(Point::EstateLeft);
        }
    }
    if other_serves {
        seats::ring_all(table);
    }
    refused.iter().filter(|left| left.set.raw() > 0).for_each(|left| close(left.set));
    refused.iter().map(|left| left.epoch).collect()
}

/// Hands on what waits for the next pool of a seat to the other one, which serves by now.
pub fn hand_on(setup: &Setup, seat: u32) {
    let table = &setup.table;
    for worker in 0..setup.config.workers {
        let heirs = &table.worker(other(seat), worker).estates;
        for cell in latest_first(&table.worker(seat, worker).estates) {
            let left = Left::of(cell);
            if left.is_in(heirs) || left.put(heirs) {
                cell.set_stage(EstateStage::None);
            }
        }
    }
    seats::ring_all(table);
}

/// Closes the epoll sets that heirs are done with.
pub fn close_moved(table: &Table) {
    let cells = (0..SEATS as u32).flat_map(|seat| table.workers(seat)).flat_map(|block| &block.estates);
    for cell in cells.filter(|cell| cell.stage() == EstateStage::Moved) {
        let set = cell.set.fd();
        cell.set_stage(EstateStage::None);
        // It may be a dying worker that has written here.
        let used: Vec<Fd> = (0..SEATS as u32).flat_map(|seat| sets_in_use(table, seat)).collect();
        if is_abandoned(set, "eventpoll", &used) {
            close(set);
        }
    }
}

/// Whether anything waits for the next pool of a seat.
pub fn is_kept(table: &Table, seat: u32) -> bool {
    waiting(table).any(|(heir, _)| heir == seat)
}

/// Whether a seat's pool has been left anything that it has not finished with.
pub fn has_any(table: &Table, seat: u32) -> bool {
    let mut cells = table.workers(seat).iter().flat_map(|block| &block.estates);
    cells.any(|cell| cell.stage() != EstateStage::None)
}

/// Leaves flows that came from nowhere (found by the sweep) to one worker.
pub fn leave_found(table: &Table, heir: u32, worker: u32, epoch: u32) -> bool {
    let cells = &table.worker(heir, worker).estates;
    let is_left = cells.iter().any(|cell| cell.leave(epoch, heir, Fd::from_raw(0), 1));
    seats::ring_all(table);
    is_left
}

/// Whether somebody has yet to adopt what is tagged with `epoch`.
pub fn is_waiting(table: &Table, epoch: u32) -> bool {
    waiting(table).any(|(_, estate)| estate.epoch.load(Relaxed) == epoch)
}

/// Whether the other pool still reads the event buffers of a seat, which a new pool would overwrite.
pub fn is_read(table: &Table, seat: u32) -> bool {
    waiting(table).any(|(heir, estate)| heir != seat && estate.seat.load(Relaxed) == seat)
}

fn waiting(table: &Table) -> impl Iterator<Item = (u32, &'static Estate)> + use<> {
    let table = *table;
    let cells = move |seat| table.workers(seat).iter().flat_map(|block| &block.estates);
    let all = (0..SEATS as u32).flat_map(move |seat| cells(seat).map(move |estate| (seat, estate)));
    all.filter(|(_, estate)| estate.stage() == EstateStage::Left)
}

struct Left {
    epoch: u32,
    seat: u32,
    set: Fd,
    heirs: u32,
}

impl Left {
    fn of(cell: &Estate) -> Self {
        let (epoch, seat) = (cell.epoch.load(Relaxed), cell.seat.load(Relaxed));
        Self { epoch, seat, set: cell.set.fd(), heirs: cell.heirs.load(Relaxed) }
    }

    /// What a dead heir leaves again. What it had adopted already is among it, for its epoll set may
    /// still have registrations; only a death before that counts against the estate.
    fn by_heir(cell: &Estate, used: &mut Vec<Fd>) -> Self {
        let left = Self::of(cell);
        let heirs = if cell.stage() == EstateStage::Adopted { 1 } else { left.heirs.saturating_add(1) };
        Self { heirs, set: believe(left.set, used), ..left }
    }

    /// Whether it is in a list.
    fn is_in(&self, cells: &[Estate]) -> bool {
        cells.iter().filter(|cell| cell.stage() != EstateStage::None).any(|cell| {
            let other = Self::of(cell);
            // A number that is in use is no longer believed when the step is done again.
            let is_set = other.set == self.set || self.set.raw() == 0;
            other.epoch == self.epoch && is_set
        })
    }

    /// Puts it into a list. Answers whether there was room.
    fn put(&self, cells: &[Estate]) -> bool {
        let is_room = |cell: &Estate| cell.leave(self.epoch, self.seat, self.set, self.heirs);
        self.heirs <= MOST_HEIRS && cells.iter().any(is_room)
    }

    /// Leaves it where it is, to the next pool of the same seat. Answers whether it may be.
    fn stay(&self, cell: &Estate) -> bool {
        cell.heirs.store(self.heirs, Relaxed);
        cell.set.set(self.set.raw());
        cell.set_stage(EstateStage::Left);
        self.heirs <= MOST_HEIRS
    }
}

/// What is in a list, the latest first.
fn latest_first(cells: &'static [Estate]) -> Vec<&'static Estate> {
    let mut all: Vec<_> = cells.iter().filter(|cell| cell.stage() != EstateStage::None).collect();
    all.sort_unstable_by_key(|cell| Reverse(cell.epoch.load(Relaxed)));
    all
}

/// The epoll sets and bells of a seat's living workers, and the sets that they were left.
fn sets_in_use(table: &Table, seat: u32) -> Vec<Fd> {
    let of = |block: &'static WorkerBlock| {
        let left = block.estates.iter().filter(|cell| cell.stage() != EstateStage::None);
        left.map(|cell| cell.set.fd()).chain([block.epoll.fd(), block.bell.fd()])
    };
    table.workers(seat).iter().flat_map(of).collect()
}

/// Whether a number from a dead worker's block is what it should be, and nobody else's.
fn is_abandoned(fd: Fd, kind: &str, used: &[Fd]) -> bool {
    fd.raw() > 0 && !used.contains(&fd) && fd::is_anonymous(fd, kind)
}

/// An epoll set from a dead worker's block, if it is one and nobody else's; else none, and the heir
/// registers the flows itself.
fn believe(set: Fd, used: &mut Vec<Fd>) -> Fd {
    if !is_abandoned(set, "eventpoll", used) {
        return Fd::from_raw(0);
    }
    used.push(set);
    set
}

/// Takes a dead worker's listening sockets and bell out of its epoll set, so that only flows are left.
fn strip_set(setup: &Setup, seat: u32, worker: u32, used: &mut Vec<Fd>) -> Fd {
    let block = setup.table.worker(seat, worker);
    let set = believe(block.epoll.fd(), used);
    if set.raw() > 0 {
        let slots = (0..SEATS as u32).flat_map(|owner| seats::slots(setup, owner, worker));
        slots.for_each(|slot| epoll::remove(set, setup.sockets.all[slot as usize]));
        if is_abandoned(block.bell.fd(), "eventfd", used) {
            epoll::remove(set, block.bell.fd());
        }
    }
    set
}

/// Forgets a dead worker's set, which is an estate now, and closes its bell: in this order, for a
/// number that is closed twice may be somebody else's the second time.
fn forget_set(table: &Table, seat: u32, worker: u32, used: &[Fd]) {
    let block = table.worker(seat, worker);
    block.epoll.set(0);
    let bell = block.bell.fd();
    block.bell.set(0);
    if is_abandoned(bell, "eventfd", used) {
        close(bell);
    }
}
