//! Closing sessions. What a pool owns nobody else may touch, so the workers do it: they are given one order after the
//! other, and who is live is waited for. A worker that is silent now, and a pool that dies in the middle and leaves
//! what it had to an heir, which may have walked past it, are no reason to keep the other orders waiting: an order
//! that not all have carried out, or that a takeover came across, is given again in the next round.

use std::{
    collections::BTreeSet,
    sync::atomic::Ordering::{Acquire, Relaxed},
    time::{Duration, Instant},
};

use proxy_common::lease::{Liveness, SEATS};
use serde::{Deserialize, Serialize};

use super::super::view::{SEAT_NAMES, View, leases};
use crate::{
    sys::time,
    table::{Criteria, EstateStage, PoolState, Table},
};

/// Time that all workers have for all orders.
const LIMIT: Duration = Duration::from_secs(4);
/// How often it is looked whether they are done.
const LOOK: Duration = Duration::from_millis(5);
/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of an order to close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Closed {
    /// Sessions that were closed.
    pub closed: u64,
    /// Workers that have not said that they are done: what they carry may be open still.
    pub silent: Vec<String>,
}

/// A worker: its seat and number.
type Place = (u32, u32);

/// Closes the sessions that are meant, by order of an administrator or of whoever else sees them in the way.
/// One such order is carried out at a time; others wait.
pub async fn close(view: &View<'_>, criteria: &[Criteria]) -> Closed {
    let _turn = view.closing.lock().await;
    let (end, before) = (Instant::now() + LIMIT, ordered(&view.table));
    let mut orders: Vec<&Criteria> = criteria.iter().collect();
    let mut silent = BTreeSet::new();
    loop {
        silent.clear();
        let mut again = Vec::new();
        for order in orders {
            let round = give(view, order, end).await;
            if !round.is_settled {
                again.push(order);
            }
            silent.extend(round.silent);
        }
        orders = again;
        if orders.is_empty() || Instant::now() >= end {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let mut silent: Vec<String> = silent.into_iter().map(|place| name(&view.table, place)).collect();
    if silent.is_empty() && !orders.is_empty() {
        silent.push("a pool that has died, and that another one has not taken over yet".into());
    }
    Closed { closed: ordered(&view.table).saturating_sub(before), silent }
}

/// Sessions that were ever closed by order.
fn ordered(table: &Table) -> u64 {
    table.sum_counters(|worker| worker.ordered.get())
}

/// What came of an order that was given once.
struct Round {
    silent: Vec<Place>,
    /// All have carried it out, and nothing was left to anybody meanwhile.
    is_settled: bool,
}

/// Gives an order, and waits for those whose lease goes on; in a later round, others may be live.
async fn give(view: &View<'_>, criteria: &Criteria, end: Instant) -> Round {
    let table = &view.table;
    let before = Heirs::of(table);
    let number = table.control().close.give(criteria);
    let mut silent = unanswered(table, number);
    while is_any_live(&view.steering.liveness(), &silent) && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        silent = unanswered(table, number);
    }
    table.control().close.withdraw();
    let is_settled = silent.is_empty() && before.is_settled && before == Heirs::of(table);
    Round { silent, is_settled }
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
        let is_unburied = |seat: u32| table.seat(seat).state() == PoolState::Fenced;
        Self {
            epochs: std::array::from_fn(|seat| table.seat(seat as u32).epoch.load(Relaxed)),
            adopted: table.sum_counters(|worker| worker.adopted.iter().map(|count| count.get()).sum()),
            is_settled: !estates.any(|estate| is_left(estate.stage())) && !(0..SEATS as u32).any(is_unburied),
        }
    }
}

fn workers(table: &Table) -> impl Iterator<Item = Place> + use<> {
    let workers = table.dimensions().workers as u32;
    (0..SEATS as u32).flat_map(move |seat| (0..workers).map(move |worker| (seat, worker)))
}

fn has_done(table: &Table, (seat, worker): Place, number: u64) -> bool {
    table.worker(seat, worker).close_done.load(Acquire) == number
}

/// Workers of pools that run and have not carried out the order.
fn unanswered(table: &Table, number: u64) -> Vec<Place> {
    let is_there = |(seat, worker): Place| {
        table.seat(seat).child.pid() > 0 && table.worker(seat, worker).running.load(Acquire) == 1
    };
    workers(table).filter(|place| is_there(*place) && !has_done(table, *place, number)).collect()
}

fn is_any_live(liveness: &Liveness, places: &[Place]) -> bool {
    let now = time::monotonic_ns();
    let lease = |(seat, worker): Place| leases(liveness, seat, now).nth(worker as usize);
    places.iter().any(|place| lease(*place).is_some_and(|left| left > 0))
}

fn name(table: &Table, (seat, worker): Place) -> String {
    let name = SEAT_NAMES[seat as usize].1;
    format!("worker {worker} of the {name} pool (pid {})", table.seat(seat).child.pid())
}
