//! The access log.

use super::{super::view::View, family::Family};
use crate::table::LogCounters;

pub fn families(view: &View<'_>) -> Vec<Family> {
    let table = &view.table;
    let sum = |quantity: fn(&LogCounters) -> u64| {
        table.sum_counters(|worker| quantity(&worker.log)) + quantity(&table.supervisor().log)
    };
    let (entries, full) = (sum(|log| log.entries.get()), sum(|log| log.dropped.get()));
    let failed = table.supervisor().log_failed.get();
    let help = "Connections and flows that the access log was told of; their lines follow within some 25 ms.";
    let told = Family::counter("proxy_access_log_lines_total", help).of(entries as f64);
    let help = "Connections and flows that are missing in the access log: its ring was full, or its file took nothing.";
    let mut dropped = Family::counter("proxy_access_log_dropped_total", help);
    dropped.add(&[("reason", "full")], full as f64);
    dropped.add(&[("reason", "write")], failed as f64);
    vec![told, dropped]
}
