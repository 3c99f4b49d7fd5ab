//! What dead pools leave, and to whom: each worker's flows go to the worker of the same number in
//! the other pool if that serves, else in the next pool of the same seat.

use std::sync::atomic::Ordering::Relaxed;

use proxy_common::lease::{SEATS, other};

use crate::{
    sys::{Fd, epoll, fd::close},
    table::{Estate, EstateStage, Table},
};

use super::{seats, setup::Setup};

/// An estate that so many heirs died of is cut instead.
const MOST_HEIRS: u32 = 4;

/// Leaves everything that the dead pool of a seat had, and what it had been left itself and may not
/// have finished with. Answers the epochs that could not be left to anybody.
pub fn leave(setup: &Setup, seat: u32, epoch: u32, other_serves: bool) -> Vec<u32> {
    let table = &setup.table;
    let heir = if other_serves { other(seat) } else { seat };
    let mut refused = Vec::new();
    for worker in 0..setup.config.workers {
        let block = table.worker(seat, worker);
        let mut left = take_over(&block.estates);
        left.push(Left { epoch, seat, set: retire_set(setup, seat, worker), heirs: 0 });
        let cells = &table.worker(heir, worker).estates;
        for estate in left {
            let has_room = |cell: &Estate| {
                estate.heirs < MOST_HEIRS
                    && cell.leave(estate.epoch, estate.seat, estate.set, estate.heirs + 1)
            };
            if !cells.iter().any(has_room) {
                refused.push(estate.epoch);
                if estate.set.raw() > 0 {
                    close(estate.set);
                }
            }
        }
    }
    if other_serves {
        seats::ring_all(table);
    }
    refused
}

/// Hands on what waits for the next pool of a seat to the other one, which serves by now.
pub fn hand_on(setup: &Setup, seat: u32) {
    let table = &setup.table;
    for worker in 0..setup.config.workers {
        let cells = &table.worker(seat, worker).estates;
        for cell in cells.iter().filter(|cell| cell.stage() != EstateStage::None) {
            let (epoch, of, heirs) =
                (cell.epoch.load(Relaxed), cell.seat.load(Relaxed), cell.heirs.load(Relaxed));
            let heir = &table.worker(other(seat), worker).estates;
            if heir.iter().any(|free| free.leave(epoch, of, cell.set.fd(), heirs)) {
                cell.set_stage(EstateStage::None);
            }
        }
    }
    seats::ring_all(table);
}

/// Whether anything waits for the next pool of a seat.
pub fn is_kept(table: &Table, seat: u32) -> bool {
    waiting(table).any(|(heir, _)| heir == seat)
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

/// Empties a dead worker's list. What it had adopted already is left again, for its epoll set may
/// still have registrations; only a death before that counts against the estate.
fn take_over(cells: &[Estate]) -> Vec<Left> {
    let mut left = Vec::new();
    for cell in cells {
        let heirs = match cell.stage() {
            EstateStage::None => continue,
            EstateStage::Left => cell.heirs.load(Relaxed),
            EstateStage::Adopted => 0,
        };
        let (epoch, seat) = (cell.epoch.load(Relaxed), cell.seat.load(Relaxed));
        left.push(Left { epoch, seat, set: cell.set.fd(), heirs });
        cell.set_stage(EstateStage::None);
    }
    left
}

/// Takes a dead worker's listening sockets and bell out of its epoll set, so that only flows are left.
fn retire_set(setup: &Setup, seat: u32, worker: u32) -> Fd {
    let block = setup.table.worker(seat, worker);
    let (set, bell) = (block.epoll.fd(), block.bell.fd());
    block.epoll.set(0);
    block.bell.set(0);
    if set.raw() > 0 {
        for owner in 0..SEATS as u32 {
            seats::slots(setup, owner, worker)
                .for_each(|slot| epoll::remove(set, setup.sockets[slot as usize]));
        }
        close(bell);
    }
    set
}
