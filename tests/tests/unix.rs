//! Upstream servers at unix sockets.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_tcp, carries, connect};
use proxy_tests::handover::{KINDS, hand_over, reload};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{PATIENCE, read_all, reset};
use proxy_tests::settings::File;
use proxy_tests::takeover::take_over;
use proxy_tests::traffic::Traffic;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, in_flight, unix};

const LISTEN: &str = "127.0.0.1:8080";
const TIMEOUT: Duration = Duration::from_secs(5);
const FAILURES: &str = "proxy_upstream_server_connect_failures_total";
const UNAUDITED: &str = "proxy_takeover_unaudited_total";
/// What fills the buffers of both sides of the proxy and its pipe.
const PLENTY: usize = 24 << 20;

/// Where sockets are that everybody may reach.
struct Place(tempfile::TempDir);

impl Place {
    #[track_caller]
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("open it to all");
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn proxy(servers: &[&Path]) -> Builder {
    let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").flag("--workers", "2");
    let builder = builder.flag("--failback-after", "never").flag("--fence-after", "400ms");
    servers.iter().fold(builder, |builder, path| builder.upstream(&url(path)))
}

fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Verified traffic goes on through deaths, hangs and handovers: nothing lost, and nothing audited, for it
/// cannot be.
#[test]
fn streams_to_a_unix_socket_are_carried_on() {
    isolate();
    let place = Place::new();
    let path = place.path("echo");
    unix::echo(&path);
    let proxy = proxy(&[&path]).start();
    let traffic = Traffic::start(at(LISTEN), 8);
    traffic.wait_rounds(20);
    for death in [Signal::SIGKILL, Signal::SIGSTOP] {
        take_over(&proxy, PRIMARY, death);
        traffic.wait_rounds(20);
        let serving = proxy.status().serving.expect("somebody serves");
        take_over(&proxy, &serving, death);
        traffic.wait_rounds(20);
    }
    for words in KINDS {
        hand_over(&proxy, words);
        traffic.wait_rounds(20);
    }
    traffic.finish();
    let metrics = proxy.metrics();
    assert!(metrics.sum(UNAUDITED, &[]) >= 16.0, "{}", metrics.show(UNAUDITED));
    for nothing in
        ["proxy_takeover_audits_total", "proxy_takeover_audit_mismatches_total", "proxy_lost_flows_total"]
    {
        assert_eq!(metrics.sum(nothing, &[]), 0.0, "{}", metrics.show(nothing));
    }
    let text = proxy.verb(&["status", "--json"]);
    text.says(0, &[&format!(r#""address":"{}""#, url(&path))]);
    assert!(metrics.sum("proxy_upstream_server_connections_total", &[("server", &url(&path))]) >= 8.0);
}

#[test]
fn bytes_in_flight_arrive_once_and_in_order() {
    isolate();
    let place = Place::new();
    let accepted = unix::handing_over(&place.path("s"));
    let proxy = proxy(&[&place.path("s")]).start();
    let server = |client| (client, accepted.recv_timeout(PATIENCE).expect("a connection"));
    in_flight::arrive_once_and_in_order(&proxy, server(connect(at(LISTEN))), PLENTY);
    until_true("the connection is gone", || proxy.metrics().sum("proxy_listener_connections", &[]) == 0.0);
}

/// What waits for a place at a server that the settings have no more still gets it.
#[test]
fn who_waits_for_a_socket_that_is_gone_from_the_settings_gets_to_it() {
    isolate();
    let place = Place::new();
    let path = place.path("s");
    let accepted = unix::handing_over(&path);
    let settings = |listen: &str, upstream: &str, server: &str| {
        format!(
            "[[listener]]\nname = \"{upstream}\"\nbind = [\"tcp://{listen}\"]\nupstream = \"{upstream}\"\n\
             [upstream.{upstream}]\nqueue_timeout = \"60s\"\n\
             [[upstream.{upstream}.server]]\naddress = \"{server}\"\nmax_connections = 1\n"
        )
    };
    let file = File::new(&settings(LISTEN, "a", &url(&path)));
    let proxy = file.builder().flag("--workers", "2").flag("--lease", "400ms").start();
    let until_waiting = |count: f64| {
        let waiting = || proxy.metrics().sum("proxy_listener_connections_waiting", &[]);
        until_true(&format!("{count} wait"), || waiting() == count);
    };
    let first = connect(at(LISTEN));
    let of_first = accepted.recv_timeout(PATIENCE).expect("a connection");
    let mut second = connect(at(LISTEN));
    until_waiting(1.0);
    file.write(&settings("127.0.0.1:8081", "b", "127.0.0.1:9001"));
    for _ in 0..2 {
        reload(&proxy);
        until_waiting(1.0);
    }
    drop((first, of_first));
    let mut of_second = accepted.recv_timeout(PATIENCE).expect("it gets its place");
    carries(&mut second, &mut of_second);
    carries(&mut of_second, &mut second);
}

/// One that is absent, one that nobody listens at, one whose queue is full: another server is tried.
#[test]
fn a_socket_that_takes_no_connection_is_a_server_that_refuses() {
    isolate();
    let place = Place::new();
    let [absent, stale, full, good] = ["absent", "stale", "full", "good"].map(|name| place.path(name));
    drop(UnixListener::bind(&stale).expect("bind"));
    let listener = UnixListener::bind(&full).expect("bind");
    for path in [&stale, &full] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).expect("open it to all");
    }
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("a backlog"))
        .expect("listen");
    let _waiting = UnixStream::connect(&full).expect("the queue takes one");
    unix::lines(&good, "good");
    let proxy = proxy(&[&absent, &stale, &full, &good]).start();
    for path in [&absent, &stale, &full] {
        let (server, reason) = (url(path), "refused");
        let refused = || proxy.metrics().sum(FAILURES, &[("server", &server), ("reason", reason)]) >= 1.0;
        until_true(&format!("{server} was tried"), || {
            let _ = ask_tcp(at(LISTEN), "hello", TIMEOUT);
            refused()
        });
    }
    let outcome = ask_tcp(at(LISTEN), "hello", TIMEOUT);
    assert_eq!(outcome, Outcome::Answered("good hello".into()));
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum(FAILURES, &[]), metrics.sum(FAILURES, &[("reason", "refused")]));
}

/// A unix socket cannot be reset, but one that is closed with something unread tells its peer.
#[test]
fn what_is_broken_off_does_not_look_like_an_end_where_that_can_be() {
    isolate();
    let place = Place::new();
    let accepted = unix::handing_over(&place.path("s"));
    let _proxy = proxy(&[&place.path("s")]).start();
    let pair = || -> (TcpStream, UnixStream) {
        let (mut client, mut server) =
            (connect(at(LISTEN)), accepted.recv_timeout(PATIENCE).expect("a connection"));
        carries(&mut client, &mut server);
        (client, server)
    };
    // The server closes with something unread, which is how it resets.
    let (mut client, server) = pair();
    client.write_all(b"unread").expect("write");
    until_true("it has come", || {
        let mut byte = [0];
        let flags = nix::sys::socket::MsgFlags::MSG_PEEK;
        nix::sys::socket::recv(server.as_raw_fd(), &mut byte, flags) == Ok(1)
    });
    drop(server);
    assert_eq!(read_all(&mut client).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The client resets: all that can be told is that nobody is there any more.
    let (client, mut server_two) = pair();
    reset(client).expect("reset");
    assert_eq!(server_two.read(&mut [0]).expect("an end"), 0);
    until_true("nobody reads any more", || {
        server_two.write_all(b"x").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
    });
    // The same with the client not reading: what the server has sent is unread, and it is told.
    let (client, mut server_three) = pair();
    server_three.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let chunk = [7; 64 << 10];
    while server_three.write(&chunk).is_ok() {}
    reset(client).expect("reset");
    assert_eq!(server_three.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A clean end of either side leaves the other direction open.
#[test]
fn half_closed_connections_finish() {
    isolate();
    let place = Place::new();
    let accepted = unix::handing_over(&place.path("s"));
    let proxy = proxy(&[&place.path("s")]).start();
    for server_ends_first in [false, true] {
        let (mut client, mut server) =
            (connect(at(LISTEN)), accepted.recv_timeout(PATIENCE).expect("a connection"));
        carries(&mut client, &mut server);
        if server_ends_first {
            server.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_all(&mut client).expect("an end"), b"");
        } else {
            client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(server.read(&mut [0]).expect("an end"), 0);
        }
        let serving = proxy.status().serving.expect("somebody serves");
        take_over(&proxy, &serving, Signal::SIGKILL);
        if server_ends_first {
            client.write_all(b"thanks").expect("write");
            drop(client);
            let mut rest = String::new();
            server.read_to_string(&mut rest).expect("an end, no reset");
            assert_eq!(rest, "thanks");
        } else {
            server.write_all(b"answer").expect("write");
            drop(server);
            assert_eq!(read_all(&mut client).expect("an end, no reset"), b"answer");
        }
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "{}", metrics.show("proxy_lost_flows_total"));
}
