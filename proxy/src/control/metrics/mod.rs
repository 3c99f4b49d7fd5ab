//! `/metrics`: read from the flow table, the steering maps and `/proc` at each scrape; nothing is
//! kept here. One file per subject.

mod access_log;
mod checks;
mod family;
mod listeners;
mod pools;
mod process;
mod servers;
mod sessions;
mod steering;
mod takeover;
mod udp;
mod upgrade;

use prometheus::{TextEncoder, proto::MetricFamily};

use super::view::View;

/// All metrics in the text format.
///
/// # Errors
/// A family is wrongly built, which a test would have shown.
pub fn render(view: &View<'_>) -> prometheus::Result<String> {
    let mut families: Vec<MetricFamily> = Vec::new();
    let subjects = [
        process::families,
        pools::families,
        takeover::families,
        upgrade::families,
        steering::families,
        listeners::families,
        udp::families,
        servers::families,
        checks::families,
        access_log::families,
        sessions::families,
    ];
    for subject in subjects {
        families.extend(subject(view).into_iter().filter_map(family::Family::finish));
    }
    TextEncoder::new().encode_to_string(&families)
}
