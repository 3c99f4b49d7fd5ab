//! Letting a pool die, waiting until another has taken over, and looking at what that left.

use std::fs;

use nix::sys::signal::Signal;

use crate::process::signal;
use crate::proxy::Proxy;
use crate::status::Status;

/// The pool in this seat dies, and another takes over; waits until both are ready again.
#[track_caller]
pub fn take_over(proxy: &Proxy, seat: &str, death: Signal) {
    let before = proxy.until_status("whole", Status::whole);
    signal(before.pid(seat), death);
    wait_taken_over(proxy, seat, &before);
}

/// Waits until the pool in this seat is another one than `before`, and both are ready.
#[track_caller]
pub fn wait_taken_over(proxy: &Proxy, seat: &str, before: &Status) {
    let after = proxy.until_status("taken over", |s| {
        s.whole() && s.pool(seat).epoch > before.pool(seat).epoch && s.takeovers > before.takeovers
    });
    assert!(after.pool(seat).epoch > before.pool(seat).epoch);
}

/// So many flows with these labels were adopted, and none lost.
#[track_caller]
pub fn assert_adopted(proxy: &Proxy, labels: &[(&str, &str)], at_least: f64) {
    let metrics = proxy.until_metric("proxy_adopted_flows_total", labels, at_least);
    assert!(metrics.sum("proxy_takeovers_total", &[]) >= 1.0);
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "{}", metrics.show("proxy_lost_flows_total"));
}

/// Descriptors of the shared table that are no pipes, which pools keep in stock.
pub fn descriptors(proxy: &Proxy) -> usize {
    // A twin may have taken the place of the supervisor that was started.
    let supervisor = proxy.status().supervisor.pid;
    let entries = fs::read_dir(format!("/proc/{supervisor}/fd")).expect("list descriptors");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| !link.to_string_lossy().starts_with("pipe:")).count()
}
