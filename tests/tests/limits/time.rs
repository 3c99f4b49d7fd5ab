//! Limits on time.

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Instant;

use proxy_tests::net::{at, isolate};
use proxy_tests::servers::{self, read_all};
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, clients};

use crate::*;

const EXPIRED: &str = "proxy_listener_connections_expired_total";
const FLOWS_EXPIRED: &str = "proxy_udp_flows_expired_total";

#[track_caller]
fn assert_reset(stream: &mut TcpStream) {
    let end = read_all(stream);
    assert!(end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{end:?}");
}

/// A connection that one side has ended waits through a takeover, for bytes, and not for ever.
#[test]
fn half_closed_connections_are_reset() {
    const LIMIT: Duration = Duration::from_secs(2);
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = File::new("half_close_timeout = \"2s\"\nidle_timeout = \"1h\"").start();
    let (mut client, _server_end) = clients::pair(at(LISTEN), &accepted);
    let (mut talker, mut listener) = clients::pair(at(LISTEN), &accepted);
    let (mut whole, mut whole_server) = clients::pair(at(LISTEN), &accepted);
    let start = Instant::now();
    client.shutdown(Shutdown::Write).expect("shutdown");
    talker.shutdown(Shutdown::Write).expect("shutdown");
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    // Bytes the other way keep it.
    while start.elapsed() < 2 * LIMIT {
        clients::carries(&mut listener, &mut talker);
        thread::sleep(Duration::from_millis(20));
    }
    proxy.until_metric(EXPIRED, &[("reason", "half_closed")], 1.0);
    assert_reset(&mut client);
    clients::carries(&mut listener, &mut talker);
    clients::carries(&mut whole, &mut whole_server);
    proxy.until_metric(EXPIRED, &[("reason", "half_closed")], 2.0);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum(EXPIRED, &[]), 2.0, "{}", metrics.show(EXPIRED));
}

/// However busy it is, and whichever pool has it by then.
#[test]
fn nothing_lives_longer_than_it_may() {
    const LIFETIME: Duration = Duration::from_secs(3);
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _datagrams = servers::Udp::naming(SERVER, "A");
    let file = File::new("max_lifetime = \"3s\"");
    let proxy = file.start();
    let start = Instant::now();
    let (mut client, mut server) = clients::pair(at(LISTEN), &accepted);
    let flow = clients::udp(at(LISTEN));
    let asked = |text: &str| flow.ask(text, TIMEOUT);
    let first = asked("x");
    assert!(first.answered(), "{first:?}");
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    proxy.until_status("protected", Status::protected);
    reload(&proxy);
    until_true("both have ended", || {
        assert!(client.write_all(b"busy").is_ok() || start.elapsed() >= LIFETIME, "too early");
        // One that was asked for when its flow ended does not come.
        let _ = flow.ask("x", Duration::from_millis(200));
        let metrics = proxy.metrics();
        let of = |name| metrics.sum(name, &[("reason", "lifetime")]);
        of(EXPIRED) == 1.0 && of(FLOWS_EXPIRED) >= 1.0
    });
    assert!(start.elapsed() >= LIFETIME);
    assert_reset(&mut server);
    assert_ne!(asked("x"), first, "another flow, by another port");
}

/// A resolver's client: two questions from one port, two answers, and the flow is gone.
#[test]
fn flows_end_with_their_answers() {
    isolate();
    let server = servers::Udp::naming(SERVER, "A");
    let proxy = File::new("udp_responses = 1").start();
    for round in 1..=20 {
        let client = clients::udp(at(LISTEN));
        client.0.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        for question in [b"A", b"B"] {
            client.0.send(question).expect("send");
        }
        for _ in 0..2 {
            client.receive().expect("an answer");
        }
        until_true("the flow has ended", || proxy.metrics().sum("proxy_udp_flows", &[]) == 0.0);
        // Both came to one flow, or the second began one of its own when the first had its answer.
        let (ended, peers) =
            (proxy.metrics().sum(FLOWS_EXPIRED, &[("reason", "responses")]), server.seen().peers.len());
        assert!(ended >= f64::from(round) && ended <= 2.0 * f64::from(round), "{ended}");
        assert!(peers >= 1);
    }
    assert_eq!(server.seen().datagrams, 40);
}

/// Each listener and the defaults: the listener's own word counts.
#[test]
fn idle_timeouts_are_the_listeners_own() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = File::new("idle_timeout = \"1s\"").builder().flag("--idle-timeout", "1h").start();
    let mut stream = let_in(ONE, LISTEN);
    assert_reset(&mut stream);
    proxy.until_metric(EXPIRED, &[("reason", "idle"), ("listener", "tcp://127.0.0.1:8080")], 1.0);
}
