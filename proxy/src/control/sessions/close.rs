//! Closing sessions. What a pool owns nobody else may touch, so the workers do it: they are given the order and
//! waited for. A pool that dies in the middle leaves what it had to its heir, which may have walked past it: so
//! the order is given again until a round has gone by in which nothing was left to anybody.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed},
    time::{Duration, Instant},
};

use proxy_common::lease::SEATS;
use serde::{Deserialize, Serialize};

use super::super::view::{SEAT_NAMES, View};
use crate::table::{Criteria, EstateStage, Table};

/// Time that all workers have.
const LIMIT: Duration = Duration::from_secs(4);
/// How often it is looked whether they are done.
const LOOK: Duration = Duration::from_millis(5);

/// What came of an order to close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Closed {
    /// Sessions that were closed.
    pub closed: u64,
    /// Workers that have not said that they are done: what they carry may be open still.
    pub silent: Vec<String>,
}

/// Closes the sessions that are meant, by order of an administrator or of whoever else sees them in the way.
/// One such order is carried out at a time; others wait.
pub async fn close(view: &View<'_>, criteria: &[Criteria]) -> Closed {
    let _turn = view.closing.lock().await;
    let (end, mut outcome) = (Instant::now() + LIMIT, Closed::default());
    for one in criteria {
        close_one(&view.table, one, end, &mut outcome).await;
    }
    outcome.silent.dedup();
    outcome
}

async fn close_one(table: &Table, criteria: &Criteria, end: Instant, outcome: &mut Closed) {
    loop {
        let before = Heirs::of(table);
        let number = table.control().close.give(criteria);
        let mut silent = silent(table, number);
        while !silent.is_empty() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            silent = self::silent(table, number);
        }
        let done = workers(table).filter(|(seat, worker)| has_done(table, *seat, *worker, number));
        outcome.closed += done.map(|(seat, worker)| table.worker(seat, worker).closed.get()).sum::<u64>();
        table.control().close.withdraw();
        if Instant::now() >= end {
            outcome.silent.extend(silent);
            return;
        }
        if before.is_settled && before == Heirs::of(table) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who has flows, as far as that changes by a takeover.
#[derive(PartialEq)]
struct Heirs {
    epochs: [u32; SEATS],
    adopted: u64,
    /// Nothing waits to be adopted.
    is_settled: bool,
}

impl Heirs {
    fn of(table: &Table) -> Self {
        let blocks = || (0..SEATS as u32).flat_map(|seat| table.workers(seat));
        let is_left = |stage| stage == EstateStage::Left;
        let mut estates = blocks().flat_map(|block| &block.estates);
        // A pool that is dead and whose flows are nobody's yet.
        let is_unburied = |seat: u32| table.seat(seat).state() == crate::table::PoolState::Fenced;
        Self {
            epochs: std::array::from_fn(|seat| table.seat(seat as u32).epoch.load(Relaxed)),
            adopted: table.sum_counters(|worker| worker.adopted.iter().map(|count| count.get()).sum()),
            is_settled: !estates.any(|estate| is_left(estate.stage())) && !(0..SEATS as u32).any(is_unburied),
        }
    }
}

fn workers(table: &Table) -> impl Iterator<Item = (u32, u32)> + use<> {
    let workers = table.dimensions().workers as u32;
    (0..SEATS as u32).flat_map(move |seat| (0..workers).map(move |worker| (seat, worker)))
}

fn has_done(table: &Table, seat: u32, worker: u32, number: u64) -> bool {
    table.worker(seat, worker).close_done.load(Acquire) == number
}

/// Workers of pools that run and have not carried out the order.
fn silent(table: &Table, number: u64) -> Vec<String> {
    let is_there = |seat: u32, worker: u32| {
        table.seat(seat).child.pid() > 0 && table.worker(seat, worker).running.load(Acquire) == 1
    };
    let waiting = workers(table)
        .filter(|(seat, worker)| is_there(*seat, *worker) && !has_done(table, *seat, *worker, number));
    waiting
        .map(|(seat, worker)| {
            let name = SEAT_NAMES[seat as usize].1;
            format!("worker {worker} of the {name} pool (pid {})", table.seat(seat).child.pid())
        })
        .collect()
}
