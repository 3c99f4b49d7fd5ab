//! A pool that dies or hangs, or a reload, in the middle of a header and after it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use proxy_tests::clients::{carries, connect, udp};
use proxy_tests::handover::reload;
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::takeover::take_over;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, pattern};

use super::{ACCEPTS, LISTEN, REJECTED, SERVER, binary, expect, line, proxy, told};

const ENDS: [fn(&Proxy); 3] = [
    |proxy| take_over(proxy, PRIMARY, Signal::SIGKILL),
    |proxy| take_over(proxy, PRIMARY, Signal::SIGSTOP),
    |proxy| _ = reload(proxy),
];

/// A listener beside another one, or only that other one, whose upstream is this.
fn settings(has_front: bool, of_other: &str) -> String {
    let front = r#"
        [[listener]]
        name = "front"
        bind = ["tcp://127.0.0.1:8080", "udp://127.0.0.1:8080"]
        upstream = "app"
        accept_proxy = { from = ["127.0.0.1"], timeout = "1m" }
    "#;
    let other = format!(
        r#"
        [[listener]]
        name = "other"
        bind = ["tcp://127.0.0.1:8081"]
        upstream = "{of_other}"
        [upstream.{of_other}]
        send_proxy = "v2"
        [[upstream.{of_other}.server]]
        address = "127.0.0.1:9001"
        "#
    );
    if has_front { format!("{front}{other}") } else { other }
}

/// A listener that is gone from the settings treats what it has as before; and so does an upstream.
#[test]
fn what_a_listener_has_is_carried_on_when_the_listener_is_gone() {
    for of_other in ["app", "another"] {
        isolate();
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("proxy.toml");
        fs::write(&path, settings(true, "app")).expect("write");
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let echo = servers::Udp::echo(SERVER);
        let proxy = Proxy::builder().flag("--config", path.to_str().expect("text")).start();
        let (source, asked) = told();
        let mut half = connect(at(LISTEN));
        half.write_all(&line(source, asked)[..20]).expect("write");
        let datagrams = udp(at(LISTEN)).0;
        datagrams.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let ask = || {
            datagrams.send(&[&binary(source, asked, 2)[..], b"ping"].concat()).expect("send");
            let mut buffer = [0; 100];
            let size = datagrams.recv(&mut buffer).expect("an answer");
            assert_eq!(buffer[..size], [&binary(source, asked, 2)[..], b"ping"].concat());
        };
        ask();
        fs::write(&path, settings(false, of_other)).expect("write");
        reload(&proxy);
        ask();
        assert_eq!(echo.seen().peers.len(), 1, "the flow is the same");
        if of_other != "app" {
            continue;
        }
        half.write_all(&[&line(source, asked)[20..], b"ping"].concat()).expect("write");
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        expect(&mut server, &binary(source, asked, 1));
        expect(&mut server, b"ping");
        carries(&mut server, &mut half);
    }
}

/// Whoever has come by a listener and is let in only after the settings have it no more is let in by its rules.
#[test]
fn a_listener_that_is_gone_lets_in_whom_it_let_in_before() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("proxy.toml");
    let limits = "deny = [\"192.0.2.66\"]\nmax_connections_per_source = 1\nupstream";
    fs::write(&path, settings(true, "app").replacen("upstream", limits, 1)).expect("write");
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = Proxy::builder().flag("--config", path.to_str().expect("text")).start();
    let (one, asked) = told();
    let denied = at("192.0.2.66:4711");
    let half = |source| {
        let mut client = connect(at(LISTEN));
        client.write_all(&line(source, asked)[..20]).expect("write");
        client
    };
    let clients = [half(denied), half(one), half(one)];
    until_true("all are accepted", || proxy.metrics().sum("proxy_listener_connections", &[]) == 3.0);
    fs::write(&path, settings(false, "app")).expect("write");
    reload(&proxy);
    let [mut evil, mut first, mut second] = clients;
    let go_on = |client: &mut TcpStream, source| client.write_all(&line(source, asked)[20..]).expect("write");
    go_on(&mut evil, denied);
    proxy.until_metric(REJECTED, &[("reason", "denied")], 1.0);
    go_on(&mut first, one);
    let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
    expect(&mut server, &binary(one, asked, 1));
    go_on(&mut second, one);
    proxy.until_metric(REJECTED, &[("reason", "source_limit")], 1.0);
    carries(&mut first, &mut server);
}

/// One connection has half a header, one all of it, and two have carried something since; headers go both in
/// and out.
#[test]
fn a_header_outlives_who_was_reading_it() {
    for end in ENDS {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = proxy(ACCEPTS, r#"send_proxy = "v2""#).flag("--fence-after", "400ms").start();
        let ((source, asked), next) =
            (told(), || accepted.recv_timeout(PATIENCE).expect("the proxy connects"));
        let header = line(source, asked);
        let mut half = connect(at(LISTEN));
        half.write_all(&header[..20]).expect("write");
        let mut whole = connect(at(LISTEN));
        whole.write_all(&header).expect("write");
        let mut of_whole = next();
        let mut busy = connect(at(LISTEN));
        busy.write_all(&[&header[..], b"ping"].concat()).expect("write");
        let mut of_busy = next();
        expect(&mut of_busy, &binary(source, asked, 1));
        expect(&mut of_busy, b"ping");
        carries(&mut of_busy, &mut busy);
        let mut sender = busy.try_clone().expect("clone");
        // Nobody reads: bytes are in all buffers, and the positions are compared.
        let length = 8 << 20;
        let sender = std::thread::spawn(move || pattern::write(&mut sender, length).expect("write"));
        proxy.until_metric("proxy_pipes", &[("state", "lent")], 1.0);

        end(&proxy);

        half.write_all(&[&header[20..], b"ping"].concat()).expect("write");
        let mut of_half = next();
        expect(&mut of_half, &binary(source, asked, 1));
        expect(&mut of_half, b"ping");
        expect(&mut of_whole, &binary(source, asked, 1));
        carries(&mut whole, &mut of_whole);
        carries(&mut of_whole, &mut whole);
        assert_eq!(pattern::verify(&mut of_busy.take(length as u64)).expect("read"), length);
        sender.join().expect("the sender");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("proxy_takeover_audit_mismatches_total", &[]), 0.0);
        assert!(metrics.sum("proxy_adopted_flows_total", &[("protocol", "tcp")]) >= 3.0);
        assert_eq!(metrics.sum(REJECTED, &[]), 0.0);
    }
}
