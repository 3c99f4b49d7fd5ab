//! What was counted so far, in a form that the supervisor of another version understands: one that hands
//! over writes it down, and its successor, whose flow table is a new one, goes on from it, so that no
//! counter ever goes backwards.
//!
//! Everything has a name: a counter its own, a listener or server that of its metrics. What the
//! successor does not know by name (a listener that was removed) it leaves out, and what it misses is 0.

use std::collections::BTreeMap;

use proxy_common::{lease::SEATS, slot::verdict_index, steer::Reason};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    slots::{self, Slot},
    table::{Counted, Table},
    usage,
};

/// The row of verdicts after the last listener's, as metrics name it.
pub const NO_LISTENER: &str = "none";

/// Counts by name; those that are 0 are left out.
type Counts = BTreeMap<String, u64>;

/// All counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    supervisor: Counts,
    /// Processor time, clock ticks.
    ticks: u64,
    seats: [Counts; SEATS],
    /// By seat and number.
    workers: [Vec<Counts>; SEATS],
    /// Of workers whose numbers there are no more.
    rest: Counts,
    /// By listener.
    listeners: BTreeMap<String, Counts>,
    /// By upstream server.
    servers: BTreeMap<String, Counts>,
    /// By upstream.
    upstreams: BTreeMap<String, Counts>,
    /// By listener, seat and reason.
    verdicts: BTreeMap<String, [Counts; SEATS]>,
}

impl Ledger {
    /// Writes down what `table` has counted, and inherited. Exact if no worker is at work.
    pub fn export(table: &Table, config: &Config) -> Self {
        let seats = [0, 1];
        let workers = 0..table.dimensions().workers as u32;
        let worker =
            |seat, worker| sum([&table.worker(seat, worker).counters, table.inherited_worker(seat, worker)]);
        let mut ledger = Self {
            supervisor: sum([table.supervisor()]),
            ticks: usage::ticks(table),
            seats: seats.map(|seat| sum([table.seat(seat)])),
            workers: seats.map(|seat| workers.clone().map(|number| worker(seat, number)).collect()),
            rest: sum([table.inherited_rest()]),
            ..Self::default()
        };
        for (number, label) in listeners(config).enumerate() {
            merge(ledger.listeners.entry(label).or_default(), sum(table.counters_of_listener(number)));
        }
        for (number, upstream) in config.upstreams.iter().enumerate() {
            merge(ledger.upstreams.entry(upstream.name.clone()).or_default(), sum([table.upstream(number)]));
        }
        for slot in slots::all(config, table) {
            let counts = ledger.servers.entry(label(&slot)).or_default();
            merge(counts, sum(table.counters_of_server(slot.number)));
            merge(counts, sum([&table.checks()[slot.number]]));
        }
        ledger
    }

    /// Writes down the kernel program's `verdicts` ([`crate::steering::Steering::verdicts`]), and nothing else:
    /// a successor needs them before its own program steers.
    pub fn of_verdicts(config: &Config, verdicts: &[u64]) -> Self {
        let mut ledger = Self::default();
        for (number, label) in verdict_rows(config) {
            for (seat, counts) in (0..).zip(ledger.verdicts.entry(label).or_default()) {
                merge(counts, verdicts_of(verdicts, number, seat));
            }
        }
        ledger
    }

    /// Enters it into a table that has inherited nothing yet. Only what the supervisor alone writes is
    /// written, so pools may be at work. The verdicts are for the kernel program: [`Self::verdicts`].
    pub fn import(&self, table: &Table, config: &Config) {
        enter(&self.supervisor, table.supervisor());
        table.supervisor().ticks_inherited.add(self.ticks);
        enter(&self.rest, table.inherited_rest());
        for (seat, counts) in (0..).zip(&self.seats) {
            enter(counts, table.seat(seat));
        }
        let room = table.dimensions().workers as u32;
        for (seat, workers) in (0..).zip(&self.workers) {
            for (number, counts) in (0..).zip(workers) {
                let is_there = number < room;
                enter(
                    counts,
                    if is_there { table.inherited_worker(seat, number) } else { table.inherited_rest() },
                );
            }
        }
        let mut left = self.listeners.clone();
        for (label, inherited) in listeners(config).zip(table.inherited_listeners()) {
            enter(&left.remove(&label).unwrap_or_default(), inherited);
        }
        let mut left = self.upstreams.clone();
        for (number, upstream) in config.upstreams.iter().enumerate() {
            enter(&left.remove(&upstream.name).unwrap_or_default(), table.upstream(number));
        }
        let mut left = self.servers.clone();
        for slot in slots::all(config, table) {
            let counts = left.remove(&label(&slot)).unwrap_or_default();
            enter(&counts, &table.inherited_servers()[slot.number]);
            enter(&counts, &table.checks()[slot.number]);
        }
    }

    /// What [`crate::steering::Steering::set_verdicts`] takes for these settings.
    pub fn verdicts(&self, config: &Config) -> Vec<u64> {
        let mut left = self.verdicts.clone();
        let mut verdicts = vec![0; verdict_index(config.listeners.len() as u32 + 1, 0, 0) as usize];
        for (number, label) in verdict_rows(config) {
            for (seat, counts) in (0..).zip(left.remove(&label).unwrap_or_default()) {
                for reason in Reason::ALL {
                    let count = counts.get(reason.name()).copied().unwrap_or(0);
                    verdicts[verdict_index(number, seat, reason as u32) as usize] = count;
                }
            }
        }
        verdicts
    }
}

fn label(slot: &Slot<'_>) -> String {
    format!("{}/{}", slot.upstream.name, slot.name())
}

fn listeners(config: &Config) -> impl Iterator<Item = String> {
    config.listeners.iter().map(|listener| listener.address.to_string())
}

fn verdict_rows(config: &Config) -> impl Iterator<Item = (u32, String)> {
    (0..).zip(listeners(config).chain([NO_LISTENER.into()]))
}

fn verdicts_of(verdicts: &[u64], listener: u32, seat: u32) -> Counts {
    let count = |reason: Reason| verdicts.get(verdict_index(listener, seat, reason as u32) as usize).copied();
    let counts = Reason::ALL.map(|reason| (reason.name().to_owned(), count(reason).unwrap_or(0)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Names are made once, though there may be a thousand parts.
fn sum<'a, T: Counted + 'a>(parts: impl IntoIterator<Item = &'a T>) -> Counts {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for part in parts {
        let mut place = 0;
        part.each_counter(&mut |name, counter| {
            if place == sums.len() {
                sums.push((name.join("."), 0));
            }
            sums[place].1 = sums[place].1.wrapping_add(counter.get());
            place += 1;
        });
    }
    sums.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn merge(counts: &mut Counts, more: Counts) {
    for (name, count) in more {
        let sum = counts.entry(name).or_default();
        *sum = sum.wrapping_add(count);
    }
}

fn enter(counts: &Counts, to: &impl Counted) {
    if counts.is_empty() {
        return;
    }
    to.each_counter(&mut |name, counter| {
        if let Some(count) = counts.get(&name.join(".")) {
            counter.add(*count);
        }
    });
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
