//! Limits of servers, and connections that wait.

use std::io::{BufRead as _, BufReader, Result, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use proxy_tests::clients::{Outcome, ask_tcp, connect, udp};
use proxy_tests::handover::reload;
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::settings::File;
use proxy_tests::wait::until_true;

use super::*;

const WAITING: &str = "proxy_listener_connections_waiting";
const WAITED: &str = "proxy_listener_connections_waited_total";
const DROPPED: &str = "proxy_udp_datagrams_dropped_total";
const REJECTED: &str = "proxy_listener_connections_rejected_total";

/// A server that answers a line of each connection when it may, and counts how many are open at once.
struct Desk {
    server: servers::Tcp,
    open: Arc<Mutex<Open>>,
    may_answer: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Default)]
struct Open {
    streams: Vec<TcpStream>,
    most: usize,
}

impl Open {
    fn add(&mut self, stream: TcpStream) {
        self.streams.push(stream);
        // What has ended by now had ended before this one began.
        self.streams.retain(|stream| !has_ended(stream));
        self.most = self.most.max(self.streams.len());
    }
}

fn has_ended(stream: &TcpStream) -> bool {
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !matches!(recv(stream.as_raw_fd(), &mut [0], peek), Ok(1) | Err(Errno::EAGAIN))
}

impl Desk {
    #[track_caller]
    fn open(address: &str) -> Self {
        let open = Arc::<Mutex<Open>>::default();
        let may_answer = Arc::<(Mutex<bool>, Condvar)>::default();
        let (counted, allowed) = (Arc::clone(&open), Arc::clone(&may_answer));
        let server = servers::Tcp::start(address, move |stream| {
            counted.lock().expect("lock").add(stream.try_clone()?);
            serve(stream, &allowed)
        });
        Self { server, open, may_answer }
    }

    fn answer(&self) {
        *self.may_answer.0.lock().expect("lock") = true;
        self.may_answer.1.notify_all();
    }

    fn most(&self) -> usize {
        self.open.lock().expect("lock").most
    }
}

fn serve(stream: TcpStream, may_answer: &(Mutex<bool>, Condvar)) -> Result<()> {
    let mut to = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let answer = may_answer.0.lock().expect("lock");
    let wait = may_answer.1.wait_timeout_while(answer, TIMEOUT, |may| !*may);
    drop(wait.expect("lock"));
    to.write_all(line.as_bytes())?;
    // Until the client has had enough. (To drop it is no end: it is among those that are counted.)
    std::io::copy(&mut from, &mut std::io::sink())?;
    to.shutdown(Shutdown::Both)
}

/// So many clients ask, each for itself.
fn ask_at_once(clients: usize) -> Vec<JoinHandle<Outcome>> {
    let ask = |number: usize| move || ask_tcp(at(LISTEN), &number.to_string(), TIMEOUT);
    (0..clients).map(|number| thread::spawn(ask(number))).collect()
}

#[track_caller]
fn assert_answered(clients: Vec<JoinHandle<Outcome>>) {
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().expect("a client"), Outcome::Answered(number.to_string()));
    }
}

#[track_caller]
fn until_waiting(proxy: &Proxy, count: f64) {
    until_true(&format!("{count} wait"), || proxy.metrics().sum(WAITING, &[]) == count);
}

/// A connection that has its place, or waits, and has said nothing.
#[track_caller]
fn silent(proxy: &Proxy, waiting: f64) -> TcpStream {
    let stream = connect(at(LISTEN));
    until_waiting(proxy, waiting);
    stream
}

#[test]
fn a_server_never_has_more_than_its_limit_and_all_are_served() {
    isolate();
    let desk = Desk::open(A);
    let proxy = with("queue_timeout = \"60s\"", &[(A, "max_connections = 2")]).flag("--workers", "2").start();
    let clients = ask_at_once(20);
    until_waiting(&proxy, 18.0);
    assert_eq!(proxy.status().listeners[0].waiting, 18);
    proxy.verb(&["status"]).says(0, &["waiting"]);
    desk.answer();
    assert_answered(clients);
    assert_eq!((desk.server.accepted(), desk.most()), (20, 2));
    let metrics = proxy.metrics();
    assert!(metrics.sum(WAITED, &[]) >= 18.0, "{}", metrics.show(WAITED));
    assert_eq!(metrics.sum(REJECTED, &[]), 0.0, "{}", metrics.show(REJECTED));
    until_waiting(&proxy, 0.0);
}

/// A server that was passed over is tried again, by one who waits, and fails at once: it goes on waiting for the other.
#[test]
fn who_waits_goes_on_waiting_when_a_server_fails_at_once() {
    isolate();
    let desk = Desk::open(A);
    desk.answer();
    let nobody = "unix:///nobody/is/here";
    let upstream = "balance = \"round-robin\"\nqueue_timeout = \"60s\"\neject = { time = \"1s\" }";
    let proxy = with(upstream, &[(A, "max_connections = 1"), (nobody, "")]).flag("--workers", "1").start();
    let first = connect(at(LISTEN));
    until_true("the one place is taken", || desk.server.accepted() == 1);
    let failures =
        || proxy.metrics().sum("proxy_upstream_server_connect_failures_total", &[("server", nobody)]);
    // One finds out about the other server, which is passed over for the next one, and leaves.
    drop(silent(&proxy, 1.0));
    until_waiting(&proxy, 0.0);
    let before = failures();
    assert!(before > 0.0);
    let clients = ask_at_once(1);
    until_waiting(&proxy, 1.0);
    until_true("the other one is tried again", || failures() > before);
    until_waiting(&proxy, 1.0);
    drop(first);
    assert_answered(clients);
}

/// Without a queue, all places may still be had.
#[test]
fn who_may_not_wait_is_refused_at_once() {
    isolate();
    let desk = Desk::open(A);
    let proxy = with("", &[(A, "max_connections = 2")]).start();
    let open: Vec<_> = (0..2).map(|_| connect(at(LISTEN))).collect();
    until_true("both are served", || desk.server.accepted() == 2);
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Reset);
    proxy.until_metric(REJECTED, &[("reason", "servers_full")], 1.0);
    desk.answer();
    drop(open);
    until_true("there is room again", || ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
    assert_eq!((desk.most(), proxy.metrics().sum(WAITED, &[])), (2, 0.0));
}

/// Flows do not wait.
#[test]
fn a_server_has_so_many_flows_through_deaths_hangs_and_reloads() {
    isolate();
    let server = servers::Udp::naming(A, "A");
    let text = settings("", &[(A, "max_connections = 2")]).replace("tcp://", "udp://");
    let text = text.replace("[upstream.u]", "udp_idle = \"1h\"\n[upstream.u]");
    let builder = Proxy::builder().settings(&text).flag("--lease", "400ms").flag("--fence-after", "1s");
    let proxy = builder.flag("--failback-after", "never").start();
    let clients: Vec<_> = (0..2).map(|_| udp(at(LISTEN))).collect();
    let assert_full = |what: &str| {
        for client in &clients {
            let outcome = client.ask("hello", TIMEOUT);
            assert!(outcome.answered(), "{what}: {outcome:?}");
        }
        let dropped = || proxy.metrics().sum(DROPPED, &[("reason", "servers_full")]);
        let before = dropped();
        udp(at(LISTEN)).0.send(b"hello").expect("send");
        until_true(what, || dropped() > before);
        assert_eq!(server.seen().peers.len(), 2, "{what}");
    };
    assert_full("at first");
    for upheaval in Upheaval::ALL {
        upheaval.strike(&proxy);
        assert_full(&format!("{upheaval:?}"));
    }
    proxy.verb(&["sessions", "close", "--server", A]).says(0, &[]);
    until_true("there is room again", || udp(at(LISTEN)).ask("hello", TIMEOUT).answered());
}

#[test]
fn a_backup_takes_what_is_too_much() {
    isolate();
    let (desk, backup) = (Desk::open(A), servers::Tcp::lines(B, "B"));
    let _proxy = with("", &[(A, "max_connections = 1"), (B, "backup = true")]).start();
    let _open = connect(at(LISTEN));
    until_true("it is served", || desk.server.accepted() == 1);
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Answered("B hello".into()));
    assert_eq!((desk.most(), backup.accepted()), (1, 1));
}

#[test]
fn nobody_waits_for_longer_than_the_limit() {
    isolate();
    let desk = Desk::open(A);
    let proxy = with("queue_timeout = \"300ms\"", &[(A, "max_connections = 1")]).start();
    let _open = connect(at(LISTEN));
    until_true("it is served", || desk.server.accepted() == 1);
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Reset);
    let metrics = proxy.until_metric(REJECTED, &[("reason", "queue_timeout")], 1.0);
    assert_eq!(metrics.sum(WAITED, &[]), 1.0);
    until_waiting(&proxy, 0.0);
}

/// Who has gone, by an end without a word or by a reset, is not served; who has said something is.
#[test]
fn who_goes_away_leaves_the_queue() {
    isolate();
    let desk = Desk::open(A);
    let proxy = with("queue_timeout = \"60s\"", &[(A, "max_connections = 1")]).start();
    let first = silent(&proxy, 0.0);
    until_true("it is served", || desk.server.accepted() == 1);
    let (ends, resets, mut asks) = (silent(&proxy, 1.0), silent(&proxy, 2.0), silent(&proxy, 3.0));
    drop(ends);
    servers::reset(resets).expect("reset");
    until_waiting(&proxy, 1.0);
    asks.write_all(b"hello\n").expect("write");
    asks.shutdown(Shutdown::Write).expect("shutdown");
    desk.answer();
    drop(first);
    let mut answer = String::new();
    BufReader::new(asks).read_line(&mut answer).expect("an answer");
    assert_eq!((answer.as_str(), desk.server.accepted()), ("hello\n", 2));
}

#[test]
fn who_waits_goes_on_waiting_through_deaths_hangs_and_reloads() {
    for upheaval in Upheaval::ALL {
        isolate();
        let desk = Desk::open(A);
        let upstream = "queue_timeout = \"60s\"";
        let proxy = with(upstream, &[(A, "max_connections = 2")]).flag("--workers", "2").start();
        let clients = ask_at_once(8);
        until_waiting(&proxy, 6.0);
        upheaval.strike(&proxy);
        until_waiting(&proxy, 6.0);
        let more = ask_at_once(3);
        until_waiting(&proxy, 9.0);
        desk.answer();
        assert_answered(clients);
        assert_answered(more);
        assert_eq!((desk.server.accepted(), desk.most()), (11, 2), "{upheaval:?}");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum(REJECTED, &[]), 0.0, "{}", metrics.show(REJECTED));
        assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0);
    }
}

/// Servers keep their limits, and upstreams their rules, for what has come in before the settings had them no more.
#[test]
fn who_waits_for_an_upstream_that_is_gone_waits_as_before() {
    isolate();
    let desk = Desk::open(A);
    let file = File::new(&settings("queue_timeout = \"60s\"", &[(A, "max_connections = 1")]));
    let proxy = file.builder().flag("--workers", "2").flag("--lease", "400ms").start();
    let clients = ask_at_once(4);
    until_waiting(&proxy, 3.0);
    file.write(
        &settings("", &[(B, "")])
            .replace(LISTEN, "127.0.0.1:8081")
            .replace("\"u\"", "\"v\"")
            .replace(".u", ".v"),
    );
    for _ in 0..2 {
        reload(&proxy);
        until_waiting(&proxy, 3.0);
    }
    desk.answer();
    assert_answered(clients);
    assert_eq!((desk.server.accepted(), desk.most()), (4, 1));
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum(REJECTED, &[]), 0.0, "{}", metrics.show(REJECTED));
}

/// A name without an address may still get one, for as long as a connect may take.
#[test]
fn who_comes_before_the_first_address_waits_for_it() {
    isolate();
    let proxy = with("connect_timeout = \"300ms\"", &[("nowhere.invalid:1", "")]).start();
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Reset);
    let metrics = proxy.until_metric(REJECTED, &[("reason", "upstream")], 1.0);
    assert_eq!(metrics.sum(WAITED, &[]), 1.0);
}
