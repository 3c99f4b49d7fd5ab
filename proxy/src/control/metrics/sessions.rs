//! Closing by order.

use super::{super::view::View, family::Family};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let closed = view.table.sum_counters(|worker| worker.ordered.get());
    let help = "TCP connections and UDP flows closed because an administrator, or a check, wanted it.";
    vec![Family::counter("proxy_sessions_closed_total", help).of(closed as f64)]
}
