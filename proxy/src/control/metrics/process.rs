//! The proxy as a whole: version, supervisor, control, limits, and the `process_*` metrics, summed
//! over its processes.

use super::{
    super::view::{View, supervisor_is_up},
    family::Family,
};
use crate::{
    procfs::{self, TICKS_PER_SECOND},
    table::{DrainState, Kind},
    usage,
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let block = view.table.supervisor();
    let mut build =
        Family::gauge("proxy_build_info", "Always 1; the label tells the version of the program.");
    build.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut families = vec![
        build,
        Family::gauge(
            "proxy_supervisor_up",
            "1 while the supervisor looks after the pools: it replaces dead and hung ones.",
        )
        .of(f64::from(supervisor_is_up(view.table))),
        Family::gauge("proxy_supervisor_twin_up", "1 while a twin waits to take the supervisor's place.")
            .of(f64::from(block.twin.pid() > 0)),
        Family::counter(
            "proxy_supervisor_successions_total",
            "Times that a twin took the place of a supervisor that had died or hung.",
        )
        .of(block.successions.get() as f64),
        Family::gauge("proxy_draining", "1 while new connections are refused because of drain or stop.")
            .of(f64::from(block.drain() != DrainState::No)),
        Family::counter("proxy_control_restarts_total", "Control processes started after the first.")
            .of(block.control_restarts.get() as f64),
        refused(view),
        limits(view),
    ];
    families.extend(resources(view));
    families
}

fn refused(view: &View<'_>) -> Family {
    let mut family = Family::counter(
        "proxy_control_clients_refused_total",
        "Clients of the control socket and of the metrics address closed because too many were there, \
         since control started.",
    );
    family.add(&[("socket", "control")], view.control_refused.get() as f64);
    family.add(&[("socket", "metrics")], view.metrics_refused.get() as f64);
    family
}

fn limits(view: &View<'_>) -> Family {
    let help = "Configured limits: open TCP connections, UDP flows, and descriptors of all processes; the first \
                two are there only if set.";
    let mut family = Family::gauge("proxy_limit", help);
    let limits = [
        ("connections", view.config.max_connections),
        ("flows", view.config.max_flows),
        ("descriptors", Some(view.table.dimensions().descriptors)),
    ];
    for (what, limit) in limits {
        if let Some(limit) = limit {
            family.add(&[("what", what)], limit as f64);
        }
    }
    family
}

fn resources(view: &View<'_>) -> Vec<Family> {
    let supervisor = view.table.supervisor().pid.get();
    let pids = usage::processes(&view.table);
    vec![
        Family::counter(
            "process_cpu_seconds_total",
            "Processor time of supervisor, pools and control, dead ones and those that handed over too, in \
             seconds.",
        )
        .of(usage::ticks(&view.table) as f64 / TICKS_PER_SECOND),
        Family::gauge(
            "process_resident_memory_bytes",
            "Resident memory of supervisor, pools and control in bytes; shared pages count once for each.",
        )
        .of(pids.iter().filter_map(|pid| procfs::resident_bytes(*pid)).sum::<u64>() as f64),
        Family::gauge("process_open_fds", "Open descriptors in the table that supervisor and pools share.")
            .of(open_descriptors(view, supervisor) as f64),
        Family::gauge(
            "process_max_fds",
            "Limit of open descriptors in the table that supervisor and pools share.",
        )
        .of(view.table.dimensions().descriptors as f64),
        start_time(supervisor),
    ]
}

fn open_descriptors(view: &View<'_>, supervisor: i32) -> u64 {
    let tagged = || view.table.tags().iter().filter(|tag| tag.get().kind != Kind::Free).count() as u64;
    procfs::open_descriptors(supervisor).unwrap_or_else(tagged)
}

fn start_time(supervisor: i32) -> Family {
    let mut family = Family::gauge(
        "process_start_time_seconds",
        "When the supervisor was started, in seconds of the Unix epoch.",
    );
    if let (Some(process), Some(boot)) = (procfs::process(supervisor), procfs::boot_time()) {
        family.add(&[], boot as f64 + process.started as f64 / TICKS_PER_SECOND);
    }
    family
}
