//! Listeners at unix sockets: one socket that all workers share, taken from by the seat that steering would choose.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::handover::{KINDS, hand_over, reload};
use proxy_tests::net::isolate;
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::until_true;
use proxy_tests::{PRIMARY, STANDBY, in_flight, unix};

const SERVER: &str = "127.0.0.1:9001";
const PLENTY: usize = 24 << 20;

/// A place that lasts as long as the test, and the path of a socket there.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("app.sock");
    (directory, path)
}

fn url(path: &Path) -> String {
    format!("unix://{}", path.display())
}

fn proxy(path: &Path) -> Builder {
    let builder = Proxy::builder().listen(&url(path)).upstream(SERVER).flag("--workers", "2");
    builder.flag("--failback-after", "never")
}

/// Asks on a connection of its own.
#[track_caller]
fn ask(path: &Path, line: &str) -> String {
    ask_on(&mut unix::connect(path), line)
}

#[track_caller]
fn ask_on(stream: &mut UnixStream, line: &str) -> String {
    writeln!(stream, "{line}").expect("write");
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    String::from_utf8_lossy(&answer).trim_end().to_owned()
}

#[test]
fn connections_go_to_the_seat_that_is_first_and_are_carried_on() {
    isolate();
    let (_directory, path) = place();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = proxy(&path).flag("--fence-after", "400ms").flag("--lease", "200ms").start();
    let mut open: Vec<_> = (0..8).map(|_| unix::connect(&path)).collect();
    for stream in &mut open {
        assert_eq!(ask_on(stream, "one"), "A one");
    }
    let status = proxy.status();
    assert_eq!((status.pool(PRIMARY).connections, status.pool(STANDBY).connections), (8, 0));
    for (seat, death) in [(PRIMARY, Signal::SIGKILL), (STANDBY, Signal::SIGSTOP), (PRIMARY, Signal::SIGKILL)]
    {
        take_over(&proxy, seat, death);
        for stream in &mut open {
            assert_eq!(ask_on(stream, "two"), "A two");
        }
        assert_eq!(ask(&path, "new"), "A new");
    }
    for words in KINDS {
        hand_over(&proxy, words);
        for stream in &mut open {
            assert_eq!(ask_on(stream, "three"), "A three");
        }
        assert_eq!(ask(&path, "new"), "A new");
    }
    let (metrics, address) = (proxy.metrics(), url(&path));
    let labels = [("listener", address.as_str())];
    assert_eq!(metrics.sum("proxy_listener_connections_total", &labels), 13.0);
    assert_eq!(metrics.sum("proxy_lost_flows_total", &[]), 0.0, "{}", metrics.show("proxy_lost_flows_total"));
    assert!(metrics.sum("proxy_takeover_unaudited_total", &[]) >= 16.0);
}

/// A hung primary is passed by when its lease has run out; nothing waits for its death.
#[test]
fn what_comes_while_the_primary_hangs_is_taken_by_the_standby() {
    isolate();
    let (_directory, path) = place();
    let _server = servers::Tcp::lines(SERVER, "A");
    let proxy = proxy(&path).flag("--lease", "100ms").flag("--fence-after", "30s").start();
    assert_eq!(ask(&path, "one"), "A one");
    let hung = proxy.signal(PRIMARY, Signal::SIGSTOP);
    let start = Instant::now();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || ask(&path, "two"))
        })
        .collect();
    for client in waiting {
        assert_eq!(client.join().expect("a client"), "A two");
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(proxy.pid(PRIMARY), hung, "it was not killed for that");
    signal(hung, Signal::SIGCONT);
    proxy.until_status("it is well again", Status::whole);
    let before = proxy.status().pool(PRIMARY).connections;
    let mut again = unix::connect(&path);
    assert_eq!(ask_on(&mut again, "three"), "A three");
    until_true("the first seat takes what is new again", || {
        let mut stream = unix::connect(&path);
        assert_eq!(ask_on(&mut stream, "four"), "A four");
        proxy.status().pool(PRIMARY).connections > before
    });
}

/// One who connects, sends and is gone before anybody accepts: the server gets it all.
#[test]
fn what_was_sent_by_one_who_is_gone_arrives() {
    isolate();
    let (_directory, path) = place();
    let (_server, from) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy(&path).flag("--lease", "500ms").flag("--fence-after", "1s").start();
    let before = proxy.until_status("whole", Status::whole);
    signal(before.pid(PRIMARY), Signal::SIGSTOP);
    for _ in 0..5 {
        unix::connect(&path).write_all(b"last words").expect("write");
    }
    proxy.until_status("taken over", |s| s.whole() && s.takeovers > before.takeovers);
    for _ in 0..5 {
        let mut server = from.recv_timeout(PATIENCE).expect("a connection");
        let mut words = String::new();
        server.read_to_string(&mut words).expect("an end");
        assert_eq!(words, "last words");
    }
}

#[test]
fn bytes_in_flight_arrive_once_and_in_order() {
    isolate();
    let (_directory, path) = place();
    let (_server, from) = servers::Tcp::handing_over(SERVER);
    let proxy = proxy(&path).start();
    let server = |client| (client, from.recv_timeout(PATIENCE).expect("a connection"));
    in_flight::arrive_once_and_in_order(&proxy, server(unix::connect(&path)), PLENTY);
}

/// The path is taken and given back; what a dead process left is replaced, what a living one has is not.
#[test]
fn the_path_comes_and_goes_with_the_proxy() {
    isolate();
    let (_directory, path) = place();
    let _server = servers::Tcp::lines(SERVER, "A");
    let other = UnixListener::bind(&path).expect("bind");
    proxy(&path).fails().says(1, &[&url(&path), "another process listens there"]);
    assert!(path.exists());
    drop(other);
    let mut first = proxy(&path).start();
    assert_eq!(ask(&path, "one"), "A one");
    proxy(&path).check().says(1, &[&url(&path), "another process listens there"]);
    first.verb(&["drain"]).says(0, &[]);
    let refused = UnixStream::connect(&path).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotFound), "{refused}");
    drop(first);
    first = proxy(&path).start();
    first.verb(&["stop"]).says(0, &[]);
    first.wait_end();
    assert!(!path.exists(), "it is removed at the end");
    fs::write(&path, "a file").expect("write");
    proxy(&path).fails().says(1, &[&url(&path), "no socket"]);
}

/// Listeners come and go by a reload.
#[test]
fn a_reload_adds_and_retires_paths() {
    isolate();
    let (directory, path) = place();
    let (file, second) = (directory.path().join("proxy.toml"), directory.path().join("second.sock"));
    let _server = servers::Tcp::lines(SERVER, "A");
    let write = |paths: &[&Path]| {
        let urls: Vec<String> = paths.iter().map(|path| url(path)).collect();
        let settings = format!(
            "[[listener]]\nname = \"a\"\nbind = {urls:?}\nupstream = \"u\"\n\
             [[upstream.u.server]]\naddress = \"{SERVER}\"\n"
        );
        fs::write(&file, settings).expect("write");
    };
    write(&[&path]);
    let proxy = Proxy::builder().flag("--config", file.to_str().expect("text")).start();
    let mut open = unix::connect(&path);
    assert_eq!(ask_on(&mut open, "one"), "A one");
    write(&[&path, &second]);
    reload(&proxy);
    assert_eq!((ask(&path, "two"), ask(&second, "two")), ("A two".into(), "A two".into()));
    write(&[&second]);
    reload(&proxy);
    assert_eq!(ask_on(&mut open, "three"), "A three");
    assert!(!path.exists(), "the path of a listener that is gone is gone");
    assert_eq!(ask(&second, "three"), "A three");
    // And back, beside the retired one.
    write(&[&path, &second]);
    reload(&proxy);
    assert_eq!((ask(&path, "four"), ask_on(&mut open, "four")), ("A four".into(), "A four".into()));
}
