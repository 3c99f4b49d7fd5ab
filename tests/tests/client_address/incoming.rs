//! Headers that the proxy takes, and what is none.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use proxy_tests::clients::{carries, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::servers::{self, PATIENCE, read_all};
use socket2::{Domain, Socket, Type};

use super::{ACCEPTS, LISTEN, LOCAL, REJECTED, SERVER, binary, expect, line, proxy, told};

/// A client at this address.
#[track_caller]
fn connect_from(source: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&SocketAddr::new(source.parse().expect("an address"), 0).into()).expect("bind");
    socket.connect(&at(LISTEN).into()).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.into()
}

/// What a header tells goes on to the server, by the other version; and what follows it arrives, as it was.
#[test]
fn a_header_is_taken_however_it_comes() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy(ACCEPTS, r#"send_proxy = "v1""#).start();
    let (source, asked) = told();
    let with_more = [
        &binary(source, asked, 1)[..14],
        &[0, 21],
        &binary(source, asked, 1)[16..],
        &[4, 0, 6, 1, 2, 3, 4, 5, 6],
    ];
    for header in [line(source, asked), binary(source, asked, 1), with_more.concat()] {
        // Whole and alone.
        let mut client = connect(at(LISTEN));
        client.write_all(&header).expect("write");
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        expect(&mut server, &line(source, asked));
        carries(&mut client, &mut server);
        carries(&mut server, &mut client);
        // With the first bytes, and an end.
        let mut client = connect(at(LISTEN));
        client.write_all(&[&header[..], b"PROXY ping"].concat()).expect("write");
        client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        expect(&mut server, &line(source, asked));
        assert_eq!(read_all(&mut server).expect("an end"), b"PROXY ping");
        // Byte by byte.
        let mut client = connect(at(LISTEN));
        for byte in &header {
            client.write_all(&[*byte]).expect("write");
            std::thread::yield_now();
        }
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        expect(&mut server, &line(source, asked));
        carries(&mut client, &mut server);
    }
    assert_eq!(proxy.metrics().sum(REJECTED, &[]), 0.0);
}

#[test]
fn who_speaks_for_itself_is_the_client() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = proxy(ACCEPTS, r#"send_proxy = "v1""#).start();
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut client = connect(at(LISTEN));
        client.write_all(header).expect("write");
        let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
        expect(&mut server, &line(client.local_addr().expect("address"), at(LISTEN)));
        carries(&mut client, &mut server);
    }
}

/// Who is not trusted may write what he likes, and is who he is.
#[test]
fn others_are_not_looked_at() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _proxy = proxy(ACCEPTS, r#"send_proxy = "v1""#).start();
    let (source, asked) = told();
    let mut client = connect_from("127.0.0.2");
    let mut server = accepted.recv_timeout(PATIENCE).expect("the proxy connects");
    expect(&mut server, &line(client.local_addr().expect("address"), at(LISTEN)));
    client.write_all(&line(source, asked)).expect("write");
    expect(&mut server, &line(source, asked));
    carries(&mut server, &mut client);
}

/// What is no header ends its own connection, and is counted by what was wrong with it.
#[test]
fn hostile_headers_are_turned_away() {
    isolate();
    let server = servers::Tcp::lines(SERVER, "A");
    let accepts = r#"accept_proxy = { from = ["127.0.0.0/8"], timeout = "1s" }"#;
    let proxy = proxy(accepts, "").start();
    let (source, asked) = told();
    let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 70_000]].concat();
    let huge = [&binary(source, asked, 1)[..14], &[0xff, 0xff]].concat();
    let cases: [(&[u8], bool, &str); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", false, "header_invalid"),
        (&endless, false, "header_invalid"),
        (&huge, false, "header_invalid"),
        (b"PROXY TCP4 192.0.2.7\r\n", false, "header_invalid"),
        (b"PROXY TCP4 192.0.2.7", true, "header_missing"),
        (b"", true, "header_missing"),
        (b"PROXY TCP4 192.0.2.7", false, "header_timeout"),
    ];
    for (index, (bytes, ends, reason)) in cases.into_iter().enumerate() {
        let before = proxy.metrics().sum(REJECTED, &[("reason", reason)]);
        let mut client = connect(at(LISTEN));
        // The proxy may be done with it before it is written.
        let _ = client.write_all(bytes);
        if ends {
            let _ = client.shutdown(std::net::Shutdown::Write);
        }
        let error = read_all(&mut client).expect_err("it is reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "case {index}");
        proxy.until_metric(REJECTED, &[("reason", reason)], before + 1.0);
    }
    assert_eq!(proxy.metrics().sum(REJECTED, &[]), cases.len() as f64);
    assert_eq!(server.accepted(), 0);
    let mut client = connect(at(LISTEN));
    client.write_all(&[&line(source, asked)[..], b"hello\n"].concat()).expect("write");
    expect(&mut client, b"A hello\n");
    assert!(proxy.status().whole());
}
