//! Headers that servers get.

use std::io::Write;
use std::net::{Shutdown, TcpListener};

use proxy_tests::clients::{Outcome, ask_on, carries, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::pattern;
use proxy_tests::servers::{self, BlackHole, PATIENCE, read_all, reset};
use proxy_tests::wait::until_true;
use socket2::SockRef;

use super::{LISTEN, SERVER, binary, expect, line, proxy};

#[test]
fn the_server_is_told_before_the_first_byte() {
    isolate();
    for version in ["v1", "v2"] {
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let proxy = proxy("", &format!(r#"send_proxy = "{version}""#)).start();
        let mut client = connect(at(LISTEN));
        let own = client.local_addr().expect("address");
        let header = if version == "v1" { line(own, at(LISTEN)) } else { binary(own, at(LISTEN), 1) };
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        // It comes by itself, without a byte of the client's.
        expect(&mut server, &header);
        carries(&mut client, &mut server);
        carries(&mut server, &mut client);
        let writer = client.try_clone().expect("clone");
        let length = 2 << 20;
        let sender = std::thread::spawn(move || {
            pattern::write(&mut &writer, length).expect("write");
            writer.shutdown(Shutdown::Write).expect("shutdown");
        });
        assert_eq!(pattern::verify(&mut server).expect("all of it, and an end"), length);
        sender.join().expect("the sender");
        // Bytes of the client's, and not of the header, are what is counted.
        proxy.until_metric("proxy_listener_received_bytes_total", &[], (length + 4) as f64);
        assert_eq!(proxy.metrics().sum("proxy_listener_received_bytes_total", &[]), (length + 4) as f64);
    }
}

/// Servers that speak first, that wait for bytes before they accept, and that answer without having read.
#[test]
fn servers_of_all_manners_get_it() {
    isolate();
    let proxy = proxy("", r#"send_proxy = "v1""#).start();
    let listener = TcpListener::bind(SERVER).expect("bind");
    SockRef::from(&listener).set_nonblocking(false).expect("blocking");
    let defer = |seconds: i32| {
        let level = libc::IPPROTO_TCP;
        let value = (&raw const seconds).cast();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        // SAFETY: four bytes are read from a live local.
        let result = unsafe { libc::setsockopt(fd, level, libc::TCP_DEFER_ACCEPT, value, 4) };
        assert_eq!(result, 0);
    };
    defer(30);
    let mut client = connect(at(LISTEN));
    let header = line(client.local_addr().expect("address"), at(LISTEN));
    // It is accepted although the client is silent.
    let (mut server, _) = listener.accept().expect("accept");
    server.write_all(b"ping").expect("write");
    carries(&mut server, &mut client);
    expect(&mut client, b"ping");
    expect(&mut server, &header);
    carries(&mut client, &mut server);

    defer(0);
    let mut client = connect(at(LISTEN));
    let (mut server, _) = listener.accept().expect("accept");
    server.write_all(b"no").expect("write");
    reset(server).expect("reset");
    // What it said arrives or is cut by the reset; the proxy is none the worse.
    let _ = read_all(&mut client);
    until_true("both connections but one are over", || {
        proxy.metrics().sum("proxy_listener_connections", &[]) == 1.0
    });
    assert!(proxy.status().whole());
}

/// Each server that is tried gets one header, and what the client sent early.
#[test]
fn a_retry_loses_and_doubles_nothing() {
    isolate();
    let other = "127.0.0.1:9002";
    let _hole = BlackHole::start(other);
    let upstream = format!(
        "send_proxy = \"v2\"\nconnect_timeout = \"300ms\"\n[[upstream.app.server]]\naddress = \"{other}\""
    );
    let proxy = proxy("", &upstream).start();
    let _server = servers::Tcp::start(SERVER, |mut stream| {
        let mut header = [0; 28];
        std::io::Read::read_exact(&mut stream, &mut header)?;
        servers::answer_lines(&header[16..24].escape_ascii().to_string(), stream)
    });
    let clients = (0..8).map(|_| {
        std::thread::spawn(|| {
            let mut client = connect(at(LISTEN));
            ask_on(&mut client, "hello")
        })
    });
    for client in clients.collect::<Vec<_>>() {
        let answer = client.join().expect("a client");
        assert_eq!(answer, Outcome::Answered(r"\x7f\x00\x00\x01\x7f\x00\x00\x01 hello".into()));
    }
    proxy.until_metric("proxy_upstream_server_connect_failures_total", &[], 1.0);
}
