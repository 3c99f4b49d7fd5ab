//! Processes that die: primary, standby, control, one after the other and at once. New traffic
//! goes on, also what was inside a killed pool.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::{Builder, binary};
use proxy_tests::clients::{Crowd, Outcome, Tally, ask_on, ask_tcp, ask_udp, connect, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{alive, children, signal, status_line};
use proxy_tests::proxy::Proxy;
use proxy_tests::status::Status;
use proxy_tests::wait::{until, until_true};
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(5);
const CLIENTS: usize = 4;

fn tcp_proxy() -> Builder {
    Proxy::builder().listen("tcp://127.0.0.1:8080").upstream(SERVER).flag("--workers", "2")
}

/// Clients that make one short connection after the other.
fn crowd() -> Crowd {
    Crowd::start(CLIENTS, |number| {
        let outcome = ask_tcp(at(LISTEN), &format!("request {number}"), TIMEOUT);
        if let Outcome::Answered(answer) = &outcome {
            assert_eq!(*answer, format!("A request {number}"));
        }
        outcome
    })
}

/// Nobody was refused, cut or left without an answer, and the proxy knows of no loss either.
#[track_caller]
fn assert_nothing_lost(tally: &Tally, proxy: &Proxy) {
    let lost = proxy.metrics().sum("proxy_lost_flows_total", &[]);
    assert_eq!((tally.failed(), lost), (0, 0.0), "{tally:?}");
}

#[test]
fn primary_killed_under_load() {
    const ROUNDS: usize = 5;
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--failback-after", "300ms").start();
    let crowd = crowd();
    let mut accepted = 0.0;
    for round in 1..=ROUNDS {
        let before = proxy.until_status("the primary serves", |s| s.whole() && s.serves(PRIMARY));
        crowd.wait_answered(400);
        signal(before.pid(PRIMARY), Signal::SIGKILL);
        let after = proxy.until_status("the seat has a new pool", |s| {
            s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
        });
        assert_eq!(after.pid(STANDBY), before.pid(STANDBY), "the standby stays");
        let killed = [("reason", "killed")];
        let metrics = proxy.until_metric("proxy_failovers_total", &killed, round as f64);
        let now = metrics.sum("proxy_worker_accepted_total", &[]);
        assert!(now > accepted, "the counter went from {accepted} to {now}");
        accepted = now;
    }
    let tally = crowd.finish();
    assert!(tally.answered >= 400 * ROUNDS, "thousands of requests: {tally:?}");
    assert_nothing_lost(&tally, &proxy);
    assert_both_served(&proxy);
}

/// The standby served while the primary's bit was clear, and the primary before and after.
#[track_caller]
fn assert_both_served(proxy: &Proxy) {
    let metrics = proxy.metrics();
    let shown = metrics.show("proxy_steering_verdicts_total");
    let verdicts = |pool, reason| {
        let labels = [("pool", pool), ("reason", reason)];
        metrics.sum("proxy_steering_verdicts_total", &labels)
    };
    assert!(verdicts(PRIMARY, "preferred") > 0.0, "{shown}");
    // By the cleared bit at first, and a moment later because the standby is tried first.
    assert!(verdicts(STANDBY, "bit_clear") + verdicts(STANDBY, "preferred") > 0.0, "{shown}");
    assert_eq!(verdicts(PRIMARY, "dropped") + verdicts(STANDBY, "dropped"), 0.0, "{shown}");
    for pool in [PRIMARY, STANDBY] {
        let accepted = metrics.sum("proxy_worker_accepted_total", &[("pool", pool)]);
        assert!(accepted > 0.0, "{}", metrics.show("proxy_worker_accepted_total"));
    }
}

/// What a panic does (panic = "abort"), and a wild jump.
#[test]
fn crash_is_an_ordinary_failover() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--failback-after", "never").start();
    for (seat, death) in [(PRIMARY, Signal::SIGABRT), (STANDBY, Signal::SIGILL)] {
        let before = proxy.until_status("whole", |s| s.whole() && s.serves(seat));
        let crowd = crowd();
        crowd.wait_answered(50);
        signal(before.pid(seat), death);
        proxy.until_status("the seat has a new pool", |s| {
            s.whole() && s.pool(seat).epoch > before.pool(seat).epoch
        });
        crowd.wait_answered(50);
        assert_nothing_lost(&crowd.finish(), &proxy);
    }
    assert_eq!(proxy.metrics().sum("proxy_failovers_total", &[("reason", "killed")]), 2.0);
}

/// Deterministic: the primary is stopped within its lease, so the kernel still chooses it, and
/// killed when connections and requests wait in its accept queues.
#[test]
fn accept_queue_of_a_killed_primary_is_served() {
    const WAITING: usize = 20;
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--lease", "3s").flag("--fence-after", "60s").start();
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..WAITING).map(|_| connect(at(LISTEN))).collect();
    let steered = [("pool", PRIMARY), ("reason", "preferred")];
    proxy.until_metric("proxy_steering_verdicts_total", &steered, WAITING as f64);
    signal(primary, Signal::SIGKILL);
    for (number, stream) in waiting.iter_mut().enumerate() {
        let outcome = ask_on(stream, &number.to_string());
        assert_eq!(outcome, Outcome::Answered(format!("A {number}")));
    }
    let metrics = proxy.metrics();
    let shown = metrics.show("proxy_worker_accepted_total");
    assert_eq!(metrics.sum("proxy_worker_accepted_total", &[("pool", STANDBY)]), 20.0, "{shown}");
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "nothing was inside");
}

#[test]
fn datagrams_waiting_in_a_killed_primary_are_served() {
    const WAITING: usize = 20;
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let builder = Proxy::builder().listen("udp://127.0.0.1:8080").upstream(SERVER);
    let proxy = builder.flag("--lease", "3s").flag("--fence-after", "60s").start();
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let clients: Vec<_> = (0..WAITING).map(|_| udp(at(LISTEN))).collect();
    for client in &clients {
        client.0.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        client.0.send(b"hello").expect("send");
    }
    let steered = [("pool", PRIMARY), ("reason", "preferred")];
    proxy.until_metric("proxy_steering_verdicts_total", &steered, WAITING as f64);
    signal(primary, Signal::SIGKILL);
    for client in &clients {
        let answer = client.receive().expect("an answer");
        assert!(answer.starts_with("A ") && answer.ends_with(" hello"), "{answer}");
    }
}

#[test]
fn standby_killed_disturbs_nobody() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().start();
    let mut lasting = connect(at(LISTEN));
    assert!(ask_on(&mut lasting, "before").answered());
    let crowd = crowd();
    crowd.wait_answered(100);
    let before = proxy.status();
    signal(before.pid(STANDBY), Signal::SIGKILL);
    let after = proxy.until_status("the standby is back", |s| {
        s.whole() && s.pool(STANDBY).epoch > before.pool(STANDBY).epoch
    });
    crowd.wait_answered(100);
    let tally = crowd.finish();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(after.pid(PRIMARY), before.pid(PRIMARY));
    assert_eq!(after.failovers, 0);
    assert!(ask_on(&mut lasting, "after").answered());
    let standby = proxy.metrics().sum("proxy_worker_accepted_total", &[("pool", STANDBY)]);
    assert_eq!(standby, 0.0, "the primary served all the time");
}

#[test]
fn control_killed_disturbs_nobody() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().start();
    let mut lasting = connect(at(LISTEN));
    assert!(ask_on(&mut lasting, "before").answered());
    let crowd = crowd();
    crowd.wait_answered(100);
    let before = proxy.status();
    let accepted = proxy.metrics().sum("proxy_worker_accepted_total", &[]);
    let control = before.control.pid;
    signal(control, Signal::SIGKILL);
    until_true("control is gone", || !alive(control));
    let after = proxy.until_status("status answers again", |s| s.whole());
    let again = proxy.metrics().sum("proxy_worker_accepted_total", &[]);
    assert_ne!(after.control.pid, control);
    let tally = crowd.finish();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(again >= accepted, "the counter went from {accepted} to {again}");
    assert_eq!(after.pid(PRIMARY), before.pid(PRIMARY));
    assert_eq!(after.pid(STANDBY), before.pid(STANDBY));
    assert!(ask_on(&mut lasting, "after").answered());
}

#[test]
fn both_pools_killed_one_after_the_other() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--failback-after", "never").start();
    let crowd = crowd();
    crowd.wait_answered(100);
    let first = proxy.status();
    signal(first.pid(PRIMARY), Signal::SIGKILL);
    let second = proxy.until_status("the standby serves", |s| s.whole() && s.serves(STANDBY));
    crowd.wait_answered(100);
    signal(second.pid(STANDBY), Signal::SIGKILL);
    let third = proxy.until_status("the primary serves", |s| s.whole() && s.serves(PRIMARY));
    crowd.wait_answered(100);
    assert_nothing_lost(&crowd.finish(), &proxy);
    let epochs = [&first, &second, &third].map(|s| (s.pool(PRIMARY).epoch, s.pool(STANDBY).epoch));
    let [(p1, s1), (p2, s2), (p3, s3)] = epochs;
    assert!(p1 < p2 && p2 == p3 && s1 == s2 && s2 < s3, "{epochs:?}");
}

/// Nobody is live for a moment. What comes then waits in the listeners, which nobody closed.
#[test]
fn both_pools_killed_at_once() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let _datagrams = servers::Udp::naming(SERVER, "A");
    let proxy = tcp_proxy().listen("udp://127.0.0.1:8080").start();
    let before = proxy.status();
    for seat in [PRIMARY, STANDBY] {
        signal(before.pid(seat), Signal::SIGKILL);
    }
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Answered("A hello".into()));
    assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
    let after = proxy.until_status("both are back", |s| s.whole());
    assert!(after.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch);
    assert!(after.pool(STANDBY).epoch > before.pool(STANDBY).epoch);
}

/// Established connections go on through the other pool, and are counted.
#[test]
fn connections_inside_a_killed_pool_go_on() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--failback-after", "never").start();
    let mut inside: Vec<_> = (0..10).map(|_| connect(at(LISTEN))).collect();
    for stream in &mut inside {
        assert!(ask_on(stream, "before").answered());
    }
    let before = proxy.until_status("they are counted", |s| s.pool(PRIMARY).connections == 10);
    signal(before.pid(PRIMARY), Signal::SIGKILL);
    for stream in &mut inside {
        assert_eq!(ask_on(stream, "after"), Outcome::Answered("A after".into()));
    }
    let labels = [("protocol", "tcp")];
    let metrics = proxy.until_metric("proxy_adopted_flows_total", &labels, 10.0);
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0);
    assert_eq!(metrics.sum("proxy_listener_connections", &[]), 10.0);
    assert_eq!(proxy.status().pool(STANDBY).connections, 10);
}

/// The standby's connections do not depend on the primary, and the other way round.
#[test]
fn connections_of_the_other_pool_live_on() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = tcp_proxy().flag("--failback-after", "never").start();
    proxy.verb(&["failover"]).says(0, &[]);
    proxy.until_status("the standby serves", |s| s.serves(STANDBY));
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());
    let before = proxy.status();
    assert_eq!(before.pool(STANDBY).connections, 1, "{before:?}");
    signal(before.pid(PRIMARY), Signal::SIGKILL);
    proxy.until_status("the primary is back", |s| {
        s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
    });
    assert_eq!(ask_on(&mut stream, "after"), Outcome::Answered("A after".into()));
}

#[test]
fn pools_have_no_rights() {
    isolate();
    let proxy = tcp_proxy().start();
    let before = proxy.status();
    signal(before.pid(PRIMARY), Signal::SIGKILL);
    // A pool that was cloned later is confined just like the first ones.
    let status = proxy.until_status("the seat has a new pool", |s| {
        s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
    });
    for seat in [PRIMARY, STANDBY] {
        let line = |key| status_line(status.pid(seat), key);
        let uids = until("the pool has a uid", || line("Uid"));
        assert!(!uids.split_whitespace().any(|uid| uid == "0"), "{seat}: Uid {uids}");
        assert_eq!(line("NoNewPrivs").as_deref(), Some("1"), "{seat}");
        assert_eq!(line("Groups").as_deref(), Some(""), "{seat}");
        assert_no_capabilities(status.pid(seat));
    }
}

#[track_caller]
fn assert_no_capabilities(pid: i32) {
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status_line(pid, set).as_deref(), Some("0000000000000000"), "{pid}: {set}");
    }
}

/// An ordinary user who was granted what loading the kernel program takes, as by systemd.
#[test]
fn granted_rights_stay_with_the_supervisor() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("chmod");
    let copy = directory.path().join("proxy");
    fs::copy(binary(), &copy).expect("copy");
    let granted = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+bpf,+perfmon",
        "--ambient-caps=+bpf,+perfmon",
    ];
    let socket = directory.path().join("proxy.sock");
    let proxy = tcp_proxy().binary(&copy).through(&granted).control(&socket).start();
    assert_ne!(status_line(proxy.supervisor(), "CapEff").as_deref(), Some("0000000000000000"));
    let twin = proxy.until_status("the twin is there", Status::protected).supervisor.twin_pid;
    let all: Vec<_> = children(proxy.supervisor()).into_iter().filter(|pid| Some(*pid) != twin).collect();
    assert_eq!(all.len(), 3, "both pools and control");
    all.into_iter().for_each(assert_no_capabilities);
}
