//! Access lists, and limits on what is open.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, clients, servers};

use crate::*;

fn both_servers() -> (servers::Tcp, servers::Udp) {
    (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"))
}

#[track_caller]
fn rejected(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metrics().sum(REJECTED, &[("reason", reason)])
}

#[track_caller]
fn until_open(proxy: &Proxy, count: usize) {
    until_true("so many are open", || proxy.metrics().sum(OPEN, &[]) == count as f64);
}

#[test]
fn who_is_denied_gets_nowhere() {
    isolate();
    let (tcp, udp) = both_servers();
    let file = File::new("allow = [\"127.0.0.0/24\"]\ndeny = [\"127.0.0.2/32\"]");
    let proxy = file.start();
    let _stream = let_in(ONE, LISTEN);
    let (_flow, outcome) = datagram_from(ONE);
    assert!(outcome.answered(), "{outcome:?}");
    through_everything(&proxy, || {
        turned_away(OTHER, LISTEN);
        turned_away("127.0.1.1", LISTEN_TOO);
        dropped(&proxy, OTHER, "denied");
    });
    assert_eq!((rejected(&proxy, "denied"), tcp.accepted()), (8.0, 1));
    assert_eq!(udp.seen().datagrams, 1);
    // Another list holds for who comes next; what is open goes on.
    file.write("deny = [\"127.0.0.1/32\"]");
    reload(&proxy);
    let _stream = let_in(OTHER, LISTEN);
    turned_away(ONE, LISTEN);
}

/// Both protocols and all addresses together.
#[test]
fn a_listener_has_so_many_open() {
    isolate();
    let _servers = both_servers();
    let file = File::new("max_connections = 4");
    let proxy = file.start();
    let mut streams = vec![let_in(ONE, LISTEN), let_in(OTHER, LISTEN), let_in(ONE, LISTEN_TOO)];
    let (_flow, outcome) = datagram_from(ONE);
    assert!(outcome.answered(), "{outcome:?}");
    through_everything(&proxy, || {
        turned_away(ONE, LISTEN);
        turned_away(OTHER, LISTEN_TOO);
        dropped(&proxy, OTHER, "listener_limit");
    });
    assert_eq!(rejected(&proxy, "listener_limit"), 8.0);
    drop(streams.pop());
    until_open(&proxy, 2);
    streams.push(let_in(OTHER, LISTEN));
    turned_away(ONE, LISTEN_TOO);
    assert!(streams.iter_mut().all(|stream| clients::ask_on(stream, "still").answered()));
}

/// Whatever dies, who has as many open as he may gets no more, and others do.
#[test]
fn a_source_has_so_many_open() {
    isolate();
    let _servers = both_servers();
    let file = File::new("max_connections_per_source = 3");
    let proxy = file.start();
    let mut streams = vec![let_in(ONE, LISTEN), let_in(ONE, LISTEN_TOO)];
    let (_flow, outcome) = datagram_from(ONE);
    assert!(outcome.answered(), "{outcome:?}");
    through_everything(&proxy, || {
        turned_away(ONE, LISTEN);
        turned_away(ONE, LISTEN_TOO);
        dropped(&proxy, ONE, "source_limit");
        drop(let_in(OTHER, LISTEN));
    });
    assert_eq!(rejected(&proxy, "source_limit"), 8.0);
    assert!(streams.iter_mut().all(|stream| clients::ask_on(stream, "still").answered()));
    drop(streams.pop());
    until_open(&proxy, 1);
    streams.push(let_in(ONE, LISTEN));
    turned_away(ONE, LISTEN);
}

/// A pool that hangs holds what it has until it is fenced, and its heir holds it then.
#[test]
fn a_source_at_its_limit_when_a_pool_hangs() {
    isolate();
    let _servers = both_servers();
    let file = File::new("max_connections_per_source = 2");
    let builder = file.builder().flag("--lease", "250ms").flag("--fence-after", "1500ms");
    let proxy = builder.start();
    let _streams = [let_in(ONE, LISTEN), let_in(ONE, LISTEN)];
    take_over(&proxy, PRIMARY, Signal::SIGSTOP);
    turned_away(ONE, LISTEN);
    assert!(rejected(&proxy, "source_limit") >= 1.0);
    drop(let_in(OTHER, LISTEN));
}

/// After thousands of connections that came and went, some turned away, some cut by the death of their pool,
/// nothing is counted: as many as ever may come, and not one more.
#[test]
fn nothing_is_left_of_who_has_gone() {
    const MOST: usize = 8;
    isolate();
    let _servers = both_servers();
    let proxy = File::new(&format!("max_connections_per_source = {MOST}")).start();
    for seat in [PRIMARY, proxy_tests::STANDBY] {
        let crowd = clients::Crowd::start(2 * MOST, |_| clients::ask_tcp(at(LISTEN), "hello", TIMEOUT));
        crowd.wait_answered(500);
        take_over(&proxy, seat, Signal::SIGKILL);
        crowd.wait_answered(500);
        let tally = crowd.finish();
        assert!(tally.cut() > 0 && tally.unanswered == 0, "{tally:?}");
    }
    assert!(rejected(&proxy, "source_limit") > 0.0);
    until_open(&proxy, 0);
    let _streams: Vec<_> = (0..MOST).map(|_| let_in(ONE, LISTEN)).collect();
    turned_away(ONE, LISTEN);
    assert_eq!(proxy.metrics().sum("proxy_lost_flows_total", &[]), 0.0);
}

/// A limit that comes by a reload holds at once, counting what is open; one that goes, too.
#[test]
fn limits_come_and_go_by_reload() {
    isolate();
    let _servers = both_servers();
    let file = File::new("");
    let proxy = file.start();
    let mut streams = vec![let_in(ONE, LISTEN), let_in(ONE, LISTEN)];
    for rules in ["max_connections_per_source = 2", "max_connections = 2"] {
        file.write(rules);
        reload(&proxy);
        turned_away(ONE, LISTEN);
        turned_away(ONE, LISTEN_TOO);
    }
    file.write("");
    reload(&proxy);
    streams.push(let_in(ONE, LISTEN));
    assert!(TcpListener::bind(LISTEN).is_err(), "the proxy listens");
}
