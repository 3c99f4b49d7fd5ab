//! Active checks: who is to be checked when, and what becomes of the result. Servers that are found down get nothing
//! new from the pools, which read it in the server slot.
//!
//! Nothing here outlives the process but what is in the slot: another control goes on with the health that it finds.

mod notes;
pub mod on_down;
mod probe;
mod tally;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::view::View;
use crate::{
    config::{Place, rules::Health as Rules},
    slots::{self, Slot},
    sys::time,
    table::{CheckResult, Health, Presence},
};
pub use notes::{LastCheck, Notes};
use probe::{Failure, Reach, Target};
use tally::Tally;

/// Most checks at once; others are late.
const AT_ONCE: usize = 64;
/// How often it is looked whether there are other servers.
const LOOK: Duration = Duration::from_millis(100);

/// A server that is checked.
struct Checked {
    address: SocketAddr,
    tally: Tally,
    /// When the next check begins; `None` while one goes on.
    due: Option<Instant>,
}

/// A check that is done.
struct Done {
    slot: usize,
    address: SocketAddr,
    began: Instant,
    result: Result<(), Failure>,
}

/// Checks servers for good.
pub async fn run(view: &View<'_>) {
    let mut checked: BTreeMap<usize, Checked> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        look(view, &mut checked, now);
        for slot in overdue(view, &checked, now).into_iter().take(AT_ONCE - running.len()) {
            let Some(rules) = &slot.upstream.rules.health else { continue };
            let Some(server) = checked.get_mut(&slot.number) else { continue };
            server.due = None;
            running.push(check(rules, slot.number, target(&slot, rules), slot.identity.address));
        }
        let due = checked.values().filter_map(|server| server.due).filter(|due| *due > now).min();
        let wake = due.map_or(now + LOOK, |due| due.min(now + LOOK));
        tokio::select! {
            Some(done) = running.next() => {
                view.stand_still_over_handover().await;
                conclude(view, &mut checked, done);
            }
            () = sleep_until(wake) => {}
        }
    }
}

/// Servers whose checks are due, the one that has waited longest first: else those at the end of the settings would
/// never be checked while many do not answer.
fn overdue<'a>(view: &'a View<'_>, checked: &BTreeMap<usize, Checked>, now: Instant) -> Vec<Slot<'a>> {
    let due = |slot: &Slot<'_>| checked.get(&slot.number).and_then(|server| server.due);
    let is_due = |slot: &Slot<'_>| due(slot).is_some_and(|due| due <= now);
    let mut overdue: Vec<Slot<'a>> = slots::all(view.config, &view.table).filter(is_due).collect();
    overdue.sort_by_key(due);
    overdue
}

/// Begins with servers that have come, and forgets those that have gone.
fn look(view: &View<'_>, checked: &mut BTreeMap<usize, Checked>, now: Instant) {
    let mut gone: Vec<usize> = checked.keys().copied().collect();
    for slot in slots::all(view.config, &view.table) {
        let is_checked = slot.upstream.rules.health.is_some() && !slot.is_retired();
        if !is_checked {
            // Nobody would find out that it is up again.
            if slot.cell.health() != Health::Unknown {
                slot.cell.set_health(Health::Unknown, time::monotonic_ms());
            }
            continue;
        }
        gone.retain(|number| *number != slot.number);
        let (address, health) = (slot.identity.address, slot.cell.health());
        // A server that was removed and added again since the last look has the same slot and address, and begins anew.
        let is_it = |server: &Checked| server.address == address && server.tally.health() == health;
        if !checked.get(&slot.number).is_some_and(is_it) {
            let tally = Tally::resume(health);
            checked.insert(slot.number, Checked { address, tally, due: Some(now) });
        }
    }
    for number in gone {
        checked.remove(&number);
        view.checks.forget(number);
    }
}

fn target(slot: &Slot<'_>, rules: &Rules) -> Target {
    let reach = match slot.settings().map(|settings| &settings.place) {
        Some(Place::Unix(path)) => Reach::Unix(path.clone()),
        _ => {
            let mut address = slot.identity.address;
            address.set_port(rules.port.unwrap_or(address.port()));
            Reach::Ip(address)
        }
    };
    Target { upstream: slot.upstream.name.clone(), server: slot.name(), reach }
}

async fn check(rules: &Rules, slot: usize, target: Target, address: SocketAddr) -> Done {
    let began = Instant::now();
    let result = probe::check(&rules.check, &target, rules.timeout).await;
    Done { slot, address, began, result }
}

/// Enters a result, if the server is still there.
fn conclude(view: &View<'_>, checked: &mut BTreeMap<usize, Checked>, done: Done) {
    let is_it = |server: &&mut Checked| server.address == done.address;
    let Some(server) = checked.get_mut(&done.slot).filter(is_it) else { return };
    let found = slots::all(view.config, &view.table).find(|slot| slot.number == done.slot);
    let Some(slot) = found.filter(|slot| slot.identity.address == done.address) else { return };
    let Some(rules) = &slot.upstream.rules.health else { return };
    server.due = Some(done.began + jittered(rules.interval, fastrand::f64()));

    let took = done.began.elapsed();
    let counters = &view.table.checks()[done.slot];
    counters.results[result(&done.result) as usize].add(1);
    counters.duration.observe_us(took.as_micros() as u64);
    if let Some(health) = server.tally.note(done.result.is_ok(), rules.rise, rules.fall) {
        // One that is not there any more, or is on its way out, is nobody's news.
        if slot.cell.presence() == Presence::Present {
            turn(view, &slot, health, done.result.as_ref().err());
        }
    }
    view.checks.note(done.slot, LastCheck::of(done.result, took));
}

/// A tenth more or less, so that the checks of many servers do not fall together for good; `random` is from 0 to 1.
fn jittered(interval: Duration, random: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random)
}

fn result(result: &Result<(), Failure>) -> CheckResult {
    match result {
        Ok(()) => CheckResult::Passed,
        Err(Failure::Timeout(_)) => CheckResult::Timeout,
        Err(Failure::Failed(_)) => CheckResult::Failed,
    }
}

/// A server's health changes.
fn turn(view: &View<'_>, slot: &Slot<'_>, health: Health, why: Option<&Failure>) {
    let (now_ms, was) = (time::monotonic_ms(), slot.cell.health());
    if health == Health::Up && was == Health::Down && slot.upstream.rules.slow_start.is_some() {
        slot.cell.set_warming(Some(now_ms as u32));
    }
    slot.cell.set_health(health, now_ms);
    view.table.checks()[slot.number].count_transition(health);
    let (upstream, server) = (slot.upstream.name.as_str(), slot.name());
    match why {
        None => tracing::info!(upstream, server, "server is up"),
        Some(error) => tracing::warn!(upstream, server, %error, "server is down: nothing new goes there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_tenth_longer_or_shorter() {
        let interval = Duration::from_secs(1);
        assert_eq!(jittered(interval, 0.0), Duration::from_millis(900));
        assert_eq!(jittered(interval, 0.5), interval);
        assert_eq!(jittered(interval, 1.0), Duration::from_millis(1100));
    }
}
