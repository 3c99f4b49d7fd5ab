//! Pools and their workers.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    super::view::{SEAT_NAMES, View, leases},
    family::Family,
};
use crate::{
    sys::time,
    table::{PoolState, SeatBlock, WorkerBlock},
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let connections = |worker: &WorkerBlock| worker.connections.get();
    let flows = |worker: &WorkerBlock| worker.udp_flows.get();
    let (accepted, turns) = workers(view);
    vec![
        states(view),
        liveness_bits(view),
        lease_remaining(view),
        by_seat(view, Family::gauge("proxy_pool_epoch", "Number of the pool's incarnation."), |seat| {
            seat.epoch.load(Relaxed).into()
        }),
        by_seat(
            view,
            Family::counter("proxy_pool_restarts_total", "Pools started in this seat after the first."),
            |seat| seat.restarts.get(),
        ),
        summed(
            view,
            Family::gauge("proxy_pool_connections", "TCP connections that the pool has open."),
            connections,
        ),
        summed(view, Family::gauge("proxy_pool_udp_flows", "UDP flows that the pool has open."), flows),
        accepted,
        turns,
        pipes(view),
        Family::counter("proxy_pipe_waits_total", "Times that a connection had to wait for a free pipe.")
            .of(view.table.sum_counters(|worker| worker.pipe_waits.get()) as f64),
    ]
}

fn states(view: &View<'_>) -> Family {
    let mut family =
        Family::gauge("proxy_pool_state", "1 for the state that the pool is in, 0 for the others.");
    for (seat, pool) in SEAT_NAMES {
        let current = view.table.seat(seat).state();
        for (state, label) in PoolState::ALL {
            family.add(&[("pool", pool), ("state", label)], f64::from(state == current));
        }
    }
    family
}

fn liveness_bits(view: &View<'_>) -> Family {
    let help = "The liveness bit: 1 if the kernel may choose the pool, as long as its leases go on.";
    let mut family = Family::gauge("proxy_pool_live", help);
    let liveness = view.steering.liveness();
    for (seat, pool) in SEAT_NAMES {
        family.add(&[("pool", pool)], f64::from(liveness.seats[seat as usize].live != 0));
    }
    family
}

fn lease_remaining(view: &View<'_>) -> Family {
    let help = "What is left of the shortest lease of the pool's workers in seconds; 0 if one has run out.";
    let mut family = Family::gauge("proxy_pool_lease_remaining_seconds", help);
    let (liveness, now_ns) = (view.steering.liveness(), time::monotonic_ns());
    for (seat, pool) in SEAT_NAMES {
        let shortest_ns = leases(&liveness, seat, now_ns).min().unwrap_or(0);
        family.add(&[("pool", pool)], shortest_ns as f64 / 1e9);
    }
    family
}

fn by_seat(view: &View<'_>, mut family: Family, quantity: impl Fn(&SeatBlock) -> u64) -> Family {
    for (seat, pool) in SEAT_NAMES {
        family.add(&[("pool", pool)], quantity(view.table.seat(seat)) as f64);
    }
    family
}

fn summed(view: &View<'_>, mut family: Family, quantity: impl Fn(&WorkerBlock) -> u64) -> Family {
    for (seat, pool) in SEAT_NAMES {
        let sum: u64 = view.table.workers(seat).iter().map(&quantity).sum();
        family.add(&[("pool", pool)], sum as f64);
    }
    family
}

fn workers(view: &View<'_>) -> (Family, Family) {
    let mut accepted = Family::counter(
        "proxy_worker_accepted_total",
        "TCP connections accepted by the workers of this number.",
    );
    let mut turns =
        Family::counter("proxy_worker_turns_total", "Turns of the loops of the workers of this number.");
    for (seat, pool) in SEAT_NAMES {
        for (number, worker) in (0..).zip(view.table.workers(seat)) {
            let (own, before) = (&worker.counters, view.table.inherited_worker(seat, number));
            let number = number.to_string();
            let labels = [("pool", pool), ("worker", number.as_str())];
            accepted.add(&labels, (own.accepted.get() + before.accepted.get()) as f64);
            turns.add(&labels, (own.turns.get() + before.turns.get()) as f64);
        }
    }
    (accepted, turns)
}

fn pipes(view: &View<'_>) -> Family {
    let mut family =
        Family::gauge("proxy_pipes", "Pipes, by whether they hold bytes in flight (lent) or none (free).");
    family.add(&[("state", "free")], view.table.sum_workers(|worker| worker.pipes_free.get()) as f64);
    family.add(&[("state", "lent")], view.table.sum_workers(|worker| worker.pipes_lent.get()) as f64);
    family
}
