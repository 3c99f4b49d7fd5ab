//! Upstream servers.

use super::{
    super::{
        standing::{Standing, is_well},
        view::View,
    },
    family::Family,
};
use crate::{
    slots::{self, Slot},
    sys::time,
    table::{ConnectFailure, ServerCounters},
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let connections = Family::gauge(
        "proxy_upstream_server_connections",
        "TCP connections and UDP flows to the server, open now or being made.",
    );
    let total = Family::counter(
        "proxy_upstream_server_connections_total",
        "TCP connections made and UDP flows begun to the server.",
    );
    let ejections = Family::counter(
        "proxy_upstream_server_ejections_total",
        "Times that the server was passed over for a while because connections to it failed.",
    );
    vec![
        up(view),
        states(view),
        weights(view),
        summed(view, connections, |counters| counters.open.get()),
        summed(view, total, |counters| counters.connections.get()),
        failures(view),
        summed(view, ejections, |counters| counters.ejections.get()),
        durations(view),
    ]
}

/// The labels' values.
pub(super) struct Labels(String, String);

impl Labels {
    pub(super) fn of(slot: &Slot<'_>) -> Self {
        Self(slot.upstream.name.clone(), slot.name())
    }

    pub(super) fn pairs(&self) -> [(&'static str, &str); 2] {
        [("upstream", &self.0), ("server", &self.1)]
    }
}

pub(super) fn slots<'a>(view: &'a View<'_>) -> impl Iterator<Item = Slot<'a>> {
    slots::all(view.config, &view.table)
}

/// Wrapping: what a slot has counted for a server before is cancelled out.
fn sum(view: &View<'_>, slot: &Slot<'_>, quantity: impl Fn(&ServerCounters) -> u64) -> f64 {
    let counters = view.table.counters_of_server(slot.number);
    counters.map(quantity).fold(0, u64::wrapping_add) as f64
}

fn up(view: &View<'_>) -> Family {
    let help = "1 if the server is not down by its checks, and the last attempt to connect to it, if any, went well.";
    let mut family = Family::gauge("proxy_upstream_server_up", help);
    for slot in slots(view) {
        family.add(&Labels::of(&slot).pairs(), f64::from(is_well(&slot)));
    }
    family
}

fn states(view: &View<'_>) -> Family {
    let help = "1 for the state that the server is in: up, unknown (to be checked), ejected (passed over for a while), \
                down (by its checks), draining (by order), retired.";
    let mut family = Family::gauge("proxy_upstream_server_state", help);
    let now_ms = time::monotonic_ms();
    for slot in slots(view) {
        let (labels, now) = (Labels::of(&slot), Standing::of(&slot, now_ms));
        for (state, label) in Standing::ALL {
            let pairs = [&labels.pairs()[..], &[("state", label)]].concat();
            family.add(&pairs, f64::from(state == now));
        }
    }
    family
}

fn weights(view: &View<'_>) -> Family {
    let help = "The server's share, compared with its upstream's other servers.";
    let mut family = Family::gauge("proxy_upstream_server_weight", help);
    for slot in slots(view) {
        family.add(&Labels::of(&slot).pairs(), slot.cell.weight().into());
    }
    family
}

fn summed(view: &View<'_>, mut family: Family, quantity: impl Fn(&ServerCounters) -> u64) -> Family {
    for slot in slots(view) {
        family.add(&Labels::of(&slot).pairs(), sum(view, &slot, &quantity));
    }
    family
}

fn failures(view: &View<'_>) -> Family {
    let mut family = Family::counter(
        "proxy_upstream_server_connect_failures_total",
        "Failed attempts to connect to the server, by reason.",
    );
    for slot in slots(view) {
        let labels = Labels::of(&slot);
        for (reason, label) in ConnectFailure::ALL {
            let sum = sum(view, &slot, |counters| counters.failures[reason as usize].get());
            family.add(&[&labels.pairs()[..], &[("reason", label)]].concat(), sum);
        }
    }
    family
}

fn durations(view: &View<'_>) -> Family {
    let mut family = Family::histogram(
        "proxy_upstream_server_connect_duration_seconds",
        "How long it took to connect to the server by TCP, in seconds.",
    );
    for slot in slots(view) {
        let parts = view.table.counters_of_server(slot.number).map(|counters| &counters.connect_duration);
        family.add_histogram(&Labels::of(&slot).pairs(), parts);
    }
    family
}
