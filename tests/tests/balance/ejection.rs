//! Servers that fail: how often they are tried, how long they are passed over, and how they come back.

use std::time::Instant;

use proxy_tests::clients::{Outcome, ask_tcp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, BlackHole};
use proxy_tests::wait::until_true;

use super::*;

const FAILURES: &str = "proxy_upstream_server_connect_failures_total";
const EJECTIONS: &str = "proxy_upstream_server_ejections_total";
const CONNECTIONS: &str = "proxy_upstream_server_connections_total";

/// How many of so many connections are answered, and how many reset.
#[track_caller]
fn ask(count: usize) -> (usize, usize) {
    let outcomes: Vec<_> = (0..count).map(|_| ask_tcp(at(LISTEN), "hello", TIMEOUT)).collect();
    let reset = outcomes.iter().filter(|outcome| **outcome == Outcome::Reset).count();
    (outcomes.iter().filter(|outcome| outcome.answered()).count(), reset)
}

#[test]
fn so_many_failures_eject_a_server_through_deaths_hangs_and_reloads() {
    isolate();
    let _good = servers::Tcp::lines(A, "A");
    let upstream =
        "balance = \"round-robin\"\nretries = 0\neject = { failures = 3, time = \"1h\", max_time = \"1h\" }";
    let proxy = with(upstream, &[(A, ""), (B, "")]).flag("--workers", "1").start();
    assert_eq!(ask(30), (27, 3));
    for upheaval in Upheaval::ALL {
        upheaval.strike(&proxy);
        assert_eq!(ask(10), (10, 0), "{upheaval:?}");
        let metrics = proxy.metrics();
        let sums = [FAILURES, EJECTIONS].map(|name| metrics.sum(name, &[("server", B)]));
        assert_eq!(sums, [3.0, 1.0], "{upheaval:?}");
    }
}

#[test]
fn never_ejected_is_tried_for_ever() {
    isolate();
    let proxy = with("retries = 0\neject = { failures = 0 }", &[(A, "")]).start();
    assert_eq!(ask(10), (0, 10));
    let metrics = proxy.metrics();
    assert_eq!([FAILURES, EJECTIONS].map(|name| metrics.sum(name, &[])), [10.0, 0.0]);
}

/// How many of so many connections go to A.
#[track_caller]
fn share(proxy: &Proxy, count: usize) -> f64 {
    let made = || proxy.metrics().sum(CONNECTIONS, &[("server", A)]);
    let before = made();
    assert_eq!(ask(count), (count, 0));
    made() - before
}

/// A and B; A is back after an ejection.
#[track_caller]
fn with_one_that_is_back(slow_start: &str) -> (Proxy, [servers::Tcp; 2]) {
    isolate();
    let b = servers::Tcp::lines(B, "B");
    let upstream =
        format!("balance = \"round-robin\"\nslow_start = \"{slow_start}\"\neject = {{ time = \"50ms\" }}");
    let proxy = with(&upstream, &[(A, ""), (B, "")]).flag("--workers", "1").start();
    assert_eq!(ask(2), (2, 0));
    proxy.until_metric(EJECTIONS, &[("server", A)], 1.0);
    let a = servers::Tcp::lines(A, "A");
    until_true("it is used again", || share(&proxy, 1) > 0.0);
    (proxy, [a, b])
}

#[test]
fn a_server_that_is_back_begins_with_a_tenth_through_deaths_hangs_and_reloads() {
    let (proxy, _servers) = with_one_that_is_back("1h");
    // A tenth of what the other gets.
    let few = share(&proxy, 55);
    assert!((3.0..=7.0).contains(&few), "{few}");
    for upheaval in Upheaval::ALL {
        upheaval.strike(&proxy);
        let few = share(&proxy, 33);
        assert!((1.0..=5.0).contains(&few), "{upheaval:?}: {few}");
    }
}

/// However long what happens takes, it can only have more then than before.
#[test]
fn a_slow_start_goes_on_where_it_was() {
    const ASKED: usize = 20;
    let (proxy, _servers) = with_one_that_is_back("6s");
    // A tenth of the other's would be 2.
    until_true("it has a third", || share(&proxy, ASKED) >= 6.0);
    for upheaval in Upheaval::ALL {
        upheaval.strike(&proxy);
        let served = share(&proxy, ASKED);
        assert!((5.0..=11.0).contains(&served), "{upheaval:?}: {served}");
    }
}

#[test]
fn an_ejection_ends_at_its_time_whatever_happens_meanwhile() {
    const TIME: Duration = Duration::from_secs(2);
    isolate();
    let _b = servers::Tcp::lines(B, "B");
    let upstream = "balance = \"round-robin\"\neject = { time = \"2s\" }";
    let proxy = with(upstream, &[(A, ""), (B, "")]).flag("--workers", "1").start();
    let begun = Instant::now();
    assert_eq!(ask(2), (2, 0));
    proxy.until_metric(EJECTIONS, &[("server", A)], 1.0);
    let _a = servers::Tcp::lines(A, "A");
    Upheaval::Kill.strike(&proxy);
    until_true("it is used again", || share(&proxy, 2) > 0.0);
    assert!(begun.elapsed() >= TIME, "after {:?}", begun.elapsed());
    assert_eq!(proxy.metrics().sum(EJECTIONS, &[("server", A)]), 1.0, "the same one");
}

#[test]
fn and_has_its_whole_share_in_the_end() {
    let (proxy, _servers) = with_one_that_is_back("1s");
    until_true("it has half of all", || share(&proxy, 20) == 10.0);
}

/// However many connects run out of time at once, the worker goes round between, and its lease goes on.
#[test]
fn many_late_connects_do_not_hold_a_worker_up() {
    /// What one turn ends of them at most (`EXPIRED_AT_ONCE`).
    const AT_ONCE: usize = 16;
    const LATE: usize = 40 * AT_ONCE;
    isolate();
    let _hole = BlackHole::start(A);
    // With this lease a worker has two ticks a second.
    let text = settings("connect_timeout = \"8s\"\nretries = 0", &[(A, "")]);
    let builder = Proxy::builder().settings(&text).flag("--workers", "1").flag("--lease", "2s");
    let proxy = builder.flag("--fence-after", "10s").start();
    let _clients: Vec<_> = (0..LATE).map(|_| connect(at(LISTEN))).collect();
    proxy.until_metric("proxy_upstream_server_connections", &[], LATE as f64);
    let turns = || proxy.metrics().sum("proxy_worker_turns_total", &[("pool", PRIMARY)]);
    let before = turns();
    proxy.until_metric(FAILURES, &[("reason", "timeout")], LATE as f64);
    let turns = turns() - before;
    assert!(turns >= (LATE / AT_ONCE) as f64, "{turns} turns");
}

/// Each upstream has its own limit on connecting, whatever was begun before.
#[test]
fn a_short_connect_timeout_does_not_wait_for_a_long_one() {
    isolate();
    let _holes = (BlackHole::start(A), BlackHole::start(B));
    let other = "[[listener]]\nname = \"m\"\nbind = [\"tcp://127.0.0.1:8081\"]\nupstream = \"v\"\n\
                 [upstream.v]\nconnect_timeout = \"60s\"\n[[upstream.v.server]]\naddress = \"127.0.0.1:9002\"\n";
    let text = settings("connect_timeout = \"300ms\"", &[(A, "")]);
    let proxy = Proxy::builder().settings(&format!("{other}{text}")).start();
    let _slow = connect(at("127.0.0.1:8081"));
    proxy.until_metric("proxy_upstream_server_connections", &[("upstream", "v")], 1.0);
    let begun = Instant::now();
    assert_eq!(ask(1), (0, 1));
    assert!(begun.elapsed() < Duration::from_secs(15));
    proxy.until_metric(FAILURES, &[("upstream", "u"), ("reason", "timeout")], 1.0);
    assert_eq!(proxy.metrics().sum("proxy_upstream_server_connections", &[("upstream", "v")]), 1.0);
}
