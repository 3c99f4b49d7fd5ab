//! The crash matrix: a pool dies between any two steps whose order a takeover relies on, in either seat,
//! and nothing is lost. Each case sees in the log that the pool died at the point it names, and the last
//! test that no point is left out.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proxy_tests::access_log::AccessLog;
use proxy_tests::clients::{self, Outcome, Udp, carries, connect, udp};
use proxy_tests::metrics::Metrics;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE, read_all, reset};
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, faulty, pattern};
use socket2::{Domain, SockRef, Socket, Type};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
/// Nobody listens here.
const NOBODY: &str = "127.0.0.1:9002";
/// Connections to this one take a while.
const SLOW: &str = "127.0.0.1:9003";
/// More than a half moves in one turn and a pipe is filled with, so that there are several fills.
const SOME: usize = 2 << 20;
/// What fills the windows and buffers of both sides of the proxy and its pipe.
const PLENTY: usize = 16 << 20;
/// More than all windows and buffers can grow to.
const ENDLESS: usize = 1 << 32;
/// What fits into the buffers of sockets whose peer does not read.
const LITTLE: usize = 24 << 10;
/// Twice what a worker's buffer takes, so that the half of it is spliced.
const BULK: usize = 32 << 10;
/// Less than a worker's buffer takes, and so small that it is copied.
const MORSEL: usize = 12 << 10;
/// Pipes that a worker starts with (`limits::PIPE_STOCK`).
const STOCK: f64 = 32.0;
/// Environment variable: runs only the cases whose faults contain this.
const ONLY: &str = "MATRIX_ONLY";
/// Cases at a time: they wait more than they work.
const AT_ONCE: usize = 8;

type Scenario = fn(&World);
type Servers = &'static [&'static str];

const ONE: Servers = &[SERVER];
const WITH_ONE_THAT_REFUSES: Servers = &[SERVER, NOBODY];
const SLOW_ONE: Servers = &[SLOW];
/// The one, by settings that say that PROXY headers are taken and sent.
const ONE_WITH_HEADERS: Servers = &[];
const WITH_HEADERS: &str = r#"
    [[listener]]
    name = "default"
    bind = ["tcp://127.0.0.1:8080"]
    upstream = "default"
    accept_proxy = { from = ["127.0.0.1"], timeout = "1m" }
    [upstream.default]
    send_proxy = "v1"
    [[upstream.default.server]]
    address = "127.0.0.1:9001"
"#;
/// A server's other settings come after its address.
const ONE_AT_A_TIME: Servers = &["127.0.0.1:9001 max_connections = 1"];

/// What dies where, and what goes on meanwhile. A is the seat that carries, B the other one: what is to
/// be seen of `A:fill.filled:2` is in proxy/src/fault.rs.
const MATRIX: &[(&str, Servers, Scenario)] = &[
    ("A:accept.taken:1", ONE, life),
    ("A:accept.recorded:1", ONE, life),
    ("A:accept.tagged:1", ONE, life),
    ("A:accept.added:1", ONE, life),
    ("A:accept.counted:1", ONE, life),
    ("A:accept.admitted:1", ONE, life),
    ("A:queue.entered:1", ONE_AT_A_TIME, queued),
    ("A:queue.left:1", ONE_AT_A_TIME, queued),
    ("A:queue.entered:1,B:queue.left:1", ONE_AT_A_TIME, queued),
    ("A:connect.chosen:1", ONE, life),
    ("A:connect.opened:1", ONE, life),
    ("A:connect.recorded:1", ONE, life),
    ("A:connect.tagged:1", ONE, life),
    ("A:connect.begun:1", ONE, life),
    ("A:connect.called:1", ONE, life),
    ("A:connect.added:1", ONE, life),
    ("A:connect.established:1", ONE, life),
    ("A:connect.failed:1", WITH_ONE_THAT_REFUSES, lives),
    ("A:connect.forgotten:1", WITH_ONE_THAT_REFUSES, lives),
    ("A:header.due:1", ONE_WITH_HEADERS, told),
    ("A:header.told:1", ONE_WITH_HEADERS, told),
    ("A:header.taken:1", ONE_WITH_HEADERS, told),
    ("A:header.sent:1", ONE_WITH_HEADERS, told),
    ("A:connect.called:1", ONE_WITH_HEADERS, told),
    ("A:connect.established:1", ONE_WITH_HEADERS, told),
    ("A:fill.filled:1", ONE_WITH_HEADERS, told),
    ("A:header.due:1,B:header.told:1", ONE_WITH_HEADERS, told),
    ("A:header.told:1,B:header.taken:1", ONE_WITH_HEADERS, told),
    ("A:header.taken:1,B:accept.admitted:1", ONE_WITH_HEADERS, told),
    ("A:connect.added:1,B:header.sent:1", ONE_WITH_HEADERS, told),
    ("A:event.told:1", ONE, life),
    ("A:event.told:2", ONE, life),
    ("A:event.told:3", ONE, life),
    ("A:fill.lent:1", ONE, life),
    ("A:fill.lent:2", ONE, life),
    ("A:fill.held:1", ONE, life),
    ("A:fill.held:3", ONE, life),
    ("A:fill.filled:1", ONE, life),
    ("A:fill.filled:4", ONE, life),
    ("A:copy.held:1", ONE, life),
    ("A:copy.held:2", ONE, life),
    ("A:copy.filled:1", ONE, life),
    ("A:copy.filled:2", ONE, life),
    ("A:copy.filled:1", ONE, last_words),
    ("A:copy.filled:1", ONE_WITH_HEADERS, told),
    ("A:copy.noted:1", ONE, life),
    ("A:copy.noted:2", ONE, last_words),
    ("A:copy.noted:1", ONE_WITH_HEADERS, told),
    ("A:copy.all:1", ONE, life),
    ("A:copy.all:1", ONE, last_words),
    ("A:copy.part:1", ONE, trickle),
    ("A:copy.poured:1", ONE, trickle),
    ("A:copy.piped:1", ONE, trickle),
    ("A:copy.part:1,B:copy.poured:1", ONE, trickle),
    ("A:copy.part:1,B:copy.piped:1", ONE, trickle),
    ("A:copy.filled:1,B:copy.picked:1", ONE, life),
    ("A:copy.noted:1,B:copy.picked:1", ONE, life),
    ("A:copy.noted:1,B:copy.picked:1", ONE, last_words),
    ("A:copy.noted:1,B:adopt.unaudited:1", ONE, life),
    ("A:copy.filled:1,B:adopt.holders:1", ONE, life),
    ("A:copy.all:1,B:adopt.holders:1", ONE, life),
    ("A:copy.filled:2", ONE, urgent),
    ("A:urgent.written:1", SLOW_ONE, urgent_in_bulk),
    ("A:urgent.taken:1", SLOW_ONE, urgent_in_bulk),
    ("A:drain.part:1", ONE, slow_readers),
    ("A:drain.part:2", ONE, slow_readers),
    ("A:pause.marked:1", ONE, stop_and_go),
    ("A:pause.begun:1", ONE, stop_and_go),
    ("A:pause.ended:1", ONE, stop_and_go),
    ("A:drain.all:1", ONE, life),
    ("A:drain.all:3", ONE, life),
    ("A:copy.all:2", ONE, last_answer),
    ("A:end.flagged:2", ONE, last_answer),
    ("A:end.passed:2", ONE, last_answer),
    ("A:end.both:1", ONE, last_answer),
    ("A:close.begun:1", ONE, last_answer),
    ("A:close.forgotten:1", ONE, last_answer),
    ("A:close.freed:1", ONE, last_answer),
    ("A:close.tagged:2", ONE, last_answer),
    ("A:close.closed:2", ONE, last_answer),
    ("A:end.flagged:2,B:close.freed:1", ONE, last_answer),
    ("A:end.flagged:2,B:close.tagged:2", ONE, last_answer),
    ("A:end.flagged:2,B:close.tagged:2", ONE, no_words),
    ("A:drain.forgotten:1", ONE, life),
    ("A:drain.forgotten:3", ONE, life),
    ("A:end.seen:1", ONE, last_words),
    ("A:end.seen:2", ONE, last_words),
    ("A:end.seen:2", ONE, life),
    ("A:end.flagged:1", ONE, last_words),
    ("A:end.flagged:2", ONE, last_words),
    ("A:end.passed:1", ONE, last_words),
    ("A:end.passed:2", ONE, last_words),
    ("A:end.both:1", ONE, last_words),
    ("A:close.begun:1", ONE, last_words),
    ("A:log.pushed:1", ONE, last_words),
    ("A:log.pushed:1", ONE, reset_by_client),
    ("A:log.pushed:1", ONE, a_flow_that_ends),
    ("A:log.pushed:1,B:log.pushed:1", ONE, resets),
    ("A:log.pushed:1,B:places.kept:1", ONE, resets),
    ("A:close.forgotten:1", ONE, last_words),
    ("A:close.tagged:1", ONE, last_words),
    ("A:close.tagged:2", ONE, last_words),
    ("A:close.closed:1", ONE, last_words),
    ("A:close.closed:2", ONE, last_words),
    ("A:close.freed:1", ONE, last_words),
    ("A:reset.seen:1", ONE, reset_by_client),
    ("A:reset.flagged:1", ONE, reset_by_client),
    ("A:reset.upstream:1", ONE, reset_by_client),
    ("A:reset.client:1", ONE, reset_by_client),
    ("A:reset.seen:1", ONE, reset_by_server),
    ("A:reset.flagged:1", ONE, reset_by_server),
    ("A:reset.upstream:1", ONE, reset_by_server),
    ("A:reset.client:1", ONE, reset_by_server),
    ("A:reset.seen:1", ONE, reset_after_an_end),
    ("A:close.unheld:1", ONE, reset_with_bytes_in_flight),
    ("A:close.begun:1", ONE, reset_with_bytes_in_flight),
    ("A:event.told:1,B:move.added:1:stop", ONE, at_once),
    ("A:copy.held:2,B:move.added:1:stop", ONE, at_once),
    ("A:end.seen:1,B:move.added:1:stop", ONE, end_at_once),
    ("A:connect.established:1,B:move.added:1:stop", SLOW_ONE, at_once_from_a_slow_server),
    ("A:end.seen:1,B:move.added:1:stop", SLOW_ONE, at_once_from_a_slow_server),
    ("A:fill.filled:2,B:adopt.begun:1", ONE, life),
    ("A:fill.filled:2,B:adopt.holders:1", ONE, life),
    ("A:fill.filled:2,B:adopt.upstream:1", ONE, life),
    ("A:fill.filled:2,B:adopt.tagged:1", ONE, life),
    ("A:fill.filled:2,B:adopt.counted:1", ONE, life),
    ("A:fill.filled:2,B:adopt.flagged:1", ONE, life),
    ("A:fill.filled:2,B:adopt.unaudited:1", ONE, life),
    ("A:fill.filled:2,B:adopt.walked:1", ONE, life),
    ("A:fill.filled:2,B:adopt.replaying:1", ONE, life),
    ("A:fill.filled:2,B:adopt.replayed:1", ONE, life),
    ("A:fill.filled:2,B:adopt.done:1", ONE, life),
    ("A:copy.filled:2,B:move.added:1", ONE, idle),
    ("A:copy.filled:2,B:move.added:2", ONE, idle),
    ("A:copy.filled:2,B:move.removed:1", ONE, idle),
    ("A:copy.filled:2,B:move.empty:1", ONE, idle),
    ("A:copy.filled:2,B:move.done:1", ONE, idle),
    ("A:connect.called:1,B:adopt.tagged:1", ONE, life),
    ("A:connect.tagged:1,B:adopt.upstream:1", ONE, life),
    ("A:accept.tagged:1,B:adopt.tagged:1", ONE, life),
    ("A:end.flagged:1,B:end.passed:1", ONE, last_words),
    ("A:close.forgotten:1,B:adopt.tagged:1", ONE, last_words),
    ("A:drain.part:1,B:fill.held:1", ONE, slow_readers),
    ("A:pause.marked:1,B:pause.ended:1", ONE, stop_and_go),
    ("A:pause.begun:1,B:pause.ended:1", ONE, stop_and_go),
    ("A:drain.part:1,B:drain.forgotten:1", ONE, slow_readers),
    ("A:urgent.written:1,B:adopt.unaudited:1", SLOW_ONE, urgent_in_bulk),
    ("A:fill.filled:2,B:places.kept:1", ONE, life),
    ("A:fill.filled:2,B:estate.left:1", ONE, life),
    ("A:close.forgotten:1,B:sweep.cutting:1", ONE, last_words),
    ("A:close.forgotten:1,B:sweep.cut:1", ONE, last_words),
    ("A:udp.taken:1", ONE, datagrams),
    ("A:udp.opened:1", ONE, datagrams),
    ("A:udp.recorded:1", ONE, datagrams),
    ("A:udp.added:1", ONE, datagrams),
    ("A:udp.tagged:1", ONE, datagrams),
    ("A:udp.entered:1", ONE, datagrams),
    ("A:udp.sent:1", ONE, datagrams),
    ("A:udp.sent:5", ONE, datagrams),
    ("A:udp.removed:1", ONE, a_flow_that_ends),
    ("A:udp.freed:1", ONE, a_flow_that_ends),
    ("A:udp.sent:5,B:udp.adopted:1", ONE, datagrams),
    ("A:udp.tagged:1,B:udp.adopted:1", ONE, datagrams),
    ("A:accept.taken:1,B:sweep.listed:1", ONE, life),
    ("A:accept.taken:1,B:sweep.gated:1", ONE, life),
    ("A:accept.taken:1,B:sweep.found:1", ONE, life),
    ("A:accept.taken:1,B:sweep.ungated:1", ONE, life),
    ("A:accept.taken:1,B:accept.taken:1:stop,B:sweep.listed:1:stop,B:sweep.gated:1", ONE, before_the_gate),
];

/// A proxy whose pools are to die, its upstream server, and its access log.
struct World {
    proxy: Proxy,
    log: AccessLog,
    accepted: mpsc::Receiver<TcpStream>,
    server: servers::Tcp,
    faults: Vec<Fault>,
    baseline: Descriptors,
}

struct Fault {
    seat: &'static str,
    point: String,
    stops: bool,
}

impl Fault {
    fn line(&self) -> String {
        let what = if self.stops { "stops" } else { "dies" };
        format!("fault: {} {what} at {}\n", self.seat, self.point)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptors {
    /// All but pipes.
    others: usize,
    /// Pipes that no worker has at rest or lent.
    stray_pipes: isize,
}

impl World {
    #[track_caller]
    fn start(carrier: &'static str, faults: &str, upstreams: Servers) -> Self {
        isolate();
        let heir = if carrier == PRIMARY { STANDBY } else { PRIMARY };
        let seat = |letter: &str| if letter == "A" { carrier } else { heir };
        let words: Vec<Vec<&str>> = faults.split(',').map(|word| word.split(':').collect()).collect();
        let armed: Vec<_> =
            words.iter().map(|word| format!("{}:{}", seat(word[0]), word[1..].join(":"))).collect();
        let struck = words.iter().map(|word| Fault {
            seat: seat(word[0]),
            point: word[1].to_owned(),
            stops: word.len() > 3,
        });
        let (server, accepted) = servers::Tcp::handing_over(SERVER);
        let builder = Proxy::builder().binary(&faulty::binary()).env(faulty::VARIABLE, &armed.join(","));
        let log = AccessLog::new();
        let text = if upstreams.is_empty() { WITH_HEADERS.to_owned() } else { settings(upstreams) };
        let builder = builder.settings(&(log.settings() + &text)).flag("--udp-idle", "1s");
        let builder = builder.flag("--workers", "1").flag("--failback-after", "never");
        let proxy = builder.flag("--lease", "2s").flag("--fence-after", "10s").start();
        if carrier == STANDBY {
            proxy.verb(&["failover"]).says(0, &[]);
            proxy.until_status("the standby serves", |status| status.serves(STANDBY));
        }
        // A worker counts its pipes at its first tick.
        proxy.until_metric("proxy_pipes", &[("state", "free")], 2.0 * STOCK);
        let baseline = descriptors(&proxy);
        Self { proxy, log, accepted, server, faults: struck.collect(), baseline }
    }

    /// Whether a fault, the first or a later one, has struck.
    fn has_struck(&self, fault: usize) -> bool {
        self.proxy.log().contains(&self.faults[fault].line())
    }

    #[track_caller]
    fn until_struck(&self, fault: usize) {
        until_true(&self.faults[fault].line(), || self.has_struck(fault));
    }

    #[track_caller]
    fn go_on(&self) {
        signal(self.proxy.pid(self.faults[1].seat), Signal::SIGCONT);
    }

    /// All who were to die are dead, and what they left is adopted and swept. How they ended is not always
    /// known: the signals of two deaths at once are one.
    #[track_caller]
    fn until_buried(&self) {
        let deaths = self.faults.iter().filter(|fault| !fault.stops).count();
        until_true("the supervisor has buried them", || {
            self.proxy.log().matches("pool died").count() == deaths
        });
    }

    /// The server's end of the next connection.
    #[track_caller]
    fn server_end(&self) -> TcpStream {
        self.accepted.recv_timeout(PATIENCE).expect("the proxy connects to the server")
    }

    /// Both ends of a connection that has carried something both ways.
    #[track_caller]
    fn pair(&self) -> (TcpStream, TcpStream) {
        clients::pair(at(LISTEN), &self.accepted)
    }

    /// Everybody died who was to die, nobody else did, nothing was lost, and nothing is left.
    #[track_caller]
    fn finish(self) {
        let proxy = &self.proxy;
        (0..self.faults.len()).for_each(|fault| self.until_struck(fault));
        let deaths = self.faults.iter().filter(|fault| !fault.stops).count();
        let status = proxy
            .until_status("all is well again", |status| status.whole() && status.takeovers >= deaths as u64);
        assert_eq!(status.takeovers, deaths as u64, "takeovers");
        let gauges =
            ["proxy_listener_connections", "proxy_pool_connections", "proxy_upstream_server_connections"];
        until_true("the gauges are at 0", || {
            let metrics = proxy.metrics();
            let lent = metrics.sum("proxy_pipes", &[("state", "lent")]);
            lent == 0.0 && gauges.iter().all(|name| metrics.sum(name, &[]) == 0.0)
        });
        let what = format!("the descriptors are {:?} again", self.baseline);
        until_true(&what, || descriptors(proxy) == self.baseline);
        let metrics = proxy.metrics();
        for name in ["proxy_lost_flows_total", "proxy_takeover_audit_mismatches_total"] {
            assert!(metrics.has(name) && metrics.sum(name, &[]) == 0.0, "{}", metrics.show(name));
        }
        self.until_buried();
        self.assert_told_once(&metrics);
    }

    /// Each connection has one line in the access log, whoever died in writing it.
    #[track_caller]
    fn assert_told_once(&self, metrics: &Metrics) {
        let told = || self.proxy.metrics().sum("proxy_access_log_lines_total", &[]) as usize;
        until_true("all lines are written", || self.log.lines().len() == told());
        self.log.assert_once();
        // Who dies between accepting and counting has not counted.
        let accepted = metrics.sum("proxy_listener_connections_total", &[]) as usize;
        let lines = self.log.lines().into_iter().filter(|line| line.protocol == "tcp").count();
        assert!(lines >= accepted, "{lines} lines of {accepted} connections");
    }
}

fn settings(servers: Servers) -> String {
    let server = |words: &&str| {
        let (address, others) = words.split_once(' ').unwrap_or((words, ""));
        format!("[[upstream.u.server]]\naddress = \"{address}\"\n{others}\n")
    };
    let servers: String = servers.iter().map(server).collect();
    let bind = r#"bind = ["tcp://127.0.0.1:8080", "udp://127.0.0.1:8080"]"#;
    format!(
        "[[listener]]\nname = \"l\"\n{bind}\nupstream = \"u\"\n[upstream.u]\nqueue_timeout = \"60s\"\n{servers}"
    )
}

fn descriptors(proxy: &Proxy) -> Descriptors {
    let entries = fs::read_dir(format!("/proc/{}/fd", proxy.supervisor())).expect("list descriptors");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let (pipes, others): (Vec<_>, Vec<_>) =
        links.partition(|link| link.to_string_lossy().starts_with("pipe:"));
    let known = proxy.metrics().sum("proxy_pipes", &[]);
    Descriptors { others: others.len(), stray_pipes: pipes.len() as isize - known as isize }
}

/// A client that takes only a few kilobytes before it reads.
#[track_caller]
fn narrow_client() -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.set_recv_buffer_size(servers::NARROW).expect("buffer size");
    socket.connect(&at(LISTEN).into()).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.into()
}

/// Writes so much and ends.
fn tell(stream: &TcpStream, length: usize) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().expect("clone");
    thread::spawn(move || {
        pattern::write(&mut stream, length).expect("write");
        stream.shutdown(Shutdown::Write).expect("shutdown");
    })
}

/// Both sides of these connections say so much, and read after a while, to the end; and so much is told in the end.
#[track_caller]
fn converse(world: &World, clients: Vec<TcpStream>, length: usize, wait: impl FnOnce()) {
    let addresses: Vec<_> = clients.iter().map(|client| client.local_addr().expect("address")).collect();
    let mut tellers: Vec<_> = clients.iter().map(|client| tell(client, length)).collect();
    let servers: Vec<_> = clients.iter().map(|_| world.server_end()).collect();
    tellers.extend(servers.iter().map(|server| tell(server, length)));
    wait();
    let read = |mut stream: TcpStream| thread::spawn(move || pattern::verify(&mut stream));
    let readers: Vec<_> = clients.into_iter().chain(servers).map(read).collect();
    for reader in readers {
        assert_eq!(reader.join().expect("the reader").expect("an end, no reset"), length);
    }
    tellers.into_iter().for_each(|teller| teller.join().expect("the teller"));
    for address in addresses {
        let line = world.log.line_of(address);
        assert_eq!((line.bytes_up, line.bytes_down), (length as u64, length as u64), "{line:?}");
    }
}

/// A client's datagrams, until all have died who are to, and some more: whatever is answered comes from
/// one port. (The datagrams in a pool's hand at its death are lost.)
fn datagrams(world: &World) {
    let _server = servers::Udp::naming(SERVER, "A");
    let client = udp(at(LISTEN));
    let mut ports = Vec::new();
    let mut ask = || ports.extend(port(&client));
    until_true("all have died", || {
        ask();
        (0..world.faults.len()).all(|fault| world.has_struck(fault))
    });
    world.until_buried();
    (0..5).for_each(|_| ask());
    assert!(ports.len() >= 5 && ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

/// A flow that is idle for long enough to end, and another of the same client.
fn a_flow_that_ends(world: &World) {
    let _server = servers::Udp::naming(SERVER, "A");
    let client = udp(at(LISTEN));
    // On a busy machine a flow may begin in the other seat, which does not die of its end.
    while !world.has_struck(0) {
        until_true("an answer", || port(&client).is_some());
        until_true("the flow has ended", || {
            world.has_struck(0) || world.proxy.metrics().sum("proxy_udp_flows", &[]) == 0.0
        });
    }
    world.until_buried();
    until_true("an answer", || port(&client).is_some());
}

/// The port that the server saw, if it answers soon.
fn port(client: &Udp) -> Option<String> {
    match client.ask("hello", Duration::from_millis(300)) {
        Outcome::Answered(answer) => answer.split(' ').nth(1).map(str::to_owned),
        _ => None,
    }
}

/// A connection from its beginning to its end.
fn life(world: &World) {
    converse(world, vec![connect(at(LISTEN))], SOME, || {});
}

/// A connection that another proxy passes on, to a server that is told whom it is from: its header comes in two
/// pieces, the last one with the client's first bytes.
fn told(world: &World) {
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    let mut client = connect(at(LISTEN));
    client.write_all(&HEADER[..20]).expect("write");
    client.write_all(&[&HEADER[20..], b"ping"].concat()).expect("write");
    let mut server = world.server_end();
    let mut got = vec![0; HEADER.len() + 4];
    server.read_exact(&mut got).expect("read");
    assert_eq!(got, [HEADER, b"ping"].concat());
    carries(&mut server, &mut client);
    let tellers = [tell(&client, SOME), tell(&server, LITTLE)];
    assert_eq!(pattern::verify(&mut client).expect("an end, no reset"), LITTLE);
    assert_eq!(pattern::verify(&mut server).expect("an end, no reset"), SOME);
    tellers.into_iter().for_each(|teller| teller.join().expect("the teller"));
    assert_eq!(world.server.accepted(), 1);
}

/// The heir accepts a connection while the supervisor is about to sweep, and dies in its opening window
/// while the gate is closed.
fn before_the_gate(world: &World) {
    let first = connect(at(LISTEN));
    world.until_struck(0);
    world.until_struck(2);
    converse(world, vec![first, connect(at(LISTEN))], SOME, || {});
}

/// Connections until one of them tries the server that refuses.
fn lives(world: &World) {
    while !world.has_struck(0) {
        life(world);
    }
}

/// A connection that waits until the one before it has ended.
fn queued(world: &World) {
    let (client, server) = world.pair();
    let next = connect(at(LISTEN));
    if world.faults[0].point == "queue.entered" {
        world.until_struck(0);
    }
    world.proxy.until_metric("proxy_listener_connections_waiting", &[], 1.0);
    drop((client, server));
    converse(world, vec![next], SOME, || {});
}

/// Nobody reads before the death: windows are closed, sockets and pipes full.
fn slow_readers(world: &World) {
    converse(world, vec![connect(at(LISTEN))], PLENTY, || world.until_struck(0));
}

/// A client that does not read until its server can write no more. Then it reads, and what is written when it has read
/// all is not to be missed.
fn stop_and_go(world: &World) {
    let (mut client, mut server) = (connect(at(LISTEN)), world.server_end());
    server.set_nonblocking(true).expect("non-blocking");
    let (mut said, mut full_since) = (0, Instant::now());
    // It may take a while for the proxy to take what there is room for; none is struck before it is full.
    until_true("all is full", || {
        while let Ok(size) = server.write(pattern::from(said, PLENTY)) {
            (said, full_since) = (said + size, Instant::now());
        }
        world.has_struck(0) || full_since.elapsed() > Duration::from_millis(500)
    });
    server.set_nonblocking(false).expect("blocking");
    thread::scope(|scope| {
        let reading = scope.spawn(|| pattern::verify(&mut client).expect("an end, no reset"));
        (0..world.faults.len()).for_each(|fault| world.until_struck(fault));
        server.write_all(pattern::from(said, MORSEL)).expect("write");
        server.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(reading.join().expect("the reader"), said + MORSEL);
    });
}

/// A server that says a little at a time, until a client that does not read takes no more, and all are dead who are to
/// die of it. An heir may find that there is room again for what was left over, and dies of a later piece.
fn trickle(world: &World) {
    let (mut client, mut server) = (narrow_client(), world.server_end());
    let taken = || world.proxy.metrics().sum("proxy_listener_sent_bytes_total", &[]) as usize;
    let struck = || (0..world.faults.len()).filter(|fault| world.has_struck(*fault)).count();
    let mut said = 0;
    while struck() < world.faults.len() {
        let (due, before) = (taken() + MORSEL, struck());
        server.write_all(pattern::from(said, MORSEL)).expect("write");
        said += MORSEL;
        until_true("it is taken, or a pool dies of it", || taken() >= due || struck() > before);
        until_true("there is an heir, or all are dead", || {
            struck() == world.faults.len() || world.proxy.status().takeovers >= struck() as u64
        });
    }
    server.shutdown(Shutdown::Write).expect("shutdown");
    // The heir, too, is to find the client's socket full.
    (0..world.faults.len()).for_each(|fault| world.until_struck(fault));
    assert_eq!(pattern::verify(&mut client).expect("an end, no reset"), said);
}

/// Nobody reads before all is swept, and everything but that is done: the last bytes and the ends are
/// in the proxy's sockets.
fn last_words(world: &World) {
    world.server.narrow();
    converse(world, vec![narrow_client()], LITTLE, || world.until_buried());
}

/// A connection that carries nothing but two ends.
fn no_words(world: &World) {
    let (mut client, mut server) = (connect(at(LISTEN)), world.server_end());
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("an end"), b"");
    drop(server);
    assert_eq!(read_all(&mut client).expect("an end, no reset"), b"");
    until_true("all is closed", || descriptors(&world.proxy) == world.baseline);
    assert_eq!(world.server.accepted(), 1);
}

/// The answer to one who says no more: when the heir looks, the server's socket is closed and all is passed on.
fn last_answer(world: &World) {
    let (mut client, mut server) = (connect(at(LISTEN)), world.server_end());
    client.write_all(b"ask").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("an end"), b"ask");
    server.write_all(b"answer").expect("write");
    drop(server);
    assert_eq!(read_all(&mut client).expect("an end, no reset"), b"answer");
    let line = world.log.line_of(client.local_addr().expect("address"));
    assert_eq!((line.bytes_up, line.bytes_down), (3, 6), "{line:?}");
    // What was being closed is not taken for what was just accepted.
    until_true("all is closed", || descriptors(&world.proxy) == world.baseline);
    assert_eq!(world.server.accepted(), 1);
}

/// A connection that has nothing in flight when the second pool dies.
fn idle(world: &World) {
    let (mut client, mut server) = world.pair();
    world.until_struck(1);
    carries(&mut client, &mut server);
    carries(&mut server, &mut client);
}

/// Bytes whose event died with the pool arrive by what the heir does at once: it stops before it moves
/// the registrations, which would bring the event again.
fn at_once(world: &World) {
    let (mut client, mut server) = (connect(at(LISTEN)), world.server_end());
    // The server sees the connection before the proxy does, which then looks for bytes without an event.
    world.proxy.until_metric("proxy_upstream_server_connections_total", &[], 1.0);
    assert!(!world.has_struck(0), "too early");
    client.write_all(b"ping").expect("write");
    world.until_struck(1);
    server.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    let mut buffer = [0; 4];
    server.read_exact(&mut buffer).expect("it has arrived");
    world.go_on();
    carries(&mut server, &mut client);
}

/// The end of a stream, likewise.
fn end_at_once(world: &World) {
    let (mut client, mut server) = (connect(at(LISTEN)), world.server_end());
    client.shutdown(Shutdown::Write).expect("shutdown");
    world.until_struck(1);
    server.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    assert_eq!(read_all(&mut server).expect("an end, and now"), b"");
    world.go_on();
    carries(&mut server, &mut client);
}

/// As [`at_once`], and the event came long before: while the proxy was still connecting.
fn at_once_from_a_slow_server(world: &World) {
    let (listener, _first) = narrow_door();
    let mut client = connect(at(LISTEN));
    world.proxy.until_metric("proxy_listener_connections", &[], 1.0);
    client.write_all(b"ping").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    // Only then there is room, and the proxy's SYN comes again.
    let _first = listener.accept().expect("accept");
    let mut server = TcpStream::from(listener.accept().expect("accept").0);
    world.until_struck(1);
    server.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    assert_eq!(read_all(&mut server).expect("an end, and now"), b"ping");
    world.go_on();
    carries(&mut server, &mut client);
}

fn urgent(world: &World) {
    let (mut client, mut server) = world.pair();
    SockRef::from(&server).set_out_of_band_inline(true).expect("inline");
    client.write_all(b"before").expect("write");
    SockRef::from(&client).send_out_of_band(b"!").expect("urgent");
    client.write_all(b"after").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("read"), b"before!after");
}

/// So much is spliced, and `splice` does not take the byte at the mark. It all waits while the proxy is connecting.
fn urgent_in_bulk(world: &World) {
    let (listener, _first) = narrow_door();
    let mut client = connect(at(LISTEN));
    client.write_all(pattern::from(0, BULK)).expect("write");
    SockRef::from(&client).send_out_of_band(b"!").expect("urgent");
    client.write_all(b"after").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    world.proxy.until_metric("proxy_listener_connections", &[], 1.0);
    let _first = listener.accept().expect("accept");
    let mut server = TcpStream::from(listener.accept().expect("accept").0);
    SockRef::from(&server).set_out_of_band_inline(true).expect("inline");
    assert_eq!(read_all(&mut server).expect("read"), [pattern::from(0, BULK), b"!after"].concat());
}

/// A listener whose queue is full: the kernel drops the proxy's SYN, and takes the next one, a second
/// later, if there is room then.
#[track_caller]
fn narrow_door() -> (Socket, TcpStream) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    listener.bind(&at(SLOW).into()).expect("bind");
    // A queue of length 0 takes one.
    listener.listen(0).expect("listen");
    (listener, connect(at(SLOW)))
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let error = read_all(stream).expect_err("a reset is no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn reset_by_client(world: &World) {
    let (client, mut server) = world.pair();
    reset(client).expect("reset");
    assert_reset(&mut server);
}

/// One after the other; of those that are to die each has one.
fn resets(world: &World) {
    let pairs: Vec<_> = world.faults.iter().map(|_| world.pair()).collect();
    for (fault, (client, mut server)) in pairs.into_iter().enumerate() {
        reset(client).expect("reset");
        assert_reset(&mut server);
        world.until_struck(fault);
    }
}

fn reset_by_server(world: &World) {
    let (mut client, server) = world.pair();
    reset(server).expect("reset");
    assert_reset(&mut client);
}

fn reset_after_an_end(world: &World) {
    let (mut client, mut server) = world.pair();
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("an end"), b"");
    reset(server).expect("reset");
    assert_reset(&mut client);
}

fn reset_with_bytes_in_flight(world: &World) {
    let (mut client, mut server) = world.pair();
    client.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let error = pattern::write(&mut client, ENDLESS).expect_err("nobody reads");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    reset(client).expect("reset");
    world.until_struck(0);
    assert_reset(&mut server);
}

/// Runs a case and says how long it took.
fn run(faults: &str, carrier: &'static str, servers: Servers, scenario: Scenario) -> Duration {
    let start = Instant::now();
    let world = World::start(carrier, faults, servers);
    scenario(&world);
    world.finish();
    start.elapsed()
}

/// The points that the binary knows are all in the matrix, or tested where a handover is.
#[test]
fn no_point_is_left_out() {
    // Outside the namespace: building may need the network.
    let binary = faulty::binary();
    isolate();
    let builder = Proxy::builder().binary(&binary).env(faulty::VARIABLE, "primary:none:1");
    let failure = builder.listen("tcp://127.0.0.1:8080").upstream(SERVER).fails();
    failure.says(1, &["no such point"]);
    let (_, points) = failure.text.rsplit_once("there are: ").expect("a list");
    let points: Vec<_> = points.split_whitespace().collect();
    assert!(points.len() > 50, "{points:?}");
    let is_missing = |point: &&str| !MATRIX.iter().any(|(faults, ..)| faults.contains(&format!(":{point}:")));
    // These have their cases in upgrade/faults.rs.
    let points = points.into_iter().filter(|point| !faulty::OF_A_HANDOVER.contains(point));
    let missing: Vec<_> = points.filter(is_missing).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn a_pool_dies_at_every_step_in_either_seat() {
    // Outside the namespaces, and not in the time of the first case.
    faulty::binary();
    let only = std::env::var(ONLY).unwrap_or_default();
    let cases: Vec<_> = MATRIX
        .iter()
        .filter(|(faults, ..)| faults.contains(&only))
        .flat_map(|case| [PRIMARY, STANDBY].map(|seat| (seat, case)))
        .collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Each case has a thread of its own, and with it a network namespace of its own.
    let take = || {
        while let Some((seat, (faults, servers, scenario))) =
            cases.get(next.fetch_add(1, Ordering::SeqCst)).copied()
        {
            let case = thread::spawn(move || run(faults, seat, servers, *scenario));
            match case.join() {
                Ok(took) => println!("{faults} {seat}: {} ms", took.as_millis()),
                Err(panic) => {
                    let why = panic.downcast::<String>().map_or_else(|_| "a panic".into(), |text| *text);
                    failed.lock().expect("lock").push(format!("{faults} (A: {seat}): {why}"));
                }
            }
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(take))));
    let failed = failed.into_inner().expect("lock");
    assert!(failed.is_empty(), "{} of {} cases failed: {failed:#?}", failed.len(), cases.len());
}
