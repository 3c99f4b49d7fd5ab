//! Several servers behind one proxy: spreading, and servers that refuse or say nothing.

use std::time::{Duration, Instant};

use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, BlackHole};
use proxy_tests::wait::until_true;

const LISTEN: &str = "127.0.0.1:8080";
const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";
const TIMEOUT: Duration = Duration::from_secs(5);
const FAILURES: &str = "proxy_upstream_server_connect_failures_total";

fn two_servers() -> Builder {
    Proxy::builder().listen("tcp://127.0.0.1:8080").upstream(A).upstream(B)
}

/// Two random choices of two are both: the one with fewer open connections gets the next.
#[test]
fn open_connections_spread_over_two_servers() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let proxy = two_servers().flag("--workers", "2").start();
    let mut open: Vec<_> = (0..20).map(|_| connect(at(LISTEN))).collect();
    for stream in &mut open {
        assert!(ask_on(stream, "hello").answered());
    }
    let counts = (a.accepted(), b.accepted());
    assert_eq!(counts.0 + counts.1, 20);
    assert!(counts.0.abs_diff(counts.1) <= 6, "{counts:?}");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_upstream_server_connections", &[]), 20.0);
    assert_eq!(metrics.sum("proxy_upstream_server_connections_total", &[]), 20.0);
    assert_eq!(metrics.sum("proxy_upstream_server_up", &[]), 2.0);
}

/// Short connections leave nobody without work either.
#[test]
fn short_connections_spread_over_two_servers() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let _proxy = two_servers().start();
    for _ in 0..60 {
        assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
    }
    assert!(a.accepted() >= 10 && b.accepted() >= 10, "{} and {}", a.accepted(), b.accepted());
}

#[test]
fn refusing_server_is_passed_over() {
    isolate();
    let good = servers::Tcp::lines(A, "A");
    let proxy = two_servers().start();
    for number in 0..50 {
        let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
        assert_eq!(outcome, Outcome::Answered("A hello".into()), "request {number}");
    }
    assert_eq!(good.accepted(), 50);
    let metrics = proxy.metrics();
    let failures = metrics.sum(FAILURES, &[]);
    let shown = metrics.show(FAILURES);
    assert!(failures >= 1.0, "it was tried: {shown}");
    assert!(failures <= 10.0, "and then passed over, not tried for every request: {shown}");
    assert_eq!(metrics.sum("proxy_upstream_server_up", &[]), 1.0);
    // It comes back, and gets connections again after a while.
    let back = servers::Tcp::lines(B, "B");
    until_true("the server is used again", || {
        assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
        back.accepted() > 0
    });
}

#[test]
fn silent_server_costs_the_connect_timeout_once() {
    isolate();
    let _good = servers::Tcp::lines(A, "A");
    let _hole = BlackHole::start(B);
    let proxy = two_servers().flag("--connect-timeout", "400ms").start();
    let start = Instant::now();
    for number in 0..20 {
        let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
        assert_eq!(outcome, Outcome::Answered("A hello".into()), "request {number}");
    }
    let failures = proxy.metrics().sum(FAILURES, &[]);
    assert!(failures >= 1.0, "the silent server was tried");
    assert!(start.elapsed() >= Duration::from_millis(400), "and its timeout waited for");
    assert!(start.elapsed() < Duration::from_millis(400 * 10), "{:?}", start.elapsed());
}

/// With no server left the client hears so at once, and later clients are served again.
#[test]
fn all_servers_refuse() {
    isolate();
    let proxy = two_servers().start();
    for _ in 0..5 {
        let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
        assert!(matches!(outcome, Outcome::Reset | Outcome::Closed), "{outcome:?}");
    }
    proxy.until_metric(FAILURES, &[], 2.0);
    assert!(proxy.status().whole(), "the proxy is none the worse");
    let _server = servers::Tcp::lines(A, "A");
    until_true("the server is used", || ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
}

#[test]
fn all_servers_are_silent() {
    isolate();
    let _holes = (BlackHole::start(A), BlackHole::start(B));
    let proxy = two_servers().flag("--connect-timeout", "300ms").start();
    let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
    assert!(matches!(outcome, Outcome::Reset | Outcome::Closed), "{outcome:?}");
    proxy.until_metric(FAILURES, &[], 1.0);
}

/// What the client sent while the upstream connection was being made is not lost on a retry.
#[test]
fn early_bytes_survive_a_retry() {
    isolate();
    let _hole = BlackHole::start(B);
    let _good = servers::Tcp::lines(A, "A");
    let proxy = two_servers().flag("--connect-timeout", "300ms").start();
    let long = "x".repeat(8000);
    let clients = (0..8).map(|_| {
        let long = long.clone();
        std::thread::spawn(move || ask_tcp(at(LISTEN), &long, TIMEOUT))
    });
    let clients: Vec<_> = clients.collect();
    for client in clients {
        let outcome = client.join().expect("a client");
        assert_eq!(outcome, Outcome::Answered(format!("A {long}")));
    }
    assert!(proxy.metrics().sum(FAILURES, &[]) >= 1.0, "at least one of them was retried");
}
