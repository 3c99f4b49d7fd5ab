//! Upstream servers and names, in answers to `status` and `upstream list`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    config::rules::{Check, OnDown},
    control::{
        health::LastCheck,
        names::NameNote,
        standing::{Standing, is_well},
        view::View,
    },
    relay::balance::ejection::passed_over_ms,
    slots::{self, Slot},
    sys::time,
    table::{Origin, Wanted},
};

/// An upstream server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// As given, with the address if that was a name.
    pub name: String,
    /// Where.
    pub address: String,
    /// The settings have it no more: what is open goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// The name of its upstream.
    pub upstream: String,
    /// `up`, `unknown`, `ejected`, `down`, `draining`, `retired`.
    pub state: String,
    /// For how long its health is what it is; `None`: for ever.
    pub since_ms: Option<u64>,
    /// Whether it seems well: not down by its checks, and the last attempt to connect succeeded.
    pub up: bool,
    /// How long it is still passed over.
    pub passed_over_ms: u32,
    /// Its share.
    pub weight: u32,
    /// Whether its weight is by order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reweighed: bool,
    /// Whether it is drained by order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Whether it is there by order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
    /// Takes traffic only while no other server can.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// Open connections and flows.
    pub open: u64,
    /// Connections made and flows begun, of all times.
    pub total: u64,
    /// Failed attempts to connect, of all times.
    pub failures: u64,
    /// Times that it was ejected, of all times.
    pub ejections: u64,
    /// The last check, if it is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckStatus>,
}

/// A check that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckStatus {
    /// What is wrong; `None`: it went well.
    pub error: Option<String>,
    /// How long ago.
    pub ago_ms: u64,
    /// How long it took.
    pub took_ms: f64,
}

/// A name that servers are given by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameStatus {
    /// As given.
    pub name: String,
    /// The name of its upstream.
    pub upstream: String,
    /// How many addresses it has.
    pub addresses: usize,
    /// How long ago it was answered last; `None`: not since this control process began.
    pub answered_ms: Option<u64>,
    /// What is wrong with the last look-up.
    pub error: Option<String>,
}

/// An upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamStatus {
    /// As given.
    pub name: String,
    /// The settings have it no more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// How its servers are checked: `tcp`, `http`, `udp`, `exec`; `None`: they are not.
    pub check: Option<String>,
    /// What becomes of connections to a server that is down: `keep`, `close`.
    pub on_down: String,
    /// Names that its servers are given by.
    pub names: Vec<NameStatus>,
    /// Its servers.
    pub servers: Vec<ServerStatus>,
}

/// The answer to `upstream list`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamList {
    /// In the order of the settings.
    pub upstreams: Vec<UpstreamStatus>,
}

/// All servers.
pub fn servers(view: &View<'_>) -> Vec<ServerStatus> {
    slots::all(view.config, &view.table).map(|slot| server(view, &slot)).collect()
}

/// All names.
pub fn names(view: &View<'_>) -> Vec<NameStatus> {
    (0..view.config.upstreams.len()).flat_map(|upstream| names_of(view, upstream)).collect()
}

/// An upstream, by its number.
pub fn upstream(view: &View<'_>, number: usize) -> UpstreamStatus {
    let settings = &view.config.upstreams[number];
    let check = settings.rules.health.as_ref().map(|health| match health.check {
        Check::Tcp { .. } => "tcp",
        Check::Http { .. } => "http",
        Check::Udp { .. } => "udp",
        Check::Exec { .. } => "exec",
    });
    let on_down = match settings.rules.on_down {
        OnDown::Keep => "keep",
        OnDown::Close => "close",
    };
    let slots = slots::of_upstream(view.config, &view.table, number);
    UpstreamStatus {
        name: settings.name.clone(),
        retired: settings.is_retired,
        check: check.map(str::to_owned),
        on_down: on_down.into(),
        names: names_of(view, number),
        servers: slots.map(|slot| server(view, &slot)).collect(),
    }
}

fn names_of(view: &View<'_>, upstream: usize) -> Vec<NameStatus> {
    let status = |note: NameNote| NameStatus {
        name: note.given,
        upstream: view.config.upstreams[upstream].name.clone(),
        addresses: note.addresses,
        answered_ms: note.answered_at.map(|at| millis(at.elapsed())),
        error: note.error,
    };
    view.names.of(upstream).into_iter().map(status).collect()
}

fn server(view: &View<'_>, slot: &Slot<'_>) -> ServerStatus {
    let (cell, now_ms) = (slot.cell, time::monotonic_ms());
    let counters = || view.table.counters_of_server(slot.number);
    let changed = Some(cell.changed_ms()).filter(|changed| *changed > 0);
    ServerStatus {
        name: slot.name(),
        address: slot.address(),
        retired: slot.is_retired(),
        upstream: slot.upstream.name.clone(),
        state: Standing::of(slot, now_ms).label().into(),
        since_ms: changed.map(|changed| now_ms.saturating_sub(changed)),
        up: is_well(slot),
        passed_over_ms: passed_over_ms(&cell.state, &slot.upstream.rules.eject, now_ms as u32),
        weight: cell.weight(),
        reweighed: cell.is_reweighed(),
        drained: cell.wanted() == Wanted::Drain,
        added: slot.identity.origin == Origin::Added,
        backup: slot.identity.is_backup,
        open: counters().map(|counters| counters.open.get()).sum(),
        total: counters().fold(0, |sum, counters| counters.connections.get().wrapping_add(sum)),
        ejections: counters().fold(0, |sum, counters| counters.ejections.get().wrapping_add(sum)),
        failures: counters()
            .flat_map(|counters| &counters.failures)
            .fold(0, |sum, count| count.get().wrapping_add(sum)),
        check: view.checks.of(slot.number).map(check),
    }
}

fn check(last: LastCheck) -> CheckStatus {
    let took_ms = last.took.as_micros() as f64 / 1000.0;
    CheckStatus { error: last.error, ago_ms: millis(Instant::now() - last.at), took_ms }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
