//! The two seats: cloning pools into them, killing them, lending their queues.

use std::{
    io,
    sync::atomic::{
        Ordering::{Relaxed, SeqCst},
        fence,
    },
};

use proxy_common::lease::{SEATS, other};

use crate::{
    limits::PIPE_STOCK,
    pool::Pool,
    relay::{pipes, token::Token},
    steering::LivenessMap,
    sys::{
        Fd, bell, epoll,
        fd::close,
        process::{self, Child},
        socket, time,
    },
    table::{ChildCell, Gauge, NumberCell, Table},
};

use super::{
    estates,
    plan::{Seen, name},
    setup::Setup,
};

/// The pools' processes.
pub struct Seats {
    /// By seat.
    pub children: [Option<Child>; SEATS],
}

impl Seats {
    /// Nobody sits there yet.
    pub fn new() -> Self {
        Self { children: [None; SEATS] }
    }

    /// Clones a pool into a seat.
    ///
    /// # Errors
    /// Descriptors, processes or memory are exhausted.
    pub fn spawn(&mut self, setup: &Setup, seat: u32) -> io::Result<Child> {
        // Of this attempt alone, also if it fails: its leftovers are swept by epoch, and the other
        // seat's pool must not have the same one.
        let epoch = new_epoch(&setup.table);
        let block = setup.table.seat(seat);
        block.epoch.store(epoch, Relaxed);
        let pool = Pool {
            config: setup.config,
            table: setup.table,
            liveness: setup.steering.liveness(),
            seat,
            epoch,
            limits: setup.limits,
            sockets: setup.sockets.all,
            surplus: setup.sockets.surplus,
            first_epoch: setup.first_epoch,
            pipes: prepare(setup, seat, epoch)?,
            decision: setup.decision,
            buffers: setup.buffers,
            null: setup.null,
        };
        setup.steering.liveness().expire(seat);
        let parent = std::process::id() as i32;
        let child = process::clone_sharing_files(|| {
            if announce(&setup.table, &block.child, parent) { pool.run() } else { 1 }
        })?;
        self.children[seat as usize] = Some(child);
        block.child.set(child);
        if epoch - setup.first_epoch > SEATS as u32 {
            block.restarts.add(1);
        }
        Ok(child)
    }

    /// Kills a pool once more; tells of it the first time only.
    pub fn kill_again(&self, seat: u32, is_first: bool) {
        let Some(child) = self.children[seat as usize] else { return };
        let error = process::kill(child).err().map_or("none".to_owned(), |error| error.to_string());
        if is_first {
            let remedy = "trying again; it is passed by, and its flows wait for its death";
            tracing::error!(pool = name(seat), pid = child.pid, %error, "killed pool does not die: {remedy}");
        }
    }

    /// What is to be seen of a seat.
    pub fn look(&self, table: &Table, liveness: LivenessMap, seat: u32, now: u64) -> Seen {
        let Some(child) = self.children[seat as usize] else {
            return Seen { dead: true, may_start: !estates::is_read(table, seat), ..Seen::default() };
        };
        let workers = table.workers(seat);
        let lapsed = (0..workers.len() as u32).filter(|worker| liveness.deadline(seat, *worker) <= now);
        Seen {
            dead: process::is_dead(child, std::time::Duration::ZERO),
            may_start: false,
            running: workers.iter().all(|worker| worker.running.load(Relaxed) == 1),
            lapsed: lapsed.fold(0, |mask, worker| mask | 1 << worker),
        }
    }
}

/// An epoch that no pool has had.
pub fn new_epoch(table: &Table) -> u32 {
    table.supervisor().epochs.fetch_add(1, Relaxed) + 1
}

/// A newborn pool or control says that it is there, for its parent may die before it does. Answers whether
/// it may go on: its parent is the supervisor still, and there is no other by now. A new supervisor clones
/// one of its own, unless it knows of this one; both sides store and then load, so one sees the other.
pub fn announce(table: &Table, cell: &ChildCell, parent: i32) -> bool {
    let is_noted = cell.claim(std::process::id() as i32);
    fence(SeqCst);
    is_noted && table.supervisor().pid.get() == parent
}

/// Makes what a pool's workers are given: epoll sets with the seat's listening sockets, bells, pipes.
fn prepare(setup: &Setup, seat: u32, epoch: u32) -> io::Result<Vec<Vec<Fd>>> {
    let table = &setup.table;
    let workers = 0..setup.config.workers;
    close_sets(table, seat);
    workers
        .map(|worker| {
            let block = table.worker(seat, worker);
            let (set, bell) = (epoll::create()?, bell::create()?);
            block.epoll.set(set.raw());
            block.bell.set(bell.raw());
            block.running.store(0, Relaxed);
            block.parked.store(0, Relaxed);
            epoll::add(set, bell, epoll::IN, Token::Bell.encode())?;
            if setup.is_serving {
                open_queues(setup, set, seat, worker)?;
            }
            let stock = PIPE_STOCK.min(setup.limits.pipes_per_worker);
            (0..stock).map(|_| pipes::make(table, epoch)).collect()
        })
        .collect()
}

/// Closes the epoll sets and bells of a seat's dead pool.
fn close_sets(table: &Table, seat: u32) {
    for block in table.workers(seat) {
        for cell in [&block.epoll, &block.bell] {
            let number = cell.fd();
            cell.set(0);
            if number.raw() > 0 {
                close(number);
            }
        }
    }
}

/// Lets a worker be told of what comes to its own listening sockets. That it is already is no error.
///
/// # Errors
/// The limit of epoll watches is reached.
pub fn open_queues(setup: &Setup, set: Fd, seat: u32, worker: u32) -> io::Result<()> {
    for slot in slots(setup, seat, worker) {
        let token = Token::Listener(slot);
        match epoll::add(set, setup.sockets.all[slot as usize], epoll::IN, token.encode()) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Lets the other seat's worker of the same number serve a worker's listening sockets too. It sees
/// them in its epoll set and needs no other word.
pub fn lend(setup: &Setup, seat: u32, worker: u32) {
    let set = setup.table.worker(other(seat), worker).epoll.fd();
    if !setup.is_serving {
        return;
    }
    if let Err(error) = open_queues(setup, set, seat, worker) {
        tracing::error!(seat, worker, %error, "queues cannot be lent");
    }
}

/// Takes them back.
pub fn take_back(setup: &Setup, seat: u32, worker: u32) {
    let set = setup.table.worker(other(seat), worker).epoll.fd();
    for slot in slots(setup, seat, worker) {
        epoll::remove(set, setup.sockets.all[slot as usize]);
    }
}

/// Makes pipes for workers that want some.
pub fn give_pipes(setup: &Setup) {
    for seat in 0..SEATS as u32 {
        let epoch = setup.table.seat(seat).epoch.load(Relaxed);
        for block in setup.table.workers(seat).iter().filter(|block| block.pipes_wanted.get() == 1) {
            give(&setup.table, epoch, &block.pipe_gifts, &block.pipes_wanted);
        }
    }
}

fn give(table: &Table, epoch: u32, gifts: &[NumberCell], wanted: &Gauge) {
    for gift in gifts.iter().filter(|gift| gift.get() == 0) {
        match pipes::make(table, epoch) {
            Ok(pipe) => gift.set(pipe.raw()),
            // The worker goes on with what it has, and asks again.
            Err(_) => break,
        }
    }
    wanted.set(0);
}

/// The slots of one worker's listening sockets.
pub fn slots(setup: &Setup, seat: u32, worker: u32) -> impl Iterator<Item = u32> + use<> {
    let sockets = setup.sockets;
    sockets.of_worker(seat, worker).filter(move |slot| sockets.is_there(*slot))
}

/// Connections that wait to be accepted, in all queues; of a unix socket 1 for all.
pub fn waiting(setup: &Setup) -> u64 {
    setup.sockets.all.iter().map(|socket| u64::from(socket::waiting(*socket))).sum()
}

/// Rings every worker's bell: an order in the supervisor's block has changed.
pub fn ring_all(table: &Table) {
    for seat in 0..SEATS as u32 {
        for block in table.workers(seat).iter().filter(|block| block.bell.get() > 0) {
            bell::ring(block.bell.fd());
        }
    }
}

/// Nanoseconds since `since`, as microseconds.
pub fn elapsed_us(since: u64) -> u64 {
    time::monotonic_ns().saturating_sub(since) / 1000
}
