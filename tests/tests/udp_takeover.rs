//! A UDP flow's server sees one source port for the life of the flow, whichever worker of whichever pool
//! gets its datagrams: while pools hang and die, one after the other and at once, while traffic is moved by
//! order, and while single workers are passed by.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proxy::table::Kind;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, Udp, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{signal, status_line};
use proxy_tests::proxy::Proxy;
use proxy_tests::status::Status;
use proxy_tests::table::FlowTable;
use proxy_tests::takeover::{assert_adopted, descriptors, take_over, wait_taken_over};
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
/// What an answer may take on a busy machine while the fence is at 60 s: it came without a kill, after a lease.
const UNFENCED: Duration = Duration::from_secs(10);
const FOREIGN: &str = "proxy_udp_foreign_datagrams_total";
const ADOPTED: [(&str, &str); 1] = [("protocol", "udp")];
const DEATHS: [Signal; 2] = [Signal::SIGKILL, Signal::SIGSTOP];

fn udp_proxy() -> Builder {
    calm_udp_proxy().flag("--lease", "250ms")
}

/// With a lease that does not end on a busy machine: for tests that say which pool owns which flow.
fn calm_udp_proxy() -> Builder {
    let builder = Proxy::builder().listen("udp://127.0.0.1:8080").upstream(SERVER).flag("--workers", "2");
    builder.flag("--failback-after", "never")
}

/// A client, its server, and the port that the server sees.
struct Flow {
    client: Udp,
    seen: String,
}

impl Flow {
    #[track_caller]
    fn begin() -> Self {
        let client = udp(at(LISTEN));
        let seen = ask(&client, "begin");
        Self { client, seen }
    }

    #[track_caller]
    fn begin_some(count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::begin()).collect()
    }

    /// Asks again; the server sees the same port. Answers how long it took.
    #[track_caller]
    fn goes_on(&self, what: &str) -> Duration {
        let began = Instant::now();
        assert_eq!(ask(&self.client, what), self.seen, "{what}");
        began.elapsed()
    }
}

#[track_caller]
fn all_go_on(flows: &[Flow], what: &str) {
    for flow in flows {
        flow.goes_on(what);
    }
}

/// Server and port from the answer of [`servers::Udp::naming`]. A dying pool may have the datagram in hand, and
/// take it along: then once more.
#[track_caller]
fn ask(client: &Udp, text: &str) -> String {
    for _ in 0..5 {
        if let Outcome::Answered(answer) = client.ask(text, Duration::from_secs(2)) {
            return answer.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
        }
    }
    panic!("{text}: no answer");
}

/// So many flows were begun in all, and all that ended has ended well.
#[track_caller]
fn assert_begun(proxy: &Proxy, flows: usize) {
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_udp_flows_total", &[]), flows as f64);
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0);
}

fn foreign(proxy: &Proxy) -> f64 {
    proxy.metrics().sum(FOREIGN, &[])
}

/// The queues of workers that are awake again stay lent for a lease.
#[track_caller]
fn until_served_by_owners(proxy: &Proxy, flows: &[Flow]) {
    until_true("the owners serve their flows themselves", || {
        let before = foreign(proxy);
        all_go_on(flows, "awake");
        foreign(proxy) == before
    });
}

#[test]
fn a_stopped_pools_flows_are_served_by_the_other_within_a_lease() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().flag("--fence-after", "60s").start();
    let flows = Flow::begin_some(10);
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let waits: Vec<_> = thread::scope(|scope| {
        let ask = |flow| scope.spawn(move || Flow::goes_on(flow, "stopped"));
        let asking: Vec<_> = flows.iter().map(ask).collect();
        asking.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    assert!(waits.iter().all(|wait| *wait < UNFENCED), "{waits:?}");
    // The lease has run out.
    all_go_on(&flows, "still stopped");
    assert!(foreign(&proxy) >= 20.0);
    assert_eq!(proxy.pid(PRIMARY), primary);
    assert!(status_line(primary, "State").is_some_and(|state| state.contains('T')), "it is stopped");
    signal(primary, Signal::SIGCONT);
    proxy.until_status("the primary serves", |s| s.whole() && s.serves(PRIMARY));
    until_served_by_owners(&proxy, &flows);
    assert_eq!((proxy.pid(PRIMARY), server.seen().peers.len()), (primary, 10));
    assert_begun(&proxy, 10);
}

#[test]
fn killed_or_fenced() {
    for death in DEATHS {
        isolate();
        let server = servers::Udp::naming(SERVER, "A");
        let proxy = udp_proxy().flag("--fence-after", "700ms").start();
        let flows = Flow::begin_some(10);
        for seat in [PRIMARY, STANDBY] {
            let before = proxy.until_status("whole", Status::whole);
            signal(before.pid(seat), death);
            let is_replaced = |s: &Status| s.whole() && s.pool(seat).epoch > before.pool(seat).epoch;
            until_true("there is a new pool", || {
                all_go_on(&flows, "meanwhile");
                is_replaced(&proxy.status())
            });
            wait_taken_over(&proxy, seat, &before);
            all_go_on(&flows, "after");
        }
        assert_adopted(&proxy, &ADOPTED, 20.0);
        assert_eq!(server.seen().peers.len(), 10, "{death}");
        assert_begun(&proxy, 10);
    }
}

/// One of two workers of the primary sleeps for 3 s: the other one gets its clients.
#[test]
fn a_blocked_workers_flows_are_served_by_the_next_one() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let builder = udp_proxy().env("PROXY_TEST_HOOKS", "1");
    let proxy = builder.flag("--fence-after", "60s").start();
    let table = FlowTable::of(&proxy, [2, 1, 1]);
    let mut flows = Flow::begin_some(10);
    // The kernel's hash may have chosen worker 1 for all of them.
    while !table.all(Kind::UdpFlow).iter().any(|fd| table.record(*fd).worker() == 0) {
        flows.push(Flow::begin());
    }
    let primary = proxy.pid(PRIMARY);
    proxy.block_worker(PRIMARY, 0);
    let waits: Vec<_> = flows.iter().map(|flow| flow.goes_on("blocked")).collect();
    assert!(waits.iter().all(|wait| *wait < UNFENCED), "{waits:?}");
    let passed_by = [("pool", PRIMARY), ("reason", "worker_expired")];
    until_true("clients of the blocked worker were served", || {
        all_go_on(&flows, "still blocked");
        foreign(&proxy) >= 10.0
    });
    let metrics = proxy.until_metric("proxy_steering_verdicts_total", &passed_by, 10.0);
    assert_eq!(metrics.sum("proxy_takeovers_total", &[]), 0.0);
    proxy.until_status("it is awake", Status::whole);
    until_served_by_owners(&proxy, &flows);
    assert_eq!((proxy.pid(PRIMARY), server.seen().peers.len()), (primary, flows.len()));
    assert_begun(&proxy, flows.len());
}

#[test]
fn failover_and_failback_by_order() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = calm_udp_proxy().start();
    let mut flows = Flow::begin_some(10);
    for (round, (verb, seat)) in [("failover", STANDBY), ("failback", PRIMARY)].repeat(2).iter().enumerate() {
        proxy.verb(&[verb]).says(0, &[]);
        proxy.until_status("traffic has moved", |s| s.serves(seat));
        flows.extend(Flow::begin_some(5));
        let before = foreign(&proxy);
        all_go_on(&flows, verb);
        assert!(foreign(&proxy) - before >= 5.0, "in round {round}");
    }
    proxy.until_status("both have some", |s| {
        (s.pool(PRIMARY).udp_flows, s.pool(STANDBY).udp_flows) == (20, 10)
    });
    // And what one pool owns and the other sends for is adopted all the same.
    take_over(&proxy, STANDBY, Signal::SIGKILL);
    all_go_on(&flows, "the standby is dead");
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    all_go_on(&flows, "both have died");
    assert_adopted(&proxy, &ADOPTED, 40.0);
    assert_eq!(server.seen().peers.len(), 30);
    assert_begun(&proxy, 30);
}

#[test]
fn both_pools_at_once_and_one_after_the_other() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().start();
    let mut flows = Flow::begin_some(10);
    proxy.verb(&["failover"]).says(0, &[]);
    proxy.until_status("traffic has moved", |s| s.serves(STANDBY));
    flows.extend(Flow::begin_some(10));
    for wait_ms in [0, 0, 1, 2, 5, 10, 15, 20] {
        let before = proxy.until_status("whole", Status::whole);
        signal(before.pid(PRIMARY), Signal::SIGKILL);
        thread::sleep(Duration::from_millis(wait_ms));
        signal(before.pid(STANDBY), Signal::SIGKILL);
        // Also while nobody has adopted them yet.
        all_go_on(&flows, "both are dead");
        wait_taken_over(&proxy, PRIMARY, &before);
        wait_taken_over(&proxy, STANDBY, &before);
        all_go_on(&flows, "both are new");
    }
    assert_adopted(&proxy, &ADOPTED, 160.0);
    assert_eq!(server.seen().peers.len(), 20);
    assert_begun(&proxy, 20);
}

#[test]
fn twenty_takeovers_in_a_row() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().flag("--udp-idle", "15s").start();
    let baseline = descriptors(&proxy);
    let flows = Flow::begin_some(10);
    for round in 0..20 {
        take_over(&proxy, [PRIMARY, STANDBY][round % 2], Signal::SIGKILL);
        all_go_on(&flows, "again");
    }
    assert_adopted(&proxy, &ADOPTED, 200.0);
    assert_eq!(server.seen().peers.len(), 10);
    assert_begun(&proxy, 10);
    until_true("no more than its flows is open", || descriptors(&proxy) == baseline + 10);
}

/// The owner ends what is idle, and what another worker uses is not.
#[test]
fn flows_that_others_use_expire_and_leave_nothing() {
    const IDLE: Duration = Duration::from_secs(2);
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().flag("--udp-idle", "2s").start();
    let baseline = descriptors(&proxy);
    let flows = Flow::begin_some(10);
    proxy.verb(&["failover"]).says(0, &[]);
    proxy.until_status("traffic has moved", |s| s.serves(STANDBY));
    let began = Instant::now();
    while began.elapsed() < IDLE * 2 {
        all_go_on(&flows, "used by the other pool");
        thread::sleep(IDLE / 10);
    }
    assert!(foreign(&proxy) >= 40.0);
    assert_begun(&proxy, 10);
    let gauges = ["proxy_udp_flows", "proxy_pool_udp_flows", "proxy_upstream_server_connections"];
    until_true("the gauges are at 0", || {
        let metrics = proxy.metrics();
        gauges.iter().all(|name| metrics.sum(name, &[]) == 0.0)
    });
    until_true("the descriptors are those of the beginning", || descriptors(&proxy) == baseline);
}

#[test]
fn a_refusal_that_another_pool_sees_leads_to_another_server() {
    isolate();
    let first = servers::Udp::naming(SERVER, "A");
    let _second = servers::Udp::naming("127.0.0.1:9002", "B");
    let proxy = calm_udp_proxy().upstream("127.0.0.1:9002").start();
    let flows = Flow::begin_some(12);
    let of = |name: char| flows.iter().filter(move |flow| flow.seen.starts_with(name));
    assert!(of('A').count() > 0 && of('B').count() > 0);
    proxy.verb(&["failover"]).says(0, &[]);
    proxy.until_status("traffic has moved", |s| s.serves(STANDBY));
    drop(first);
    until_true("nobody is at its port", || UdpSocket::bind(SERVER).is_ok());
    for flow in of('A') {
        until_true("the other server answers", || ask(&flow.client, "refused").starts_with('B'));
    }
    for flow in of('B') {
        flow.goes_on("not concerned");
    }
    assert!(foreign(&proxy) >= 12.0);
    proxy.until_status("the owner has ended what failed", |s| {
        let flows = (s.pool(PRIMARY).udp_flows, s.pool(STANDBY).udp_flows);
        flows == (of('B').count() as u64, of('A').count() as u64)
    });
    assert_eq!(proxy.metrics().sum("proxy_lost_flows_total", &[]), 0.0);
}
