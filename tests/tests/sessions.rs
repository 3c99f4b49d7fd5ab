//! What is open is listed, and closed by order, however much it is and whoever dies meanwhile.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

use nix::sys::signal::Signal;
use proxy_tests::access_log::AccessLog;
use proxy_tests::clients::{self, carries, udp};
use proxy_tests::net::{at, isolate};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE};
use proxy_tests::status::Status;
use proxy_tests::wait::until;
use proxy_tests::{PRIMARY, STANDBY};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const LISTEN: &str = "127.0.0.1:8080";
const OTHER: &str = "127.0.0.1:8081";
const SERVER: &str = "127.0.0.1:9001";
/// Connections of a crowd: what a limit of 20,000 descriptors has room for.
const MANY: usize = 9_000;

fn settings(log: &AccessLog) -> String {
    format!(
        "{}[defaults]\nworkers = 2\n[standby]\nfailback_after = \"never\"\n\
         [[listener]]\nname = \"main\"\nbind = [\"tcp://{LISTEN}\", \"udp://{LISTEN}\"]\nupstream = \"a\"\n\
         [[listener]]\nname = \"other\"\nbind = [\"tcp://{OTHER}\"]\nupstream = \"a\"\n\
         [upstream.a]\n[[upstream.a.server]]\naddress = \"{SERVER}\"\n",
        log.settings()
    )
}

#[track_caller]
fn start(log: &AccessLog, fence_after: &str) -> Proxy {
    let builder = Proxy::builder().settings(&settings(log));
    let proxy = builder.flag("--lease", "400ms").flag("--fence-after", fence_after).start();
    proxy.until_status("protected", Status::protected);
    proxy
}

/// A client that comes from another address than the others.
#[track_caller]
fn client_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&at(source).into()).expect("bind");
    socket.connect(&to.into()).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket.into()
}

/// The sessions that the proxy lists, by the words after `sessions list`.
#[track_caller]
fn list(proxy: &Proxy, words: &[&str]) -> Vec<Value> {
    let output =
        proxy.verb_command(&[&["sessions", "list", "--json"], words].concat()).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn closes(proxy: &Proxy, words: &[&str]) -> u64 {
    let output =
        proxy.verb_command(&[&["sessions", "close", "--json"], words].concat()).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["silent"], Value::Array(Vec::new()));
    answer["closed"].as_u64().expect("a number")
}

#[track_caller]
fn is_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0; 16]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_matches_is_closed_and_nothing_else() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _answers = servers::Udp::naming(SERVER, "A");
    let log = AccessLog::new();
    let proxy = start(&log, "10s");
    let (mut kept, mut kept_there) = clients::pair(at(LISTEN), &accepted);
    let far = client_from("127.0.0.9:0", at(LISTEN));
    let far_there = accepted.recv_timeout(PATIENCE).expect("the proxy connects to the server");
    let (other, other_there) = clients::pair(at(OTHER), &accepted);
    let flow = udp(at(LISTEN));
    assert!(flow.ask("hello", PATIENCE).answered());

    let all = until("all are listed", || Some(list(&proxy, &[])).filter(|all| all.len() == 4));
    let address = kept.local_addr().expect("address").to_string();
    let session =
        all.iter().find(|session| session["client"] == address.as_str()).expect("the one that is kept");
    assert_eq!((&session["protocol"], &session["state"]), (&"tcp".into(), &"established".into()));
    assert_eq!((&session["listener"], &session["server"]), (&"main".into(), &SERVER.into()));
    assert_eq!((&session["bytes_up"], &session["bytes_down"]), (&4.into(), &4.into()));
    assert_eq!(list(&proxy, &["--source", "127.0.0.9"]).len(), 1);
    assert_eq!(list(&proxy, &["--listener", "main", "--server", SERVER]).len(), 3);
    assert_eq!(list(&proxy, &["--listener", &format!("udp://{LISTEN}")]).len(), 1);
    proxy.verb(&["sessions", "list"]).says(0, &["LISTENER", "127.0.0.9", "established"]);

    proxy.verb(&["sessions", "close"]).says(2, &["--source", "--server", "--listener"]);
    proxy.verb(&["sessions", "close", "--server", "nowhere"]).says(1, &["there is no server nowhere"]);
    assert_eq!(closes(&proxy, &["--source", "10.0.0.0/8"]), 0);
    assert_eq!(closes(&proxy, &["--source", "127.0.0.8/29"]), 1);
    is_reset(&far);
    is_reset(&far_there);
    proxy.verb(&["sessions", "close", "--listener", "other"]).says(0, &["1 session closed"]);
    is_reset(&other);
    is_reset(&other_there);
    assert_eq!(closes(&proxy, &["--listener", &format!("udp://{LISTEN}")]), 1);
    carries(&mut kept, &mut kept_there);
    assert_eq!(list(&proxy, &[]).len(), 1);
    let lines = log.until_lines(3);
    assert!(lines.iter().all(|line| line.reason == "ordered"), "{lines:?}");
    assert_eq!(proxy.metrics().sum("proxy_sessions_closed_total", &[]), 3.0);
}

#[test]
fn thousands_are_listed_and_closed() {
    isolate();
    let log = AccessLog::new();
    let proxy = start(&log, "10s");
    let (clients, there) = clients::crowd(at(LISTEN), SERVER, MANY);
    let sessions = list(&proxy, &["--source", "127.0.0.0/8"]);
    assert_eq!(sessions.len(), MANY);
    assert_eq!(closes(&proxy, &["--server", SERVER]), MANY as u64);
    clients.iter().chain(&there).for_each(is_reset);
    assert_eq!(list(&proxy, &[]).len(), 0);
    let told = log.until_lines(MANY - proxy.metrics().sum("proxy_access_log_dropped_total", &[]) as usize);
    println!("{} of {MANY} are in the access log", told.len());
}

/// The pool that carries them hangs: it is killed, its heir has them, and they are closed.
#[test]
fn who_dies_in_the_middle_leaves_them_to_be_closed() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let log = AccessLog::new();
    let proxy = start(&log, "1s");
    let pairs: Vec<_> = (0..20).map(|_| clients::pair(at(LISTEN), &accepted)).collect();
    let seat = proxy.status().serving.expect("somebody serves");
    proxy.signal(&seat, Signal::SIGSTOP);
    assert_eq!(closes(&proxy, &["--listener", "main"]), 20);
    pairs.iter().for_each(|(client, server)| [client, server].into_iter().for_each(is_reset));
    let lines = log.until_lines(20);
    assert!(lines.iter().all(|line| line.reason == "ordered" && line.takeovers == 1), "{lines:?}");
    log.assert_once();
}

#[test]
fn who_does_not_answer_is_named() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let log = AccessLog::new();
    let proxy = start(&log, "60s");
    let (mut client, mut server) = clients::pair(at(LISTEN), &accepted);
    let seat = proxy.status().serving.expect("somebody serves");
    let pid = proxy.signal(&seat, Signal::SIGSTOP);
    let answer = proxy.verb(&["sessions", "close", "--listener", "main"]);
    answer.says(1, &["0 sessions closed", "worker 0", &format!("(pid {pid})")]);
    proxy.signal(&seat, Signal::SIGCONT);
    // The order holds no more.
    carries(&mut client, &mut server);
}

/// A pool that hangs keeps none of several orders from the workers that live: here one by TCP and one by UDP.
#[test]
fn who_is_silent_keeps_nobody_else_waiting() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let _answers = servers::Udp::naming(SERVER, "A");
    let log = AccessLog::new();
    let proxy = start(&log, "60s");
    let (client, server) = clients::pair(at(LISTEN), &accepted);
    let flow = udp(at(LISTEN));
    assert!(flow.ask("hello", PATIENCE).answered());
    assert_eq!(proxy.status().serving.as_deref(), Some(PRIMARY));
    let pid = proxy.signal(STANDBY, Signal::SIGSTOP);
    let answer = proxy.verb(&["sessions", "close", "--listener", "main"]);
    let named = [0, 1].map(|worker| format!("worker {worker} of the standby pool (pid {pid})"));
    answer.says(1, &["2 sessions closed", &named[0], &named[1]]);
    is_reset(&client);
    is_reset(&server);
    let lines = log.until_lines(2);
    assert!(lines.iter().all(|line| line.reason == "ordered"), "{lines:?}");
    proxy.signal(STANDBY, Signal::SIGCONT);
}
