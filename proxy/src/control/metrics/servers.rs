//! Upstream servers.

use std::sync::atomic::Ordering::Relaxed;

use super::{super::view::View, family::Family};
use crate::{
    config::Server,
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
    vec![
        up(view),
        summed(view, connections, |counters| counters.open.get()),
        summed(view, total, |counters| counters.connections.get()),
        failures(view),
        durations(view),
    ]
}

fn labels(server: &Server) -> [(&'static str, &str); 2] {
    [("upstream", &server.upstream), ("server", &server.name)]
}

fn up(view: &View<'_>) -> Family {
    let help = "1 if the last attempt to reach the server went well, or none was made yet.";
    let mut family = Family::gauge("proxy_upstream_server_up", help);
    for (server, state) in view.config.servers.iter().zip(view.table.servers()) {
        family.add(&labels(server), f64::from(state.failures.load(Relaxed) == 0));
    }
    family
}

fn summed(view: &View<'_>, mut family: Family, quantity: impl Fn(&ServerCounters) -> u64) -> Family {
    for (number, server) in view.config.servers.iter().enumerate() {
        let sum: u64 = view.table.counters_of_server(number).map(&quantity).sum();
        family.add(&labels(server), sum as f64);
    }
    family
}

fn failures(view: &View<'_>) -> Family {
    let mut family = Family::counter(
        "proxy_upstream_server_connect_failures_total",
        "Failed attempts to connect to the server, by reason.",
    );
    for (number, server) in view.config.servers.iter().enumerate() {
        for (reason, label) in ConnectFailure::ALL {
            let sum: u64 = view
                .table
                .counters_of_server(number)
                .map(|counters| counters.failures[reason as usize].get())
                .sum();
            family.add(&[&labels(server)[..], &[("reason", label)]].concat(), sum as f64);
        }
    }
    family
}

fn durations(view: &View<'_>) -> Family {
    let mut family = Family::histogram(
        "proxy_upstream_server_connect_duration_seconds",
        "How long it took to connect to the server by TCP, in seconds.",
    );
    for (number, server) in view.config.servers.iter().enumerate() {
        let parts = view.table.counters_of_server(number).map(|counters| &counters.connect_duration);
        family.add_histogram(&labels(server), parts);
    }
    family
}
