//! The supervisor dies or hangs: its twin goes on in its place, and nobody's traffic notices.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, Udp, ask_on, ask_tcp, connect, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{alive, signal};
use proxy_tests::proxy::Proxy;
use proxy_tests::status::Status;
use proxy_tests::takeover::descriptors;
use proxy_tests::wait::{stays_true, until_true};
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(5);

fn proxy() -> Builder {
    let builder =
        Proxy::builder().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080").upstream(SERVER);
    let builder = builder.flag("--workers", "2").flag("--udp-idle", "3s");
    builder.flag("--failback-after", "never")
}

fn both_servers() -> (servers::Tcp, servers::Udp) {
    (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"))
}

/// What is open when the supervisor has its twin.
#[track_caller]
fn baseline(proxy: &Proxy) -> usize {
    proxy.until_status("protected", Status::protected);
    descriptors(proxy)
}

/// Connections and a UDP flow that must not notice anything.
struct Clients {
    streams: Vec<TcpStream>,
    udp: Udp,
    port: String,
}

impl Clients {
    #[track_caller]
    fn begin() -> Self {
        let streams = (0..10).map(|_| connect(at(LISTEN))).collect();
        let udp = udp(at(LISTEN));
        let port = port(&udp);
        let mut clients = Self { streams, udp, port };
        clients.go_on("first");
        clients
    }

    #[track_caller]
    fn go_on(&mut self, word: &str) {
        for stream in &mut self.streams {
            assert_eq!(ask_on(stream, word), Outcome::Answered(format!("A {word}")));
        }
        assert_eq!(port(&self.udp), self.port, "{word}");
    }
}

#[track_caller]
fn port(udp: &Udp) -> String {
    match udp.ask("hello", TIMEOUT) {
        Outcome::Answered(answer) => answer.split(' ').nth(1).expect("a port").to_owned(),
        other => panic!("{other:?}"),
    }
}

/// The supervisor dies of the signal; answers the status with another one in its place.
#[track_caller]
fn succeed(proxy: &Proxy, death: Signal) -> Status {
    let before = proxy.until_status("protected", Status::protected);
    signal(before.supervisor.pid, death);
    succeeded(proxy, &before)
}

#[track_caller]
fn succeeded(proxy: &Proxy, before: &Status) -> Status {
    let after = proxy.until_status("the twin has taken its place", |s| {
        let supervisor = &s.supervisor;
        supervisor.successions > before.supervisor.successions
            && supervisor.up
            && supervisor.twin_pid.is_some()
    });
    assert_eq!(Some(after.supervisor.pid), before.supervisor.twin_pid);
    after
}

#[track_caller]
fn assert_none_lost(proxy: &Proxy) {
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "{}", metrics.show("proxy_lost_flows_total"));
    assert_eq!(metrics.sum("proxy_supervisor_up", &[]), 1.0);
}

/// What is open comes back to what was open at first, and one more: the first supervisor's reader of the
/// kernel program's log keeps its number, for it is below those that flows may have.
#[track_caller]
fn assert_nothing_left(proxy: &Proxy, baseline: usize) {
    until_true("no flow is left", || {
        let metrics = proxy.metrics();
        metrics.sum("proxy_listener_connections", &[]) + metrics.sum("proxy_udp_flows", &[]) == 0.0
    });
    until_true("no descriptor is left", || descriptors(proxy) == baseline + 1);
}

#[track_caller]
fn assert_all_went_on(proxy: &Proxy, clients: Clients, baseline: usize) {
    assert_none_lost(proxy);
    drop(clients);
    assert_nothing_left(proxy, baseline);
}

#[test]
fn a_twin_protects_as_the_first_supervisor_did() {
    isolate();
    let _servers = both_servers();
    let proxy = proxy().flag("--fence-after", "400ms").start();
    let baseline = baseline(&proxy);
    let mut clients = Clients::begin();
    for round in 0..5 {
        let before = proxy.status();
        let after = succeed(&proxy, Signal::SIGKILL);
        assert_eq!(after.supervisor.successions, round + 1);
        for seat in [PRIMARY, STANDBY] {
            assert_eq!(after.pid(seat), before.pid(seat), "pools do not notice");
        }
        assert_eq!(after.control.pid, before.control.pid);
        clients.go_on("the twin is there");

        let seat = after.serving.clone().expect("somebody serves");
        signal(after.pid(&seat), Signal::SIGKILL);
        proxy.until_status("taken over", |s| s.whole() && s.pool(&seat).epoch > after.pool(&seat).epoch);
        clients.go_on("and takes over");
    }
    let metrics = proxy.until_metric("proxy_adopted_flows_total", &[("protocol", "tcp")], 50.0);
    assert_eq!(metrics.sum("proxy_supervisor_successions_total", &[]), 5.0);
    assert_none_lost(&proxy);
    // A worker of a pool that hung is fenced, and orders are obeyed.
    let status = proxy.status();
    let seat = status.serving.clone().expect("somebody serves");
    signal(status.pid(&seat), Signal::SIGSTOP);
    proxy.until_status("fenced", |s| s.whole() && s.pool(&seat).epoch > status.pool(&seat).epoch);
    clients.go_on("fenced");
    proxy.verb(&["failover"]).says(0, &[]);
    proxy.verb(&["failback"]).says(0, &[]);
    proxy.until_status("failed back", |s| s.serves(PRIMARY));
    drop(clients);
    assert_nothing_left(&proxy, baseline);
    let last = proxy.status();
    let all =
        [last.supervisor.pid, last.supervisor.twin_pid.expect("twin"), last.pid(PRIMARY), last.pid(STANDBY)];
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    until_true("all have ended", || !all.iter().any(|pid| alive(*pid)));
    assert!(!proxy.control().exists());
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Refused);
}

/// The supervisor dies at some moment of a takeover: the twin finds what was begun and ends it.
#[test]
fn the_supervisor_dies_while_a_pool_is_taken_over() {
    isolate();
    let _servers = both_servers();
    let proxy = proxy().flag("--fence-after", "400ms").start();
    let baseline = baseline(&proxy);
    let mut clients = Clients::begin();
    let waits_us = [0, 0, 200, 500, 1000, 1500, 2000, 3000, 5000, 8000, 12_000, 15_000];
    for (round, wait_us) in waits_us.into_iter().enumerate() {
        let before = proxy.until_status("protected", Status::protected);
        let seat = if round % 2 == 0 { PRIMARY } else { STANDBY };
        signal(before.pid(seat), Signal::SIGKILL);
        thread::sleep(Duration::from_micros(wait_us));
        signal(before.supervisor.pid, Signal::SIGKILL);
        let after = succeeded(&proxy, &before);
        proxy.until_status("taken over", |s| s.whole() && s.pool(seat).epoch > before.pool(seat).epoch);
        clients.go_on("both died");
        assert!(after.control.pid > 0);
    }
    assert_all_went_on(&proxy, clients, baseline);
}

/// A dead pool's flows wait for an heir that is stopped, a new pool has the seat and its epoch by then, and
/// the supervisor dies: its twin leaves alone what waits.
#[test]
fn the_supervisor_dies_while_flows_wait_for_a_stopped_heir() {
    isolate();
    let _servers = both_servers();
    let proxy = proxy().flag("--lease", "250ms").flag("--fence-after", "2s").start();
    let baseline = baseline(&proxy);
    let mut clients = Clients::begin();
    for _ in 0..2 {
        let before = proxy.until_status("protected", Status::protected);
        let seat = before.serving.as_deref().expect("somebody serves");
        let heir = if seat == PRIMARY { STANDBY } else { PRIMARY };
        // At once, or the heir is known to be silent, and the seat's next pool becomes the heir.
        signal(before.pid(heir), Signal::SIGSTOP);
        signal(before.pid(seat), Signal::SIGKILL);
        proxy.until_status("a new pool serves", |s| {
            s.ready(seat) && s.pool(seat).epoch > before.pool(seat).epoch
        });
        signal(before.supervisor.pid, Signal::SIGKILL);
        succeeded(&proxy, &before);
        signal(before.pid(heir), Signal::SIGCONT);
        let after = proxy.until_status("protected again", Status::protected);
        assert_eq!(after.pid(heir), before.pid(heir), "it was only stopped");
        clients.go_on("waited for");
    }
    assert_all_went_on(&proxy, clients, baseline);
}

#[test]
fn a_hung_supervisor_is_killed_by_its_twin() {
    isolate();
    let _servers = both_servers();
    let proxy = proxy().flag("--fence-after", "400ms").start();
    let mut clients = Clients::begin();
    let before = proxy.until_status("protected", Status::protected);
    signal(before.supervisor.pid, Signal::SIGSTOP);
    proxy.until_status("it is told that nobody protects", |s| !s.supervisor.up);
    clients.go_on("nobody protects");
    succeeded(&proxy, &before);
    clients.go_on("somebody protects");
    assert_none_lost(&proxy);
}

#[test]
fn a_killed_twin_is_replaced_and_draining_goes_on_under_the_next_supervisor() {
    isolate();
    let _tcp = servers::Tcp::lines(SERVER, "A");
    let proxy = proxy().flag("--fence-after", "400ms").start();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());
    let before = proxy.until_status("protected", Status::protected);
    signal(before.supervisor.twin_pid.expect("twin"), Signal::SIGKILL);
    let after = proxy.until_status("another twin", |s| {
        s.protected() && s.supervisor.twin_pid != before.supervisor.twin_pid
    });
    assert_eq!((after.supervisor.pid, after.supervisor.successions), (before.supervisor.pid, 0));

    let stop = proxy.verb_command(&["stop"]).spawn().expect("start proxy stop");
    let mut stop = proxy_tests::process::Guard(stop);
    proxy.until_status("draining", |s| s.draining == "draining");
    // As if the whole group were told to end: to the twin it must not look like a second order.
    let twin = proxy.until_status("protected", Status::protected).supervisor.twin_pid;
    signal(twin.expect("twin"), Signal::SIGTERM);
    let heir = succeed(&proxy, Signal::SIGKILL);
    assert_eq!(heir.draining, "draining");
    assert!(!proxy.log().contains("cannot be refused"), "{}", proxy.log());
    assert_eq!(ask_tcp(at(LISTEN), "new", TIMEOUT), Outcome::Refused);
    assert!(ask_on(&mut stream, "old").answered());
    drop(stream);
    until_true("it ends when the last connection has", || !alive(heir.supervisor.pid));
    let ended = proxy_tests::process::wait_for(&mut stop.0, TIMEOUT);
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

/// Without a supervisor pools serve on, and control says what is lost; it goes with the last pool.
#[test]
fn pools_serve_on_without_a_supervisor_and_a_twin() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = proxy().flag("--lease", "100ms").start();
    let status = proxy.until_status("protected", Status::protected);
    let all = [status.pid(PRIMARY), status.pid(STANDBY), status.control.pid];
    // Stopped, it cannot replace the twin.
    signal(status.supervisor.pid, Signal::SIGSTOP);
    signal(status.supervisor.twin_pid.expect("twin"), Signal::SIGKILL);
    signal(status.supervisor.pid, Signal::SIGKILL);
    assert_eq!(proxy.wait_end().code(), None);
    // Long enough for a lease that somebody else would have to renew to run out.
    stays_true("answers go on", Duration::from_millis(300), || {
        ask_tcp(at(LISTEN), "hello", TIMEOUT) == Outcome::Answered("A hello".into())
    });
    until_true("control says so", || proxy.metrics().sum("proxy_supervisor_up", &[]) == 0.0);
    let metrics = proxy.metrics();
    assert!(metrics.sum("proxy_worker_accepted_total", &[]) > 0.0);
    all[..2].iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
    until_true("control ends with the last pool", || !all.iter().any(|pid| alive(*pid)));
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Refused);
}
