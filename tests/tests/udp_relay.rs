//! What the UDP relay carries: datagrams of every size, batches, answers from the address that was
//! asked; and how flows begin, end and are limited.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use proxy_tests::PRIMARY;
use proxy_tests::access_log::AccessLog;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_udp, udp};
use proxy_tests::net::{SECOND_IPV6, at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::until_true;
use socket2::SockRef;

const LISTEN: &str = "127.0.0.1:8080";
const LISTENER: &str = "udp://127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(2);

fn udp_proxy() -> Builder {
    Proxy::builder().listen(LISTENER).upstream(SERVER).flag("--workers", "2")
}

/// The port that the server saw, from the answer of [`servers::Udp::naming`].
#[track_caller]
fn port_seen(outcome: &Outcome) -> u16 {
    let Outcome::Answered(answer) = outcome else { panic!("no answer: {outcome:?}") };
    answer.split(' ').nth(1).and_then(|port| port.parse().ok()).expect("A PORT TEXT")
}

#[test]
fn flow_keeps_its_upstream_port() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().start();
    let clients: Vec<_> = (0..10).map(|_| udp(at(LISTEN))).collect();
    let ports: Vec<_> = clients.iter().map(|c| port_seen(&c.ask("one", TIMEOUT))).collect();
    for (client, port) in clients.iter().zip(&ports) {
        assert_eq!(port_seen(&client.ask("two", TIMEOUT)), *port, "same client, same port");
    }
    let distinct: BTreeSet<_> = ports.iter().collect();
    assert_eq!(distinct.len(), clients.len(), "other client, other port");
    assert_eq!((server.seen().datagrams, server.seen().peers.len()), (20, 10));
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_udp_flows", &[]), 10.0);
    assert_eq!(metrics.sum("proxy_udp_flows_total", &[]), 10.0);
    assert_eq!(proxy.status().pool(PRIMARY).udp_flows, 10);
}

/// A client takes an answer only from the address that it asked, and so do firewalls on the way.
#[test]
fn answers_come_from_the_address_that_was_asked() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let builder = Proxy::builder().listen("udp://[::]:8080").listen("udp://0.0.0.0:8081");
    let _proxy = builder.upstream(SERVER).start();
    let second = format!("[{SECOND_IPV6}]:8080");
    let dual_stack = ["127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080", &second];
    for asked in dual_stack.into_iter().chain(["127.0.0.1:8081", "127.0.0.3:8081"]) {
        let asked = at(asked);
        // Not connected: it takes answers from everywhere and tells where this one is from.
        let any: SocketAddr = if asked.is_ipv4() { at("127.0.0.1:0") } else { at("[::1]:0") };
        let client = UdpSocket::bind(any).expect("bind");
        client.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        client.send_to(b"hello", asked).expect("send");
        let (_, from) = client.recv_from(&mut [0; 100]).expect("an answer");
        assert_eq!(from, asked);
    }
}

/// One client's socket that asks two addresses of one listener has two conversations.
#[test]
fn each_asked_address_is_answered_from_itself() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let _proxy = Proxy::builder().listen("udp://0.0.0.0:8080").upstream(SERVER).start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    for _ in 0..3 {
        for asked in ["127.0.0.1:8080", "127.0.0.2:8080"].map(at) {
            client.send_to(b"hello", asked).expect("send");
            let (_, from) = client.recv_from(&mut [0; 100]).expect("an answer");
            assert_eq!(from, asked);
        }
    }
}

#[test]
fn datagrams_of_every_size() {
    // The largest that IPv4 carries is 65,535 less 20 and 8 bytes of headers.
    const SIZES: [usize; 9] = [0, 1, 511, 1200, 1472, 1473, 9000, 32_768, 65_507];
    isolate();
    let server = servers::Udp::echo(SERVER);
    let _proxy = udp_proxy().start();
    let client = udp(at(LISTEN));
    client.0.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    let mut buffer = vec![0; 65_536];
    for size in SIZES {
        let datagram: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        client.0.send(&datagram).expect("send");
        let got = client.0.recv(&mut buffer).unwrap_or_else(|e| panic!("size {size}: {e}"));
        assert!(buffer[..got] == datagram, "{got} bytes for {size}");
    }
    assert_eq!(server.seen().sizes, BTreeSet::from(SIZES));
}

#[test]
fn one_question_many_answers() {
    isolate();
    let _server = servers::Udp::start(SERVER, |datagram, _| vec![datagram.to_vec(); 20]);
    let _proxy = udp_proxy().start();
    let client = udp(at(LISTEN));
    assert!(client.ask("hello", TIMEOUT).answered());
    for _ in 1..20 {
        assert_eq!(client.receive().expect("an answer"), "hello");
    }
}

/// A batch that the kernel cuts into datagrams (GSO) arrives as those datagrams, and so does what
/// the proxy itself sends in batches.
#[test]
fn batches_keep_their_datagrams() {
    const SIZE: usize = 1200;
    const BATCH: usize = 40;
    isolate();
    let server = servers::Udp::echo(SERVER);
    let proxy = udp_proxy().start();
    let client = udp(at(LISTEN));
    SockRef::from(&client.0).set_recv_buffer_size(4 << 20).expect("buffer");
    setsockopt(&client.0, sockopt::UdpGsoSegment, &(SIZE as i32)).expect("UDP_SEGMENT");
    client.0.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    let mut buffer = [0; 2048];
    for round in 0..10u8 {
        // The last one is short, as the last segment of a batch may be.
        let batch: Vec<u8> = (0..SIZE * BATCH - 500).map(|i| (i / SIZE) as u8 ^ round).collect();
        client.0.send(&batch).expect("send a batch");
        let mut expected: BTreeSet<u8> = (0..BATCH as u8).map(|n| n ^ round).collect();
        while !expected.is_empty() {
            let size = client.0.recv(&mut buffer).expect("an answer");
            let number = buffer[0] ^ round;
            let right = if usize::from(number) == BATCH - 1 { SIZE - 500 } else { SIZE };
            assert_eq!(size, right, "datagram {number}");
            assert!(buffer[..size].iter().all(|byte| *byte == buffer[0]), "whole and unmixed");
            assert!(expected.remove(&buffer[0]), "datagram {number} came twice");
        }
    }
    assert_eq!(server.seen().datagrams, 10 * BATCH);
    let count = (10 * BATCH) as f64;
    let metrics = proxy.until_metric("proxy_udp_datagrams_sent_total", &[], count);
    // From clients and to clients, one direction each.
    for name in ["proxy_udp_datagrams_received_total", "proxy_udp_datagrams_sent_total"] {
        assert_eq!(metrics.sum(name, &[]), count, "{}", metrics.show(name));
    }
    assert_eq!(metrics.sum("proxy_udp_datagrams_dropped_total", &[]), 0.0);
}

#[test]
fn idle_flows_expire() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().flag("--udp-idle", "500ms").start();
    let client = udp(at(LISTEN));
    assert!(client.ask("hello", TIMEOUT).answered());
    assert_eq!(proxy.metrics().sum("proxy_udp_flows", &[]), 1.0);
    until_true("the flow expires", || proxy.metrics().sum("proxy_udp_flows", &[]) == 0.0);
    assert!(client.ask("hello", TIMEOUT).answered(), "it gets a new flow");
    assert_eq!(proxy.metrics().sum("proxy_udp_flows_total", &[]), 2.0);
}

/// Traffic in either direction keeps a flow; it keeps its port.
#[test]
fn busy_flows_do_not_expire() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let _proxy = udp_proxy().flag("--udp-idle", "1500ms").start();
    let client = udp(at(LISTEN));
    let port = port_seen(&client.ask("hello", TIMEOUT));
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(port_seen(&client.ask("hello", TIMEOUT)), port);
    }
}

/// A new client takes the place of one that has had its answer and is silent, whoever has died meanwhile; not that of
/// one that is in use.
#[test]
fn a_full_limit_makes_room_for_a_new_client() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let log = AccessLog::new();
    let settings = format!(
        "{}[defaults]\nworkers = 2\nmax_flows = 4\n[[listener]]\nname = \"a\"\nbind = [\"{LISTENER}\"]\nupstream = \
         \"a\"\n[upstream.a]\n[[upstream.a.server]]\naddress = \"{SERVER}\"\n",
        log.settings()
    );
    let proxy = Proxy::builder().settings(&settings).start();
    proxy.until_status("protected", Status::protected);
    let busy = udp(at(LISTEN));
    let port = port_seen(&busy.ask("hello", TIMEOUT));
    let silent: Vec<_> = (0..3).map(|_| udp(at(LISTEN))).collect();
    silent.iter().for_each(|client| assert!(client.ask("hello", TIMEOUT).answered()));
    let mut pushed_out = 0.0;
    // What is silent for less than a second stays, so the first try fails, unless this machine is slow.
    let mut let_one_in = || {
        let new = udp(at(LISTEN));
        until_true("a new client is served", || {
            assert_eq!(port_seen(&busy.ask("hello", TIMEOUT)), port, "in use");
            new.ask("hello", Duration::from_millis(200)).answered()
        });
        let (name, labels) = ("proxy_udp_flows_expired_total", [("reason", "evicted")]);
        let evicted = proxy.until_metric(name, &labels, pushed_out + 1.0).sum(name, &labels);
        assert!(evicted > pushed_out);
        pushed_out = evicted;
        assert!(proxy.metrics().sum("proxy_udp_flows", &[]) <= 4.0);
    };
    let_one_in();
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    let_one_in();
    assert_eq!(port_seen(&busy.ask("hello", TIMEOUT)), port);
    let lines = log.until_lines(2);
    assert!(lines.iter().all(|line| line.reason == "evicted" && line.bytes_down > 0), "{lines:?}");
    let busy = busy.0.local_addr().expect("address");
    assert!(lines.iter().all(|line| line.client != Some(busy)), "{lines:?}");
    log.assert_once();
}

/// Everybody is in use: who is new waits.
#[test]
fn flows_over_the_limit_are_dropped() {
    isolate();
    let _server = servers::Udp::naming(SERVER, "A");
    let proxy = udp_proxy().flag("--max-flows", "3").start();
    let clients: Vec<_> = (0..3).map(|_| udp(at(LISTEN))).collect();
    let ask_all =
        || clients.iter().map(|client| port_seen(&client.ask("hello", TIMEOUT))).collect::<Vec<_>>();
    // More questions than a resolver asks by one port: this is talk.
    let ports = [(); 3].map(|()| ask_all());
    assert!(ports.iter().all(|of_round| *of_round == ports[0]));
    let outcome = ask_udp(at(LISTEN), "one too many", Duration::from_millis(1500));
    assert!(!outcome.answered(), "{outcome:?}");
    proxy.until_metric("proxy_udp_datagrams_dropped_total", &[("reason", "limit")], 1.0);
    assert_eq!(ask_all(), ports[0]);
    assert_eq!(proxy.metrics().sum("proxy_udp_flows_total", &[]), 3.0);
}

/// Nobody at the server's port: ICMP errors come back to the proxy and disturb nothing.
#[test]
fn refusing_server_disturbs_nobody() {
    isolate();
    let proxy = udp_proxy().start();
    let client = udp(at(LISTEN));
    for _ in 0..5 {
        let outcome = client.ask("hello", Duration::from_millis(100));
        assert!(!outcome.answered(), "{outcome:?}");
    }
    let _server = servers::Udp::naming(SERVER, "A");
    until_true("the server is used", || client.ask("hello", TIMEOUT).answered());
    assert!(proxy.status().whole());
}

/// Flows spread over the servers, and each stays with its own.
#[test]
fn flows_spread_over_two_servers() {
    isolate();
    let a = servers::Udp::naming(SERVER, "A");
    let b = servers::Udp::naming("127.0.0.1:9002", "B");
    let _proxy = udp_proxy().upstream("127.0.0.1:9002").start();
    let clients: Vec<_> = (0..20).map(|_| udp(at(LISTEN))).collect();
    let ask = |client: &proxy_tests::clients::Udp| match client.ask("hello", TIMEOUT) {
        Outcome::Answered(answer) => answer,
        other => panic!("{other:?}"),
    };
    let first: Vec<_> = clients.iter().map(ask).collect();
    let second: Vec<_> = clients.iter().map(ask).collect();
    assert_eq!(first, second, "same server, same port");
    let counts = (a.seen().peers.len(), b.seen().peers.len());
    assert_eq!(counts.0 + counts.1, 20);
    assert!(counts.0 >= 4 && counts.1 >= 4, "{counts:?}");
}
