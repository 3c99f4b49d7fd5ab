//! Upgrades and reloads.

use super::{super::view::View, family::Family};
use crate::table::HandoverKind;

pub fn families(view: &View<'_>) -> Vec<Family> {
    let cell = &view.table.supervisor().handover;
    let mut total = Family::counter(
        "proxy_upgrades_total",
        "Upgrades to another binary and reloads of the settings, by result; after one that failed the old \
         supervisor goes on.",
    );
    for (index, (_, kind)) in HandoverKind::ALL.iter().enumerate() {
        total.add(&[("kind", kind), ("result", "done")], cell.done[index].get() as f64);
        total.add(&[("kind", kind), ("result", "failed")], cell.failed[index].get() as f64);
    }
    let gap = Family::gauge(
        "proxy_upgrade_gap_seconds",
        "How long no byte was moved in the last upgrade or reload, in seconds; 0 if there was none.",
    )
    .of(cell.gap_us.get() as f64 / 1e6);
    vec![total, gap]
}
