//! Listening sockets in the service manager's keeping: what becomes of them, and of what waits in them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use proxy_tests::clients::{Outcome, ask_on, ask_tcp, ask_udp, connect, udp};
use proxy_tests::manager::{LISTEN, Manager, SERVER};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::kill_with_children;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers;
use proxy_tests::wait::until_true;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Ends every process of a proxy at once.
fn kill_all(proxy: &Proxy) {
    kill_with_children(proxy.supervisor());
    proxy.wait_end();
}

#[test]
fn what_waits_outlives_the_death_of_every_process() {
    isolate();
    let manager = Manager::start();
    let (_tcp, _udp) = (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"));
    let builder = |workers: usize| {
        let builder = manager.bare().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080");
        builder.upstream(SERVER).flag("--workers", &workers.to_string())
    };
    let mut proxy = builder(2).start();
    let mut most = 4;
    // With as many workers, with fewer, and with more than ever.
    for workers in [2, 1, 3] {
        manager.until_stored(&[("tcp-127.0.0.1_8080", most), ("udp-127.0.0.1_8080", most)]);
        assert!(ask_tcp(at(LISTEN), "before", TIMEOUT).answered());
        kill_all(&proxy);
        let mut waiting = Vec::new();
        for number in 0..20 {
            let mut stream = connect(at(LISTEN));
            writeln!(stream, "{number}").expect("the kernel takes it");
            waiting.push(stream);
        }
        let datagram = udp(at(LISTEN));
        datagram.0.set_read_timeout(Some(TIMEOUT)).expect("timeout");
        datagram.0.send(b"there").expect("the kernel takes it");

        proxy = manager.restart(builder(workers)).start();
        for (number, stream) in waiting.iter().enumerate() {
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).expect("an answer");
            assert_eq!(answer, format!("A {number}\n"));
        }
        assert!(datagram.receive().expect("an answer").ends_with("there"));
        for _ in 0..50 {
            assert!(ask_tcp(at(LISTEN), "after", TIMEOUT).answered());
            assert!(ask_udp(at(LISTEN), "after", TIMEOUT).answered());
        }
        most = most.max(2 * workers);
    }
    manager.until_stored(&[("tcp-127.0.0.1_8080", 6), ("udp-127.0.0.1_8080", 6)]);
}

#[test]
fn what_comes_after_a_stop_waits_for_the_next_start() {
    isolate();
    let manager = Manager::start();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = manager.proxy().start();
    manager.until_stored(&[("tcp-127.0.0.1_8080", 4)]);
    proxy.verb(&["stop"]).says(0, &[]);
    assert_eq!(proxy.wait_end().code(), Some(0));
    let mut stream = connect(at(LISTEN));
    let _proxy = manager.restart(manager.proxy()).start();
    assert_eq!(ask_on(&mut stream, "waited"), Outcome::Answered("A waited".into()));
}

/// Else the port would stay taken, and what comes there would wait for nobody.
#[test]
fn sockets_of_listeners_that_are_gone_are_not_kept() {
    isolate();
    let manager = Manager::start();
    let _server = servers::Tcp::lines(SERVER, "A");
    let file = manager.directory.path().join("proxy.toml");
    let write = |bind: &str| {
        let upstream =
            format!("upstream = \"a\"\n[upstream.a]\n[[upstream.a.server]]\naddress = \"{SERVER}\"\n");
        let text =
            format!("[defaults]\nworkers = 1\n[[listener]]\nname = \"l\"\nbind = [{bind}]\n{upstream}");
        fs::write(&file, text).expect("write");
    };
    let builder = || manager.bare().flag("--config", file.to_str().expect("text"));
    let (tcp, udp) = (("tcp-127.0.0.1_8080", 2), ("udp-127.0.0.1_8081", 2));
    write(r#""tcp://127.0.0.1:8080", "udp://127.0.0.1:8081""#);
    let proxy = builder().start();
    manager.until_stored(&[tcp, udp]);
    // By a reload, there and back, and again.
    write(r#""tcp://127.0.0.1:8080""#);
    proxy.verb(&["reload"]).says(0, &[]);
    manager.until_stored(&[tcp]);
    write(r#""tcp://127.0.0.1:8080", "udp://127.0.0.1:8081""#);
    proxy.verb(&["reload"]).says(0, &[]);
    manager.until_stored(&[tcp, udp]);
    write(r#""udp://127.0.0.1:8081""#);
    proxy.verb(&["reload"]).says(0, &[]);
    manager.until_stored(&[udp]);
    until_true("nobody has the port", || TcpListener::bind(LISTEN).is_ok());

    // By a restart.
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    write(r#""tcp://127.0.0.1:8080""#);
    let proxy = manager.restart(builder()).start();
    manager.until_stored(&[tcp]);
    let why = "no listener of the settings is at udp 127.0.0.1:8081";
    assert_eq!(proxy.log().matches(why).count(), 2, "{}", proxy.log());
    assert!(ask_tcp(at(LISTEN), "there", TIMEOUT).answered());

    // By a restart with one more than is stored.
    kill_all(&proxy);
    write(r#""tcp://127.0.0.1:8080", "udp://127.0.0.1:8081""#);
    let _names = servers::Udp::naming(SERVER, "A");
    let _proxy = manager.restart(builder()).start();
    manager.until_stored(&[tcp, udp]);
    assert!(ask_tcp(at(LISTEN), "there", TIMEOUT).answered());
    assert!(ask_udp(at("127.0.0.1:8081"), "there", TIMEOUT).answered());
}

#[test]
fn socket_that_cannot_be_shared_is_refused_with_a_reason() {
    isolate();
    let manager = Manager::start();
    let socket = TcpListener::bind(LISTEN).expect("bind");
    manager.store("proxy.socket", socket.into());
    let failure = manager.restart(manager.proxy()).fails();
    failure
        .says(1, &["bound without SO_REUSEPORT", "ReusePort=yes", "cannot listen on tcp://127.0.0.1:8080"]);
}
