//! Pools that hang: stopped, or with a blocked worker. The kernel passes them by when the lease
//! ends; the supervisor fences and replaces them after `--fence-after`.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Crowd, Outcome, ask_on, ask_tcp, ask_udp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{alive, signal};
use proxy_tests::proxy::Proxy;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(10);

fn tcp_proxy() -> Builder {
    Proxy::builder().listen("tcp://127.0.0.1:8080").upstream(SERVER).flag("--workers", "2")
}

fn crowd() -> Crowd {
    Crowd::start(4, |number| ask_tcp(at(LISTEN), &format!("request {number}"), PATIENT))
}

#[test]
fn stopped_for_long_is_fenced_and_replaced() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let builder = tcp_proxy()
        .flag("--lease", "250ms")
        .flag("--fence-after", "1500ms")
        .flag("--failback-after", "300ms");
    let proxy = builder.start();
    let before = proxy.status();
    let crowd = crowd();
    crowd.wait_answered(100);
    let stopped = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let after = proxy.until_status("the seat has a new pool and serves again", |s| {
        s.whole() && s.serves(PRIMARY) && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
    });
    crowd.wait_answered(100);
    let tally = crowd.finish();
    assert!(!alive(stopped), "a fenced pool is dead");
    assert_ne!(after.pid(PRIMARY), stopped);
    assert_eq!(after.pid(STANDBY), before.pid(STANDBY));
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_failovers_total", &[("reason", "hung")]), 1.0);
    // What was inside the stopped pool was carried on after it was fenced.
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0);
}

#[test]
fn stopped_for_a_moment_heals() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--fence-after", "60s").start();
    let before = proxy.status();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    proxy.until_status("the standby serves", |s| s.serves(STANDBY) && s.pool(PRIMARY).state == "suspect");
    signal(primary, Signal::SIGCONT);
    let after = proxy.until_status("the primary serves", |s| s.whole() && s.serves(PRIMARY));
    assert_eq!(after.pid(PRIMARY), primary);
    assert_eq!(after.pool(PRIMARY).epoch, before.pool(PRIMARY).epoch);
    assert_eq!(ask_on(&mut stream, "after"), Outcome::Answered("A after".into()));
}

#[test]
fn stopped_standby_disturbs_nobody() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--lease", "250ms").flag("--fence-after", "1500ms").start();
    let crowd = crowd();
    crowd.wait_answered(100);
    let before = proxy.status();
    proxy.signal(STANDBY, Signal::SIGSTOP);
    let after = proxy.until_status("the standby is replaced", |s| {
        s.whole() && s.pool(STANDBY).epoch > before.pool(STANDBY).epoch
    });
    crowd.wait_answered(100);
    let tally = crowd.finish();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(after.pid(PRIMARY), before.pid(PRIMARY));
    assert!(after.serves(PRIMARY));
}

/// Connections that wait in a stopped pool's queue are served when its lease has ended, without
/// anybody killing it.
#[test]
fn accept_queue_of_a_hung_primary_is_served() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let _datagrams = servers::Udp::naming(SERVER, "A");
    let builder = tcp_proxy().listen("udp://127.0.0.1:8080");
    let proxy = builder.flag("--lease", "2s").flag("--fence-after", "60s").start();
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..20).map(|_| connect(at(LISTEN))).collect();
    let datagram = thread::spawn(|| ask_udp(at(LISTEN), "hello", PATIENT));
    let steered = [("pool", PRIMARY), ("reason", "preferred")];
    proxy.until_metric("proxy_steering_verdicts_total", &steered, 21.0);
    for stream in &mut waiting {
        assert_eq!(ask_on(stream, "hello"), Outcome::Answered("A hello".into()));
    }
    assert!(datagram.join().expect("the client").answered());
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_worker_accepted_total", &[("pool", STANDBY)]), 20.0);
    assert_eq!(proxy.pid(PRIMARY), primary, "it was not fenced");
}

/// One of two workers of the primary sleeps for 3 s: it is passed by, its seat is not.
#[test]
fn blocked_worker_is_passed_by() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let builder = tcp_proxy().env("PROXY_TEST_HOOKS", "1");
    let proxy = builder.flag("--lease", "250ms").flag("--fence-after", "60s").start();
    let before = proxy.status();
    proxy.block_worker(PRIMARY, 0);
    let passed_by = [("pool", PRIMARY), ("reason", "worker_expired")];
    let verdicts = "proxy_steering_verdicts_total";
    let mut requests = 0;
    until_true("the kernel passes the blocked worker by", || {
        requests += 1;
        let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
        assert!(outcome.answered(), "request {requests}: {outcome:?}");
        proxy.metrics().sum(verdicts, &passed_by) >= 10.0
    });
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum(verdicts, &[("pool", STANDBY)]), 0.0, "{}", metrics.show(verdicts));
    let other = [("pool", PRIMARY), ("worker", "1")];
    let accepted = metrics.sum("proxy_worker_accepted_total", &other);
    assert!(accepted >= 10.0, "{}", metrics.show("proxy_worker_accepted_total"));
    // It wakes up, and is chosen again.
    let first = [("pool", PRIMARY), ("worker", "0")];
    let before_wake = metrics.sum("proxy_worker_accepted_total", &first);
    until_true("the worker accepts again", || {
        assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
        proxy.metrics().sum("proxy_worker_accepted_total", &first) > before_wake
    });
    let after = proxy.until_status("the pool is ready again", |s| s.whole());
    assert_eq!(after.pid(PRIMARY), before.pid(PRIMARY), "the pool lived on");
}

#[test]
fn worker_blocked_for_long_fences_its_pool() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let builder =
        tcp_proxy().env("PROXY_TEST_HOOKS", "1").flag("--lease", "250ms").flag("--fence-after", "1500ms");
    let proxy = builder.start();
    let before = proxy.status();
    proxy.block_worker(PRIMARY, 1);
    proxy.until_status("the pool is replaced", |s| {
        s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
    });
    assert_eq!(proxy.metrics().sum("proxy_failovers_total", &[("reason", "hung")]), 1.0);
    assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
}

/// Nobody is live: the kernel fills the queue of the seat used last, and says so.
#[test]
fn both_stopped_fails_open() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--fence-after", "60s").start();
    let pids = [PRIMARY, STANDBY].map(|seat| proxy.signal(seat, Signal::SIGSTOP));
    proxy.until_status("nobody serves", |s| s.serving.is_none());
    assert_eq!(proxy.get("/readyz").expect("readyz").code, 503);
    let client = thread::spawn(|| ask_tcp(at(LISTEN), "hello", PATIENT));
    let open = [("reason", "fail_open")];
    proxy.until_metric("proxy_steering_verdicts_total", &open, 1.0);
    pids.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    assert_eq!(client.join().expect("the client"), Outcome::Answered("A hello".into()));
    let after = proxy.until_status("both are ready", |s| s.whole());
    assert_eq!([PRIMARY, STANDBY].map(|seat| after.pid(seat)), pids, "nobody was fenced");
}
