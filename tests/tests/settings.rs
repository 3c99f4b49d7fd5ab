//! A proxy with a settings file: several listeners and upstreams, and files that are refused.

use std::fs;
use std::time::Duration;

use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, ask_udp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use tempfile::TempDir;

const ONE: &str = "127.0.0.1:8081";
const TWO: &str = "127.0.0.1:8082";
const BOTH: &str = "127.0.0.1:8083";
const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";
const NOBODY: &str = "127.0.0.1:9009";
const TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTIONS: &str = "proxy_upstream_server_connections_total";

/// Three listeners with an upstream each; the third one's servers are those of the others.
const GOOD: &str = r#"
[defaults]
workers = 2
[[listener]]
name = "one"
bind = ["tcp://127.0.0.1:8081", "udp://127.0.0.1:8081"]
upstream = "first"
[[listener]]
name = "two"
bind = ["tcp://127.0.0.1:8082", "udp://127.0.0.1:8082"]
upstream = "second"
[[listener]]
name = "both"
bind = ["tcp://127.0.0.1:8083"]
upstream = "all"
[upstream.first]
[[upstream.first.server]]
address = "127.0.0.1:9001"
[upstream.second]
[[upstream.second.server]]
address = "127.0.0.1:9002"
[upstream.all]
[[upstream.all.server]]
address = "127.0.0.1:9001"
[[upstream.all.server]]
address = "127.0.0.1:9002"
"#;

/// A directory with this as its `proxy.toml`, and a proxy that is started there.
fn with_file(text: &str) -> (TempDir, Builder) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("proxy.toml");
    fs::write(&path, text).expect("write");
    let builder = Proxy::builder().flag("--config", path.to_str().expect("text"));
    (directory, builder)
}

#[track_caller]
fn assert_answers(listen: &str, name: &str) {
    for number in 0..10 {
        let outcome = ask_tcp(at(listen), "hello", TIMEOUT);
        assert_eq!(outcome, Outcome::Answered(format!("{name} hello")), "connection {number} to {listen}");
    }
}

#[track_caller]
fn assert_answers_by_udp(listen: &str, name: &str) {
    for number in 0..10 {
        let outcome = ask_udp(at(listen), "hello", TIMEOUT);
        let Outcome::Answered(answer) = &outcome else {
            panic!("datagram {number} to {listen}: {outcome:?}")
        };
        assert!(answer.starts_with(&format!("{name} ")), "datagram {number} to {listen}: {answer}");
    }
}

#[test]
fn each_listener_has_the_servers_of_its_upstream() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let (udp_a, udp_b) = (servers::Udp::naming(A, "A"), servers::Udp::naming(B, "B"));
    let (_directory, builder) = with_file(GOOD);
    let proxy = builder.start();
    assert_answers(ONE, "A");
    assert_answers(TWO, "B");
    assert_eq!((a.accepted(), b.accepted()), (10, 10));
    assert_answers_by_udp(ONE, "A");
    assert_answers_by_udp(TWO, "B");
    assert_eq!((udp_a.seen().datagrams, udp_b.seen().datagrams), (10, 10));
    for _ in 0..20 {
        assert!(ask_tcp(at(BOTH), "hello", TIMEOUT).answered());
    }
    assert_eq!(a.accepted() + b.accepted(), 40);
    assert!(a.accepted() > 10 && b.accepted() > 10, "{} and {}", a.accepted(), b.accepted());

    // TCP connections and UDP flows; an address in two upstreams is two servers.
    let metrics = proxy.until_metric(CONNECTIONS, &[], 60.0);
    for (upstream, count) in [("first", 20.0), ("second", 20.0), ("all", 20.0)] {
        assert_eq!(metrics.sum(CONNECTIONS, &[("upstream", upstream)]), count, "{upstream}");
    }
    assert!(metrics.sum(CONNECTIONS, &[("upstream", "all"), ("server", A)]) < 20.0);
    let listeners: Vec<_> = proxy
        .status()
        .listeners
        .into_iter()
        .map(|l| format!("{} {} {}", l.name, l.address, l.upstream))
        .collect();
    assert_eq!(listeners[0], "one tcp://127.0.0.1:8081 first");
    assert_eq!(listeners[3..], ["two udp://127.0.0.1:8082 second", "both tcp://127.0.0.1:8083 all"]);
    proxy.verb(&["status"]).says(0, &["udp://127.0.0.1:8082  second"]);
}

/// What a connection has tried is remembered within its upstream, whatever comes before that.
#[test]
fn refusing_server_of_a_later_upstream_is_passed_over() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let second = format!("[[upstream.second.server]]\naddress = \"{NOBODY}\"\n[[upstream.second.server]]\n");
    let (_directory, builder) = with_file(&GOOD.replacen("[[upstream.second.server]]\n", &second, 1));
    let proxy = builder.start();
    assert_answers(TWO, "B");
    assert_answers(TWO, "B");
    assert_eq!((a.accepted(), b.accepted()), (0, 20));
    let failures = [("upstream", "second"), ("server", NOBODY)];
    proxy.until_metric("proxy_upstream_server_connect_failures_total", &failures, 1.0);
}

#[test]
fn nobody_else_is_asked_when_an_upstream_is_down() {
    isolate();
    let a = servers::Tcp::lines(A, "A");
    let (_directory, builder) = with_file(GOOD);
    let _proxy = builder.start();
    for _ in 0..5 {
        let outcome = ask_tcp(at(TWO), "hello", TIMEOUT);
        assert!(matches!(outcome, Outcome::Reset | Outcome::Closed), "{outcome:?}");
    }
    assert_eq!(a.accepted(), 0);
    assert_answers(ONE, "A");
}

#[test]
fn bad_file_is_refused_by_line_and_column() {
    isolate();
    let (directory, builder) = with_file(&GOOD.replace("upstream = \"second\"", "upstream = \"secnd\""));
    let path = directory.path().join("proxy.toml");
    let message = |rest: &str| format!("{}:{rest}", path.display());
    let failure = builder.fails();
    assert_eq!(failure.code, Some(2), "{failure:?}");
    let expected = message("11:12: upstream \"secnd\": there is no such upstream; the nearest is second");
    assert_eq!(failure.text, format!("proxy: {expected}\n"));

    let (directory, builder) = with_file(&GOOD.replace("workers = 2", "wrokers = 2"));
    let path = directory.path().join("proxy.toml");
    let expected =
        format!("FAIL {}:3:1: wrokers — there is no such setting; the nearest is workers", path.display());
    builder.without_metrics().check().says(1, &[&expected]);
}

/// What the running proxy says of a file that it cannot take, it says to who asked.
#[test]
fn reload_takes_the_file_anew_or_refuses_it_whole() {
    isolate();
    let (a, _b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let (directory, builder) = with_file(GOOD);
    let path = directory.path().join("proxy.toml");
    let proxy = builder.start();
    let mut old = connect(at(ONE));
    assert_eq!(ask_on(&mut old, "before"), Outcome::Answered("A before".into()));

    let other = GOOD.replace("upstream = \"first\"", "upstream = \"second\"");
    for round in 0..5 {
        // The listener `two` would go, and the port of `one` change, if any of it was taken.
        let bad = other.replace("name = \"two\"", "name = \"one\"").replace(":8081", ":8091");
        fs::write(&path, bad).expect("write");
        let expected = format!("{}:9:8: name \"one\": another listener has this name", path.display());
        proxy.verb(&["reload"]).says(1, &[&expected]);
        assert_answers(ONE, "A");
        assert_answers(TWO, "B");
        assert_eq!(proxy.status().listeners[2].name, "two", "round {round}");
    }

    fs::write(&path, &other).expect("write");
    proxy.verb(&["reload"]).says(0, &[]);
    assert_answers(ONE, "B");
    assert_eq!(ask_on(&mut old, "after"), Outcome::Answered("A after".into()));
    assert_eq!(a.accepted(), 51);
}

#[test]
fn check_explains_a_file() {
    isolate();
    let _servers = [A, B].map(|address| servers::Tcp::lines(address, "X"));
    let (_directory, builder) = with_file(GOOD);
    let failure = builder.without_metrics().check();
    let all = ["proxy.toml: 5 addresses, 3 upstreams, 4 servers", "listener two: udp://127.0.0.1:8082"];
    failure.says(0, &all);
    failure.says(0, &["upstream all: server 127.0.0.1:9002"]);
    // What it comes to, before what was found.
    let explained = "listener two at tcp://127.0.0.1:8082, udp://127.0.0.1:8082\n  to upstream second\n";
    failure.says(0, &[explained, "upstream all, balanced by random-two\n  to 127.0.0.1:9001\n"]);
    let idle = GOOD.replace("upstream = \"all\"", "upstream = \"all\"\nudp_idle = \"1s\"");
    let (_directory, builder) = with_file(&idle);
    builder.without_metrics().check().says(0, &[
        "warn",
        "proxy.toml:16:12: udp_idle \"1s\" — has no effect: the listener has no UDP address; leave it out",
    ]);
    let unused = "[upstream.third]\n[[upstream.third.server]]\naddress = \"127.0.0.1:9001\"\n";
    let (_directory, builder) = with_file(&format!("{GOOD}{unused}"));
    builder.without_metrics().check().says(0, &["warn upstream third — no listener's traffic goes there"]);
    // The port of a file's listener is taken.
    let _taken = std::net::TcpListener::bind(TWO).expect("bind");
    let (_directory, builder) = with_file(GOOD);
    builder.without_metrics().check().says(1, &["FAIL listener two: tcp://127.0.0.1:8082", "taken by"]);
}
