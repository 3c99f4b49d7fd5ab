//! The proxy is replaced by another process while it works: an upgrade to another binary, or a reload. Established
//! connections and UDP flows go on ([`carried`]), also many times in a row under load ([`row`]), and from and to the
//! previous commit's build ([`versions`]); a binary that is
//! no good ([`bad_binary`]), and processes that die or stop in the middle of it ([`chance`]), change nothing.

mod bad_binary;
mod carried;
mod chance;
mod faults;
mod row;
mod settings;
mod versions;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use proxy_tests::builder::Builder;
use proxy_tests::clients::{self, carries, connect};
use proxy_tests::flows::Flows;
use proxy_tests::handover::{descriptors, reload};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::Process;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::status::Status;
use proxy_tests::traffic::Traffic;
use proxy_tests::wait::until_true;

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
/// Pause of verified traffic between two rounds, so that it does not take all of the machine.
const PAUSE: Duration = Duration::from_millis(5);

fn proxy() -> Builder {
    let builder =
        Proxy::builder().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080").upstream(SERVER);
    builder.flag("--workers", "2").flag("--failback-after", "never").flag("--udp-idle", "4s")
}

/// Both ends of a connection through the proxy that has carried something both ways.
#[track_caller]
fn pair(accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    clients::pair(at(LISTEN), accepted)
}

/// A proxy with verified connections and flows, and one connection that says nothing, which must all go on.
struct Scene {
    proxy: Proxy,
    traffic: Traffic,
    flows: Flows,
    idle: (TcpStream, TcpStream),
    baseline: usize,
    _servers: (servers::Tcp, servers::Udp),
}

impl Scene {
    #[track_caller]
    fn start() -> Self {
        Self::of(proxy())
    }

    #[track_caller]
    fn of(builder: Builder) -> Self {
        Self::with(builder, start, Flows::start)
    }

    /// The same with flows that may lose what a pool has in hand when it dies.
    #[track_caller]
    fn lossy(builder: Builder) -> Self {
        Self::with(builder, start, Flows::lossy)
    }

    /// The same with a first supervisor, and no idea how many descriptors a successor has.
    #[track_caller]
    fn fresh(builder: Builder) -> Self {
        Self::with(builder, |builder| (builder.start(), 0), Flows::lossy)
    }

    #[track_caller]
    fn with(
        builder: Builder,
        start: impl FnOnce(Builder) -> (Proxy, usize),
        flows: fn(SocketAddr, usize) -> Flows,
    ) -> Self {
        isolate();
        let (idle_to, idle_from) = mpsc::channel();
        // The first byte says what the connection is for.
        let server = servers::Tcp::start(SERVER, move |mut stream| {
            let mut first = [0];
            stream.peek(&mut first)?;
            if first == *b"p" {
                return idle_to.send(stream).map_err(std::io::Error::other);
            }
            let mut to = stream.try_clone()?;
            std::io::copy(&mut stream, &mut to).map(drop)
        });
        let datagrams = servers::Udp::naming(SERVER, "A");
        let (proxy, baseline) = start(builder);
        let idle = idle_pair(&idle_from);
        let traffic = Traffic::paced(at(LISTEN), 8, PAUSE);
        let flows = flows(at(LISTEN), 8);
        let scene = Self { proxy, traffic, flows, idle, baseline, _servers: (server, datagrams) };
        scene.goes_on();
        scene
    }

    /// Every connection and flow carries something more.
    #[track_caller]
    fn goes_on(&self) {
        self.traffic.wait_rounds(3);
        self.flows.wait_answers(3);
    }

    /// Everything went on to the end, and nothing is left of it.
    #[track_caller]
    fn finish(self) {
        let (proxy, baseline) = self.end();
        assert_nothing_left(&proxy, baseline);
    }

    /// The same, but for what is left: other settings may have other descriptors.
    #[track_caller]
    fn end(mut self) -> (Proxy, usize) {
        carries(&mut self.idle.0, &mut self.idle.1);
        carries(&mut self.idle.1, &mut self.idle.0);
        self.traffic.finish();
        self.flows.finish();
        (self.proxy, self.baseline)
    }
}

/// Both ends of the connection that is left to the test.
#[track_caller]
fn idle_pair(accepted: &mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let mut client = connect(at(LISTEN));
    client.write_all(b"p").expect("write");
    let mut server = accepted.recv_timeout(servers::PATIENCE).expect("the proxy connects to the server");
    server.read_exact(&mut [0]).expect("read");
    carries(&mut server, &mut client);
    (client, server)
}

/// Starts it. Answers how many descriptors a successor has that has nothing to do.
#[track_caller]
fn start(builder: Builder) -> (Proxy, usize) {
    let proxy = builder.start();
    // A first supervisor and a successor do not have the same.
    reload(&proxy);
    proxy.until_status("protected", Status::protected);
    let baseline = descriptors(&proxy);
    (proxy, baseline)
}

/// Nothing is open any more, and a successor has what it would have if there had been nothing.
#[track_caller]
fn assert_nothing_left(proxy: &Proxy, baseline: usize) {
    let gauges = [
        "proxy_listener_connections",
        "proxy_pool_connections",
        "proxy_upstream_server_connections",
        "proxy_udp_flows",
    ];
    until_true("the gauges are at 0", || {
        let metrics = proxy.metrics();
        let lent = metrics.sum("proxy_pipes", &[("state", "lent")]);
        lent == 0.0 && gauges.iter().all(|name| metrics.sum(name, &[]) == 0.0)
    });
    reload(proxy);
    until_true("the descriptors are those of the beginning", || descriptors(proxy) == baseline);
}

/// The numbers of processes, for messages.
fn pids(processes: &[Process]) -> Vec<i32> {
    processes.iter().map(|process| process.pid).collect()
}
