//! The client's address: PROXY headers taken from whoever is in front, and sent to servers.

mod datagrams;
mod incoming;
mod outgoing;
mod programs;
mod takeover;
mod transparent;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use proxy_tests::builder::Builder;
use proxy_tests::net::at;
use proxy_tests::proxy::Proxy;

/// Where clients connect to.
const LISTEN: &str = "127.0.0.1:8080";
/// Where their server listens.
const SERVER: &str = "127.0.0.1:9001";
const REJECTED: &str = "proxy_listener_connections_rejected_total";
/// For a listener: everybody on the loopback begins with a header, within a time that no test reaches.
const ACCEPTS: &str = r#"accept_proxy = { from = ["127.0.0.1", "::1"], timeout = "1m" }"#;

/// A proxy of one listener and one upstream, with these settings beside those that it needs.
#[track_caller]
fn proxy(listener: &str, upstream: &str) -> Builder {
    // Version 1 is for streams only.
    let udp = if upstream.contains("v1") { String::new() } else { format!(r#", "udp://{LISTEN}""#) };
    let text = format!(
        r#"
        [standby]
        failback_after = "never"
        [[listener]]
        name = "front"
        bind = ["tcp://{LISTEN}"{udp}]
        upstream = "app"
        {listener}
        [upstream.app]
        {upstream}
        [[upstream.app.server]]
        address = "{SERVER}"
        "#
    );
    Proxy::builder().settings(&text).flag("--workers", "2")
}

/// The header of version 1 that says so.
fn line(source: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), asked.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), asked.port()).into_bytes()
}

/// The header of version 2 that says so, of IPv4 addresses; `kind` is 1 for TCP and 2 for UDP.
fn binary(source: SocketAddr, asked: SocketAddr, kind: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    header.extend([0x10 | kind, 0, 12]);
    for address in [source, asked] {
        let std::net::IpAddr::V4(ip) = address.ip() else { panic!("{address} is not IPv4") };
        header.extend(ip.octets());
    }
    header.extend([source, asked].iter().flat_map(|address| address.port().to_be_bytes()));
    header
}

/// The header of version 2 of who speaks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Whom headers tell of in these tests.
fn told() -> (SocketAddr, SocketAddr) {
    (at("192.0.2.7:4711"), at("198.51.100.1:443"))
}

/// These bytes come next.
#[track_caller]
fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap_or_else(|error| panic!("{error}, not {bytes:?}"));
    let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(show(&got), show(bytes));
}
