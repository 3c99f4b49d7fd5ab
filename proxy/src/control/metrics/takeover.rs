//! Failovers, takeovers, and what was lost.

use super::{super::view::View, family::Family};
use crate::table::{AdoptedState, FailoverReason, LostReason, TakeoverStage};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let block = view.table.supervisor();
    let mut failovers = Family::counter(
        "proxy_failovers_total",
        "Times that new traffic moved to the other pool, by reason.",
    );
    for (reason, label) in FailoverReason::ALL {
        failovers.add(&[("reason", label)], block.failovers[reason as usize].get() as f64);
    }
    let takeovers = Family::counter(
        "proxy_takeovers_total",
        "Deaths of pools that had been ready or had something to adopt, so that another took over what they left; \
         not of pools that died while starting.",
    )
    .of(block.takeovers.get() as f64);
    let mut stages =
        Family::histogram("proxy_takeover_duration_seconds", "Duration of takeovers in seconds, by stage.");
    for (stage, label) in TakeoverStage::ALL {
        stages.add_histogram(&[("stage", label)], [&block.takeover_duration[stage as usize]]);
    }
    let mut lost = Family::counter(
        "proxy_lost_flows_total",
        "Established TCP connections and UDP flows that were lost, by reason.",
    );
    for (reason, label) in LostReason::ALL {
        for (protocol, count) in ["tcp", "udp"].into_iter().zip(view.table.lost(reason)) {
            lost.add(&[("protocol", protocol), ("reason", label)], count as f64);
        }
    }
    let mut adopted = Family::counter(
        "proxy_adopted_flows_total",
        "TCP connections and UDP flows that were carried on after the death of their pool, by what they were about.",
    );
    for (state, protocol, label) in AdoptedState::ALL {
        let count = view.table.sum_counters(|worker| worker.adopted[state as usize].get());
        adopted.add(&[("protocol", protocol), ("state", label)], count as f64);
    }
    let audits = Family::counter(
        "proxy_takeover_audits_total",
        "Directions of adopted TCP connections whose stream positions were compared.",
    )
    .of(view.table.sum_counters(|worker| worker.audits.get()) as f64);
    let unaudited = Family::counter(
        "proxy_takeover_unaudited_total",
        "Directions of adopted connections whose stream positions cannot be compared, for one of the sockets is a unix \
         socket.",
    )
    .of(view.table.sum_counters(|worker| worker.unaudited.get()) as f64);
    let mismatches = Family::counter(
        "proxy_takeover_audit_mismatches_total",
        "Directions of adopted TCP connections whose stream positions did not agree; the connections were reset.",
    )
    .of(view.table.sum_counters(|worker| worker.audit_mismatches.get()) as f64);
    vec![failovers, takeovers, stages, adopted, audits, unaudited, mismatches, lost]
}
