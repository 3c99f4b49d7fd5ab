//! Active checks of servers, and look-ups of names.

use super::{
    super::view::View,
    family::Family,
    servers::{Labels, slots},
};
use crate::{
    config::{Place, Upstream},
    slots::Slot,
    table::{CheckCounters, CheckResult, LookupResult, RefusedAddress, TRANSITIONS, UpstreamCell},
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let results = Family::counter("proxy_upstream_server_checks_total", "Checks of the server, by result.");
    let transitions = Family::counter(
        "proxy_upstream_server_transitions_total",
        "Times that checks found the server to be up, or down, when it was not before.",
    );
    let lookups = Family::counter(
        "proxy_upstream_name_lookups_total",
        "Look-ups of the upstream's names: answered, empty (there is no address), failed (there is no answer).",
    );
    let refused = Family::counter(
        "proxy_upstream_name_addresses_refused_total",
        "Addresses of the upstream's names that became no servers: they lead back to this proxy (own_listener), or are \
         too many (room).",
    );
    vec![
        by_label(view, results, "result", |counters| {
            CheckResult::ALL.map(|(result, label)| (label, counters.results[result as usize].get())).into()
        }),
        by_label(view, transitions, "to", |counters| {
            let labels = TRANSITIONS.iter().map(|(_, label)| *label);
            labels.zip(counters.transitions.iter().map(|count| count.get())).collect()
        }),
        durations(view),
        of_names(view, lookups, "result", |cell| {
            LookupResult::ALL.map(|(result, label)| (label, cell.lookups[result as usize].get())).into()
        }),
        of_names(view, refused, "reason", |cell| {
            RefusedAddress::ALL.map(|(reason, label)| (label, cell.refused[reason as usize].get())).into()
        }),
    ]
}

/// Counts with the label value of each.
type Counts = Vec<(&'static str, u64)>;

/// Servers that are checked.
fn checked<'a>(view: &'a View<'_>) -> impl Iterator<Item = (Slot<'a>, &'static CheckCounters)> {
    let is_checked = |slot: &Slot<'_>| slot.upstream.rules.health.is_some();
    slots(view).filter(is_checked).map(|slot| {
        let counters = &view.table.checks()[slot.number];
        (slot, counters)
    })
}

fn by_label(
    view: &View<'_>,
    mut family: Family,
    label: &'static str,
    counts: impl Fn(&CheckCounters) -> Counts,
) -> Family {
    for (slot, counters) in checked(view) {
        let labels = Labels::of(&slot);
        for (value, count) in counts(counters) {
            family.add(&[&labels.pairs()[..], &[(label, value)]].concat(), count as f64);
        }
    }
    family
}

fn durations(view: &View<'_>) -> Family {
    let mut family = Family::histogram(
        "proxy_upstream_server_check_duration_seconds",
        "How long checks of the server took, in seconds.",
    );
    for (slot, counters) in checked(view) {
        family.add_histogram(&Labels::of(&slot).pairs(), [&counters.duration]);
    }
    family
}

fn of_names(
    view: &View<'_>,
    mut family: Family,
    label: &'static str,
    counts: impl Fn(&UpstreamCell) -> Counts,
) -> Family {
    let has_names = |upstream: &Upstream| {
        upstream.servers.iter().any(|server| matches!(server.place, Place::Name { .. }))
    };
    for (number, upstream) in
        view.config.upstreams.iter().enumerate().filter(|(_, upstream)| has_names(upstream))
    {
        for (value, count) in counts(view.table.upstream(number)) {
            family.add(&[("upstream", &upstream.name), (label, value)], count as f64);
        }
    }
    family
}
