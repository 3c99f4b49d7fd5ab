//! What the kernel program decided.

use proxy_common::{slot::verdict_index, steer::Reason};

use super::{
    super::view::{SEAT_NAMES, View},
    family::Family,
};
use crate::ledger::NO_LISTENER;

pub fn families(view: &View<'_>) -> Vec<Family> {
    match view.steering.verdicts() {
        Ok(verdicts) => vec![family(view, &verdicts)],
        Err(error) => {
            if !view.verdicts_missed.replace(true) {
                tracing::warn!("metric proxy_steering_verdicts_total is missing: {error}");
            }
            Vec::new()
        }
    }
}

fn family(view: &View<'_>, verdicts: &[u64]) -> Family {
    let mut family = Family::counter(
        "proxy_steering_verdicts_total",
        "Where the kernel sent new connections and datagrams, and why; listener \"none\" counts those to \
         sockets that are not the proxy's.",
    );
    let listeners = view.config.listeners.iter().map(|listener| listener.address.to_string());
    for (number, listener) in (0u32..).zip(listeners.chain([NO_LISTENER.into()])) {
        for (seat, pool) in SEAT_NAMES {
            for reason in Reason::ALL {
                let index = verdict_index(number, seat, reason as u32) as usize;
                let count = verdicts.get(index).copied().unwrap_or(0);
                let labels = [("listener", listener.as_str()), ("pool", pool), ("reason", reason.name())];
                family.add(&labels, count as f64);
            }
        }
    }
    family
}
