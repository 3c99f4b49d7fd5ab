//! Active health checks: servers that go down and come back, by each kind of check, and what becomes of that when
//! processes of the proxy die or hand over.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::access_log::AccessLog;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, ask_udp, connect};
use proxy_tests::handover::hand_over;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::programs::{Server, host_and_port, postgres, program, run};
use proxy_tests::proxy::Proxy;
use proxy_tests::settings::File;
use proxy_tests::status::Status;
use proxy_tests::takeover::take_over;
use proxy_tests::wait::{until, until_true};
use proxy_tests::{PRIMARY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";
const TIMEOUT: Duration = Duration::from_secs(5);
const CHECKS: &str = "proxy_upstream_server_checks_total";
const TRANSITIONS: &str = "proxy_upstream_server_transitions_total";
/// Checks are quick, and what they say is believed soon.
const QUICK: &str = "interval = \"50ms\"\ntimeout = \"50ms\"\nrise = 2\nfall = 2\n";

/// Settings with these servers, checked so.
fn settings(scheme: &str, servers: &[&str], health: &str, more: &str) -> String {
    let mut text = format!(
        "[defaults]\nworkers = 2\n[[listener]]\nname = \"l\"\nbind = [\"{scheme}://{LISTEN}\"]\nupstream = \"u\"\n\
         [upstream.u]\n{more}\n[upstream.u.health]\n{QUICK}{health}\n"
    );
    for server in servers {
        text += &format!("[[upstream.u.server]]\naddress = \"{server}\"\n");
    }
    text
}

fn answer(name: &str) -> Outcome {
    Outcome::Answered(format!("{name} hello"))
}

#[track_caller]
fn ask() -> Outcome {
    ask_tcp(at(LISTEN), "hello", TIMEOUT)
}

#[track_caller]
fn until_state(proxy: &Proxy, server: &str, state: &str) -> Status {
    proxy.until_status(&format!("{server} is {state}"), |status| status.state_of(server) == Some(state))
}

/// One server after the other goes and comes back; nothing new goes to one that is down, and what is open goes on.
#[test]
fn connecting_tells() {
    isolate();
    let (a, b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let proxy = File::new(&settings("tcp", &[A, B], "", "")).start();
    [A, B].iter().for_each(|server| drop(until_state(&proxy, server, "up")));
    let mut open: Vec<TcpStream> = (0..8).map(|_| connect(at(LISTEN))).collect();
    let names: Vec<Outcome> = open.iter_mut().map(|stream| ask_on(stream, "hello")).collect();
    assert!(names.contains(&answer("A")) && names.contains(&answer("B")), "{names:?}");
    drop(a);
    let status = until_state(&proxy, A, "down");
    let error = status.server(A).check.clone().and_then(|check| check.error).expect("an error");
    assert!(error.contains("cannot connect to 127.0.0.1:9001"), "{error}");
    for _ in 0..20 {
        assert_eq!(ask(), answer("B"));
    }
    let again: Vec<Outcome> = open.iter_mut().map(|stream| ask_on(stream, "hello")).collect();
    assert_eq!(again, names, "what is open goes on");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("proxy_upstream_server_up", &[("server", A)]), 0.0);
    assert_eq!(metrics.sum("proxy_upstream_server_state", &[("server", A), ("state", "down")]), 1.0);
    assert_eq!(metrics.sum("proxy_upstream_server_state", &[("server", A)]), 1.0, "one state at a time");
    assert_eq!(metrics.sum(TRANSITIONS, &[("server", A), ("to", "down")]), 1.0);
    assert!(metrics.sum(CHECKS, &[("server", A), ("result", "failed")]) >= 2.0, "{}", metrics.show(CHECKS));
    assert_eq!(
        metrics.sum("proxy_upstream_server_connect_failures_total", &[]),
        0.0,
        "nobody had to find out"
    );
    assert!(proxy.log().contains("server is down"), "it is logged");

    drop(b);
    until_state(&proxy, B, "down");
    let refused = ask();
    assert!(matches!(refused, Outcome::Reset | Outcome::Closed), "all are down: {refused:?}");
    let _back = servers::Tcp::lines(A, "A");
    until_state(&proxy, A, "up");
    assert_eq!(ask(), answer("A"));
    assert_eq!(
        proxy.metrics().sum(TRANSITIONS, &[("server", A), ("to", "up")]),
        2.0,
        "at the start, and now"
    );
}

/// What is open to a server that is down is closed, and nobody else's.
#[test]
fn what_is_open_goes_on_or_is_closed() {
    isolate();
    // Connections outlive the listening socket, so that a check fails and they do not.
    let (a, _b) = (servers::Tcp::lines(A, "A"), servers::Tcp::lines(B, "B"));
    let file = File::new(&settings("tcp", &[A, B], "", "on_down = \"close\""));
    let proxy = file.start();
    [A, B].iter().for_each(|server| drop(until_state(&proxy, server, "up")));
    let mut open: Vec<TcpStream> = (0..8).map(|_| connect(at(LISTEN))).collect();
    let names: Vec<Outcome> = open.iter_mut().map(|stream| ask_on(stream, "hello")).collect();
    let of_a = names.iter().filter(|name| **name == answer("A")).count();
    assert!((1..8).contains(&of_a), "{names:?}");
    drop(a);
    until_state(&proxy, A, "down");
    until_true("nothing is open to it", || {
        proxy.metrics().sum("proxy_upstream_server_connections", &[("server", A)]) == 0.0
    });
    for (stream, name) in open.iter_mut().zip(&names) {
        let outcome = ask_on(stream, "hello");
        match *name == answer("A") {
            true => assert!(!outcome.answered(), "{outcome:?}"),
            false => assert_eq!(outcome, *name),
        }
    }
}

/// A server that is down when the proxy starts is found out by its first check.
#[test]
fn the_first_check_decides() {
    isolate();
    let _good = servers::Tcp::lines(B, "B");
    let slow = settings("tcp", &[A, B], "", "").replace("interval = \"50ms\"", "interval = \"60s\"");
    let proxy = File::new(&slow).start();
    until_state(&proxy, A, "down");
    until_state(&proxy, B, "up");
    assert_eq!(proxy.metrics().sum(CHECKS, &[]), 2.0);
    assert_eq!(ask(), answer("B"));
}

/// What is known goes on when a pool dies, when control dies, and by reloads and upgrades.
#[test]
fn health_outlives_everybody() {
    isolate();
    let _good = servers::Tcp::lines(B, "B");
    let bad = servers::Tcp::lines(A, "A");
    let file = File::new(&settings("tcp", &[A, B], "", ""));
    let proxy = file.start();
    until_state(&proxy, A, "up");
    drop(bad);
    until_state(&proxy, A, "down");
    let assert_down = |what: &str| {
        for _ in 0..10 {
            assert_eq!(ask(), answer("B"), "{what}");
        }
        assert_eq!(proxy.status().state_of(A), Some("down"), "{what}");
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum(TRANSITIONS, &[("server", A)]), 2.0, "{what}: {}", metrics.show(TRANSITIONS));
        metrics.sum(CHECKS, &[("server", A), ("result", "failed")])
    };
    let mut checks = assert_down("before");
    let mut grows = |what: &str, now: f64| {
        assert!(now >= checks, "{what}: {now} after {checks}");
        proxy.until_metric(CHECKS, &[("server", A), ("result", "failed")], now + 1.0);
        checks = now + 1.0;
    };
    take_over(&proxy, PRIMARY, Signal::SIGKILL);
    grows("a pool died", assert_down("a pool died"));
    let control = proxy.status().control.pid;
    signal(control, Signal::SIGKILL);
    proxy.until_status("another control", |status| status.control.pid != control);
    grows("control died", assert_down("control died"));
    for kind in ["reload", "upgrade"] {
        hand_over(&proxy, &[kind]);
        grows(kind, assert_down(kind));
    }
    let _back = servers::Tcp::lines(A, "A");
    until_state(&proxy, A, "up");
}

/// Checks that are not in the settings any more leave nobody down.
#[test]
fn settings_without_checks_take_all_for_up() {
    isolate();
    let _good = servers::Tcp::lines(B, "B");
    let with = settings("tcp", &[A, B], "", "");
    let file = File::new(&with);
    let proxy = file.start();
    until_state(&proxy, A, "down");
    let start = with.find("[upstream.u.health]").expect("it is there");
    let end = with.find("[[upstream.u.server]]").expect("it is there");
    file.write(&[&with[..start], &with[end..]].concat());
    hand_over(&proxy, &["reload"]);
    until_state(&proxy, A, "up");
    assert_eq!(proxy.metrics().sum(CHECKS, &[]), 0.0, "there are none");
}

/// A server that is added again is another one, though it has the address, and the slot, of the one before: it is
/// checked at once, and what was known of the one before is nobody's.
#[test]
fn a_server_that_is_added_again_begins_anew() {
    isolate();
    let _good = servers::Tcp::lines(A, "A");
    let slow = settings("tcp", &[A], "", "").replace("interval = \"50ms\"", "interval = \"60s\"");
    let proxy = File::new(&slow).start();
    let failed = |count: f64| {
        let of_it = [("server", B), ("result", "failed")];
        proxy.until_metric(CHECKS, &of_it, count);
        until_state(&proxy, B, "down");
    };
    proxy.verb(&["upstream", "add", B]).says(0, &["added"]);
    failed(1.0);
    // Between two looks of control, as a rule.
    proxy.verb(&["upstream", "remove", B]).says(0, &["removed"]);
    proxy.verb(&["upstream", "add", B]).says(0, &["added"]);
    failed(2.0);
}

/// PostgreSQL says N to an SSLRequest (8 bytes; section "SSL Session Encryption" of its protocol), as it has no key.
#[test]
fn postgres_is_asked_whether_it_speaks_tls() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let server = postgres::start(directory.path(), A);
    let log = AccessLog::new();
    let health = "send = [0, 0, 0, 8, 4, 210, 22, 47]\nexpect = \"N\"";
    let unhurried = settings("tcp", &[A], health, "").replace("timeout = \"50ms\"", "timeout = \"1s\"");
    let proxy = File::new(&(log.settings() + &unhurried.replace("\"50ms\"", "\"1s\""))).start();
    until_state(&proxy, A, "up");
    let mut psql = postgres::psql(directory.path(), LISTEN);
    assert_eq!(run(psql.arg("--command=select 6 * 7")), "42\n");
    let [line] = &log.until_lines(1)[..] else { panic!("one line: {:?}", log.lines()) };
    assert_eq!((line.upstream.as_deref(), line.server.as_deref()), (Some("u"), Some(A)), "{line:?}");
    assert!(line.reason == "client_ended" && line.bytes_up > 0 && line.bytes_down > 0, "{line:?}");

    // The kernel still connects clients with it, so that connecting alone would not tell.
    signal(server.pid(), Signal::SIGSTOP);
    let status = until_state(&proxy, A, "down");
    let error = status.server(A).check.clone().and_then(|check| check.error);
    assert_eq!(error.as_deref(), Some("no answer within 1s"));
    signal(server.pid(), Signal::SIGCONT);
    until_state(&proxy, A, "up");
}

/// Redis says PONG, or nothing while it stands still.
#[test]
fn a_server_has_to_say_what_is_expected() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut redis = program("redis-server", directory.path());
    let (host, port) = host_and_port(A);
    redis.args(["--bind", host, "--port", port, "--save", "", "--daemonize", "no"]);
    let server = Server::start(&mut redis, directory.path(), A);
    let health = "send = \"PING\\r\\n\"\nexpect = \"+PONG\"";
    let proxy = File::new(&settings("tcp", &[A], health, "")).start();
    until_state(&proxy, A, "up");
    let redis = server.pid();
    signal(redis, Signal::SIGSTOP);
    let status = until_state(&proxy, A, "down");
    let error = status.server(A).check.clone().and_then(|check| check.error);
    assert_eq!(error.as_deref(), Some("no answer within 50ms"));
    assert!(proxy.metrics().sum(CHECKS, &[("result", "timeout")]) >= 2.0);
    signal(redis, Signal::SIGCONT);
    until_state(&proxy, A, "up");
    let mut client = connect(at(LISTEN));
    client.write_all(b"PING\r\n").expect("write");
    until_true("it answers", || client.peek(&mut [0; 7]).is_ok_and(|length| length == 7));
}

/// nginx has a page, or has not; it is asked at a port of its own.
#[test]
fn a_page_has_to_be_there() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path();
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("let others in");
    let page = path.join("healthz");
    fs::write(&page, "well").expect("write");
    let _service = servers::Tcp::lines(A, "A");
    let _nginx = start_nginx(path, B);
    let health = "check = \"http\"\npath = \"/healthz\"\nstatus = \"200\"\nport = 9002";
    let proxy = File::new(&settings("tcp", &[A], health, "")).start();
    until_state(&proxy, A, "up");
    assert_eq!(ask(), answer("A"));
    fs::remove_file(&page).expect("remove");
    let status = until_state(&proxy, A, "down");
    let error = status.server(A).check.clone().and_then(|check| check.error).expect("an error");
    assert!(error.contains("404 Not Found"), "{error}");
    fs::write(&page, "well").expect("write");
    until_state(&proxy, A, "up");
}

fn start_nginx(directory: &Path, address: &str) -> Server {
    let root = directory.display();
    let config = format!(
        "daemon off; pid {root}/nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; server {{ listen {address}; root {root}; }} \
         client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; \
         uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).expect("write");
    let mut nginx = program("nginx", directory);
    nginx.arg("-c").arg(&file).arg("-e").arg("stderr");
    Server::start(&mut nginx, directory, address)
}

/// A datagram's answer tells; without one that is expected, only that a port is closed.
#[test]
fn datagrams_tell() {
    for health in ["check = \"udp\"\nsend = \"ping\"\nexpect = \"ping\"", "check = \"udp\"\nsend = \"ping\""]
    {
        isolate();
        let server = servers::Udp::echo(A);
        let _other = servers::Udp::naming(B, "B");
        let proxy = File::new(&settings("udp", &[A], health, "")).start();
        until_state(&proxy, A, "up");
        assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
        drop(server);
        until_state(&proxy, A, "down");
        let _server = until("the port is free", || {
            std::net::UdpSocket::bind(A).ok().map(|socket| {
                drop(socket);
                servers::Udp::echo(A)
            })
        });
        until_state(&proxy, A, "up");
        assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
    }
}

/// A program decides; its last line is told.
#[test]
fn a_program_tells() {
    isolate();
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("let others in");
    let sick = directory.path().join("sick");
    let script = format!(
        "if test -e {}; then echo one; echo $PROXY_UPSTREAM $1 $2 is sick; exit 1; fi",
        sick.display()
    );
    let health = format!("check = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", \"{script}\", \"sh\"]");
    let _server = servers::Tcp::lines(A, "A");
    let slower = settings("tcp", &[A], &health, "").replace("timeout = \"50ms\"", "").replace("50ms", "1s");
    let proxy = File::new(&slower.replace("fall = 2", "fall = 1").replace("rise = 2", "rise = 1")).start();
    until_state(&proxy, A, "up");
    fs::write(&sick, "").expect("write");
    let status = until_state(&proxy, A, "down");
    let error = status.server(A).check.clone().and_then(|check| check.error).expect("an error");
    assert!(error.ends_with("exit status: 1: u 127.0.0.1 9001 is sick"), "{error}");
    fs::remove_file(&sick).expect("remove");
    until_state(&proxy, A, "up");
}
