//! Shares by weight, backups, and clients that stay with their server.

use std::net::{SocketAddr, TcpStream};

use proxy_tests::clients::{Outcome, ask_on, ask_tcp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::wait::until_true;
use socket2::{Domain, Socket, Type};

use super::*;

/// Ejections are short, so that a server that is back is soon used again.
const SHORT: &str = "eject = { time = \"50ms\", max_time = \"50ms\" }\n";

#[track_caller]
fn assert_near(counts: (usize, usize), expected: (usize, usize), off_by: usize, what: &str) {
    let is_near = counts.0.abs_diff(expected.0) <= off_by;
    assert!(is_near && counts.0 + counts.1 == expected.0 + expected.1, "{what}: {counts:?}");
}

#[test]
fn open_connections_are_shared_by_weight() {
    for (balance, off_by) in [("random-two", 2), ("least-connections", 2), ("round-robin", 4)] {
        isolate();
        let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
        let upstream = format!("balance = \"{balance}\"");
        let proxy = with(&upstream, &[(A, "weight = 1"), (B, "weight = 3")]).flag("--workers", "2").start();
        let mut open: Vec<_> = (0..60).map(|_| connect(at(LISTEN))).collect();
        assert!(open.iter_mut().all(|stream| ask_on(stream, "hello").answered()));
        assert_near((a.accepted(), b.accepted()), (15, 45), off_by, balance);
        assert_eq!(
            proxy.metrics().sum("proxy_upstream_server_connections", &[("server", B)]),
            b.accepted() as f64
        );
    }
}

#[test]
fn backups_serve_while_nobody_else_does() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let _proxy = with(SHORT, &[(A, ""), (B, "backup = true")]).start();
    let ask = || ask_tcp(at(LISTEN), "hello", TIMEOUT);
    assert!((0..20).all(|_| ask() == Outcome::Answered("A hello".into())));
    drop(a);
    assert!((0..20).all(|_| ask() == Outcome::Answered("B hello".into())));
    let a = servers::Tcp::lines(A, "A");
    until_true("it is given back", || ask() == Outcome::Answered("A hello".into()));
    let before = b.accepted();
    assert!((0..20).all(|_| ask().answered()));
    assert_eq!((b.accepted(), a.accepted()), (before, 21));
}

/// Which server each of these clients gets.
#[track_caller]
fn places() -> Vec<String> {
    (1..=40).map(place).collect()
}

#[track_caller]
fn place(client: u8) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let from = SocketAddr::from(([127, 0, 1, client], 0));
    socket.bind(&from.into()).expect("bind");
    socket.connect(&at(LISTEN).into()).expect("connect");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    match ask_on(&mut stream, "hello") {
        Outcome::Answered(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn clients_stay_with_their_server_whatever_happens_to_the_proxy_and_other_servers() {
    isolate();
    let (_a, _b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let c = servers::Tcp::lines(C, "C");
    let upstream = format!("balance = \"source-hash\"\n{SHORT}");
    let proxy = with(&upstream, &[(A, ""), (B, ""), (C, "weight = 2")]).flag("--workers", "2").start();
    let before = places();
    let count = |name: &str| before.iter().filter(|place| place.starts_with(name)).count();
    assert!(["A", "B", "C"].iter().all(|name| count(name) >= 3), "{before:?}");
    for upheaval in [Upheaval::Kill, Upheaval::Reload] {
        upheaval.strike(&proxy);
        assert_eq!(places(), before, "{upheaval:?}");
    }
    drop(c);
    for (was, is) in before.iter().zip(places()) {
        let has_gone = was.starts_with('C');
        assert!(*was == is || has_gone && !is.starts_with('C'), "{was} {is}");
    }
    let _c = servers::Tcp::lines(C, "C");
    until_true("all are back", || places() == before);
}
