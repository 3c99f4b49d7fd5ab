//! What the rules of a listener allow: whom it lets in, how many, how fast, for how long. Each limit holds for all
//! workers of both pools, and goes on through takeovers and reloads.

mod open;
mod pacing;
mod rate;
mod time;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_on};
use proxy_tests::handover::reload;
use proxy_tests::net::at;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::PATIENCE;
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

const LISTEN: &str = "127.0.0.1:8080";
/// Another address of the same listener.
const LISTEN_TOO: &str = "127.0.0.1:8081";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(5);
/// Two clients.
const ONE: &str = "127.0.0.1";
const OTHER: &str = "127.0.0.2";
const REJECTED: &str = "proxy_listener_connections_rejected_total";
const DROPPED: &str = "proxy_udp_datagrams_dropped_total";
const OPEN: &str = "proxy_listener_connections";

/// A settings file with these rules for the one listener.
struct File {
    path: PathBuf,
    _directory: TempDir,
}

impl File {
    #[track_caller]
    fn new(rules: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = Self { path: directory.path().join("proxy.toml"), _directory: directory };
        file.write(rules);
        file
    }

    #[track_caller]
    fn write(&self, rules: &str) {
        let bind = [format!("tcp://{LISTEN}"), format!("tcp://{LISTEN_TOO}"), format!("udp://{LISTEN}")];
        let listener = format!("[[listener]]\nname = \"a\"\nbind = {bind:?}\nupstream = \"a\"\n{rules}\n");
        let upstream = format!("[upstream.a]\n[[upstream.a.server]]\naddress = \"{SERVER}\"\n");
        let text = format!("[defaults]\nworkers = 2\n{listener}{upstream}");
        fs::write(&self.path, text).expect("write settings");
    }

    #[track_caller]
    fn builder(&self) -> Builder {
        Proxy::builder().flag("--config", self.path.to_str().expect("text"))
    }

    #[track_caller]
    fn start(&self) -> Proxy {
        let proxy = self.builder().start();
        proxy.until_status("protected", Status::protected);
        proxy
    }
}

/// A client at an address of its own.
#[track_caller]
fn connect_from(source: &str, address: &str) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let source: SocketAddr = format!("{source}:0").parse().expect("an address");
    socket.bind(&source.into()).expect("bind a client");
    socket.connect_timeout(&at(address).into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.set_write_timeout(Some(PATIENCE)).expect("timeout");
    Ok(socket.into())
}

/// A connection that is let in.
#[track_caller]
fn let_in(source: &str, address: &str) -> TcpStream {
    let mut stream = connect_from(source, address).expect("connect");
    let outcome = ask_on(&mut stream, "hello");
    assert!(outcome.answered(), "{source} to {address}: {outcome:?}");
    stream
}

/// A connection that is reset at once.
#[track_caller]
fn turned_away(source: &str, address: &str) {
    // The reset may come before the client has seen that it is connected.
    let end = connect_from(source, address).and_then(|mut stream| stream.read(&mut [0]));
    assert!(end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{source}: {end:?}");
}

/// A datagram from a socket of its own, and its answer.
#[track_caller]
fn datagram_from(source: &str) -> (UdpSocket, Outcome) {
    let socket = UdpSocket::bind(format!("{source}:0")).expect("bind");
    socket.connect(LISTEN).expect("connect");
    let client = proxy_tests::clients::Udp(socket);
    let outcome = client.ask("hello", TIMEOUT);
    (client.0, outcome)
}

/// A datagram that is dropped.
#[track_caller]
fn dropped(proxy: &Proxy, source: &str, reason: &str) {
    let labels = [("reason", reason)];
    let before = proxy.metrics().sum(DROPPED, &labels);
    let socket = UdpSocket::bind(format!("{source}:0")).expect("bind");
    socket.send_to(b"hello", LISTEN).expect("send");
    proxy.until_metric(DROPPED, &labels, before + 1.0);
}

/// What a limit has to survive, one after the other.
#[track_caller]
fn through_everything(proxy: &Proxy, holds: impl Fn()) {
    holds();
    for seat in [proxy_tests::PRIMARY, proxy_tests::STANDBY] {
        take_over(proxy, seat, Signal::SIGKILL);
        holds();
    }
    proxy.until_status("protected", Status::protected);
    reload(proxy);
    holds();
}
