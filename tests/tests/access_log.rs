//! The access log: each connection and flow has one line, with the bytes that its ends count, whoever dies and
//! whatever is upgraded; and a log that nobody can write to is in nobody's way.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::access_log::AccessLog;
use proxy_tests::clients::{self, Crowd, ask_on, ask_tcp, connect, udp};
use proxy_tests::handover::{Before, answer, begin_order, reload, upgrade};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{self, signal};
use proxy_tests::proxy::Proxy;
use proxy_tests::servers::{self, PATIENCE, read_all, reset};
use proxy_tests::status::Status;
use proxy_tests::wait::{DEADLINE, until, until_true, until_within};
use proxy_tests::{PRIMARY, STANDBY, faulty, pattern};
use socket2::{Domain, Socket, Type};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
/// Nobody listens here.
const NOBODY: &str = "127.0.0.1:9002";
const DROPPED: &str = "proxy_access_log_dropped_total";
const LINES: &str = "proxy_access_log_lines_total";

/// Settings with two listeners, one of them before a server that is not there; `defaults` and `log` are parts of
/// the file.
fn settings(log: &str, defaults: &str) -> String {
    format!(
        "{log}[defaults]\nworkers = 2\nudp_idle = \"1s\"\n{defaults}\n\
         [standby]\nfailback_after = \"never\"\n\
         [[listener]]\nname = \"main\"\nbind = [\"tcp://{LISTEN}\", \"udp://{LISTEN}\"]\nupstream = \"a\"\n\
         [[listener]]\nname = \"silent\"\nbind = [\"tcp://127.0.0.1:8081\"]\nupstream = \"a\"\naccess_log = false\n\
         [[listener]]\nname = \"lost\"\nbind = [\"tcp://127.0.0.1:8082\"]\nupstream = \"b\"\n\
         [upstream.a]\n[[upstream.a.server]]\naddress = \"{SERVER}\"\n\
         [upstream.b]\n[[upstream.b.server]]\naddress = \"{NOBODY}\"\n"
    )
}

#[track_caller]
fn start(log: &AccessLog, defaults: &str) -> Proxy {
    start_with(&settings(&log.settings(), defaults))
}

#[track_caller]
fn start_with(settings: &str) -> Proxy {
    let proxy = Proxy::builder().settings(settings).start();
    proxy.until_status("protected", Status::protected);
    proxy
}

#[test]
fn a_line_tells_what_the_ends_count_and_why_it_ended() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let log = AccessLog::new();
    let proxy = start(&log, "");

    let (mut client, mut server) = clients::pair(at(LISTEN), &accepted);
    let by_client = client.local_addr().expect("address");
    client.write_all(&[1; 1000]).expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_all(&mut server).expect("read").len(), 1000);
    server.write_all(&[2; 100_000]).expect("write");
    drop(server);
    assert_eq!(read_all(&mut client).expect("read").len(), 100_000);

    let (mut client, server) = clients::pair(at(LISTEN), &accepted);
    let by_server = client.local_addr().expect("address");
    drop(server);
    assert_eq!(read_all(&mut client).expect("an end").len(), 0);
    drop(client);

    let (client, server) = clients::pair(at(LISTEN), &accepted);
    let client_resets = client.local_addr().expect("address");
    reset(client).expect("linger");
    let (client, other) = clients::pair(at(LISTEN), &accepted);
    let server_resets = client.local_addr().expect("address");
    reset(other).expect("linger");

    let (unlogged, _there) = clients::pair(at("127.0.0.1:8081"), &accepted);
    drop(unlogged);
    let nobody_there = at("127.0.0.1:45001");
    let refused = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    refused.bind(&nobody_there.into()).expect("bind");
    // It may be reset before this call is back.
    let _ = refused.connect(&at("127.0.0.1:8082").into());

    let line = log.line_of(by_client);
    assert_eq!((line.bytes_up, line.bytes_down, line.reason.as_str()), (1004, 100_004, "client_ended"));
    assert_eq!((line.protocol.as_str(), line.listener.as_str()), ("tcp", "main"));
    assert_eq!((line.upstream.as_deref(), line.server.as_deref()), (Some("a"), Some(SERVER)));
    assert!(
        line.connect_ms.is_some() && line.first_byte_ms.is_some_and(|ms| ms <= line.duration_ms),
        "{line:?}"
    );
    let line = log.line_of(by_server);
    assert_eq!((line.bytes_up, line.bytes_down, line.reason.as_str()), (4, 4, "server_ended"));
    assert_eq!(log.line_of(client_resets).reason, "client_reset");
    assert_eq!(log.line_of(server_resets).reason, "server_reset");
    let line = log.line_of(nobody_there);
    assert_eq!(
        (line.reason.as_str(), line.upstream.as_deref(), line.server),
        ("refused_upstream", Some("b"), None)
    );
    assert_eq!((line.connect_ms, line.first_byte_ms), (None, None));
    drop((server, client));

    let answers = servers::Udp::naming(SERVER, "A");
    let flow = udp(at(LISTEN));
    let asker = flow.0.local_addr().expect("address");
    let answer = flow.ask("hello", PATIENCE);
    assert!(answer.answered(), "{answer:?}");
    drop(answers);
    let line = log.line_of(asker);
    assert_eq!((line.protocol.as_str(), line.bytes_up, line.reason.as_str()), ("udp", 5, "idle"));
    assert!(line.bytes_down > 5 && line.first_byte_ms.is_some(), "{line:?}");

    assert_eq!(log.lines().len(), 6);
    log.assert_once();
    let metrics = proxy.metrics();
    assert_eq!((metrics.sum(LINES, &[]), metrics.sum(DROPPED, &[])), (6.0, 0.0));
}

/// Bytes that each side says in the test of deaths.
const SOME: usize = 3 << 20;

/// Both ends write and read, while the pool that carries them dies, and then its heir does.
#[test]
fn bytes_are_right_whoever_dies() {
    for death in [Signal::SIGKILL, Signal::SIGSTOP] {
        isolate();
        let (_server, accepted) = servers::Tcp::handing_over(SERVER);
        let log = AccessLog::new();
        let builder = Proxy::builder().settings(&settings(&log.settings(), "")).flag("--lease", "100ms");
        let proxy = builder.flag("--fence-after", "400ms").start();
        let (go, begun) = mpsc::channel();
        let pairs: Vec<_> = (0..4).map(|_| clients::pair(at(LISTEN), &accepted)).collect();
        let addresses: Vec<_> =
            pairs.iter().map(|(client, _)| client.local_addr().expect("address")).collect();
        let (mut sides, over) = (Vec::new(), Arc::new(AtomicBool::new(false)));
        for end in pairs.into_iter().flat_map(|(client, server)| [client, server]) {
            let (mut from, mut to, go) = (end.try_clone().expect("clone"), end, go.clone());
            let over = Arc::clone(&over);
            sides.push(thread::spawn(move || {
                pattern::write(&mut to, SOME / 2).expect("write");
                go.send(()).expect("the test goes on");
                pattern_rest(&mut to, &over);
                to.shutdown(Shutdown::Write).expect("shutdown");
            }));
            sides.push(thread::spawn(move || {
                let read = read_all(&mut from).expect("an end, no reset");
                assert_eq!(read.len(), SOME);
            }));
        }
        for takeovers in 1..=2 {
            begun.recv().expect("bytes flow");
            let status = proxy.until_status("whole", Status::whole);
            let seat = status.serving.clone().expect("somebody serves");
            proxy.signal(&seat, death);
            proxy.until_status("taken over", |s| s.whole() && s.takeovers >= takeovers);
        }
        over.store(true, Ordering::Relaxed);
        sides.into_iter().for_each(|side| side.join().expect("a side"));
        for address in addresses {
            let line = log.line_of(address);
            assert_eq!((line.bytes_up, line.bytes_down), (SOME as u64 + 4, SOME as u64 + 4), "{line:?}");
            assert!(line.takeovers >= 1, "{line:?}");
        }
        log.assert_once();
        assert_eq!(proxy.metrics().sum("proxy_lost_flows_total", &[]), 0.0);
    }
}

/// Writes the rest, the last of it when all is over.
/// Whether a thread of a process waits for something.
fn is_asleep(pid: i32, name: &str) -> bool {
    let (thread, _) = process::threads(pid).into_iter().find(|(_, own)| own == name).expect("the thread");
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).expect("its state");
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
}

fn pattern_rest(to: &mut TcpStream, over: &AtomicBool) {
    let mut left = SOME - SOME / 2;
    while left > 0 {
        let count = left.min(64 << 10);
        if count == left {
            until_within(4 * DEADLINE, "all is over", || over.load(Ordering::Relaxed).then_some(()));
        }
        to.write_all(&vec![7; count]).expect("write");
        left -= count;
        thread::sleep(Duration::from_millis(5));
    }
}

/// Clients come and go while pools die, settings are taken anew, the file is moved away and the binary is upgraded.
#[test]
fn each_connection_is_told_of_once_whatever_happens() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let log = AccessLog::new();
    let proxy = start(&log, "");
    let held = connect(at(LISTEN));
    let held_at = held.local_addr().expect("address");
    let start_crowd = || Crowd::start(4, |number| ask_tcp(at(LISTEN), &number.to_string(), PATIENCE));
    let crowd = start_crowd();
    let rotate = |name: &str| {
        crowd.wait_answered(30);
        until_true("it has lines", || fs::metadata(log.path()).is_ok_and(|file| file.len() > 0));
        fs::rename(log.path(), log.directory.path().join(name)).expect("rename");
        signal(proxy.status().supervisor.pid, Signal::SIGUSR1);
        until_true("there is a new file", || log.path().exists());
        crowd.wait_answered(30);
    };
    rotate("access.log.1");
    crowd.wait_answered(30);
    reload(&proxy);
    rotate("access.log.2");
    let before = proxy.status();
    proxy.signal(PRIMARY, Signal::SIGKILL);
    proxy.until_status("taken over", |s| s.whole() && s.takeovers > before.takeovers);
    crowd.wait_answered(30);
    let first = crowd.finish();
    // Who dies in writing leaves a line broken, and the next one writes it again.
    log.until_lines(first.answered + first.failed());
    let control = proxy.status().control.pid;
    until_true("its writer rests", || is_asleep(control, "access-log"));
    signal(control, Signal::SIGKILL);
    let crowd = start_crowd();
    crowd.wait_answered(30);
    upgrade(&proxy);
    crowd.wait_answered(30);
    let tally = first.join(crowd.finish());
    drop(held);
    let line = log.line_of(held_at);
    assert_eq!((line.reason.as_str(), line.takeovers >= 2), ("client_ended", true), "{line:?}");
    let asked = tally.answered + tally.failed();
    let lines = log.until_lines(asked + 1);
    println!("{asked} requests, {} failed", tally.failed());
    assert_eq!(tally.failed(), 0);
    log.assert_once();
    assert_eq!(lines.len(), asked + 1);
    let metrics = proxy.metrics();
    assert_eq!((metrics.sum(LINES, &[]), metrics.sum(DROPPED, &[])), (asked as f64 + 1.0, 0.0));
    for file in ["access.log", "access.log.1", "access.log.2"] {
        let size = fs::metadata(log.directory.path().join(file)).expect("a file").len();
        assert!(size > 0, "{file} has lines");
    }
}

/// The file is moved away when a successor has opened it and has not taken over yet, for a pool stands still.
#[test]
fn a_successor_writes_to_the_file_that_is_there_when_it_takes_over() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let log = AccessLog::new();
    let builder = Proxy::builder().settings(&settings(&log.settings(), ""));
    let proxy = builder.flag("--lease", "200ms").flag("--fence-after", "60s").start();
    let before = Before::of(&proxy);
    let silent = proxy.signal(STANDBY, Signal::SIGSTOP);
    proxy.until_status("it is silent", |s| s.pool(STANDBY).state == "suspect");
    let order = begin_order(&proxy, &["reload"]);
    until_true("a successor, its pools and its twin are there", || before.new_ones(&proxy).len() == 4);
    fs::rename(log.path(), log.directory.path().join("access.log.1")).expect("rename");
    proxy.signal_supervisor(Signal::SIGUSR1);
    until_true("there is a new file", || log.path().exists());
    signal(silent, Signal::SIGCONT);
    answer(order).says(0, &["reload"]);
    assert_eq!(before.assert_ended(&proxy).upgrade.state, "done");
    assert!(ask_tcp(at(LISTEN), "hello", PATIENCE).answered());
    until_true("its line is in the new file", || {
        fs::read_to_string(log.path()).is_ok_and(|text| text.contains('\n'))
    });
}

#[test]
fn what_is_open_at_the_end_is_told_of() {
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let log = AccessLog::new();
    let proxy = start(&log, "");
    let (client, _there) = clients::pair(at(LISTEN), &accepted);
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    proxy.wait_end();
    let [line] = &log.lines()[..] else { panic!("one line: {:?}", log.lines()) };
    assert_eq!((line.reason.as_str(), line.bytes_up), ("stopped", 4));
    assert_eq!(line.client, Some(client.local_addr().expect("address")));
}

/// Connections of a crowd: more than two rings have room for, and what a limit of 20,000 descriptors has.
const MANY: usize = 9_000;

/// However many there are: the supervisor, which cuts them, has one ring.
#[test]
fn all_that_is_open_at_the_end_is_told_of() {
    isolate();
    let log = AccessLog::new();
    let proxy = start(&log, "drain_timeout = \"50ms\"\n");
    let (clients, _there) = clients::crowd(at(LISTEN), SERVER, MANY);
    proxy.signal_supervisor(Signal::SIGTERM);
    proxy.wait_end();
    let lines = log.lines();
    assert_eq!(lines.len(), clients.len());
    assert!(lines.iter().all(|line| line.reason == "stopped"));
    log.assert_once();
}

#[test]
fn a_full_disk_is_in_nobodys_way() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let log = AccessLog::new();
    let small = Small::mount(log.directory.path());
    let file = small.0.join("access.log");
    let settings = settings(&format!("[access_log]\npath = {file:?}\n"), "");
    let proxy = start_with(&settings);
    for number in 0..60 {
        assert!(ask_tcp(at(LISTEN), &number.to_string(), PATIENCE).answered());
    }
    let metrics = proxy.until_metric(DROPPED, &[("reason", "write")], 1.0);
    assert_eq!(metrics.sum(DROPPED, &[("reason", "full")]), 0.0);
    let text = fs::read_to_string(&file).expect("the log");
    assert!(text.contains(" client=127.0.0.1:") && text.len() <= 4096, "{text}");
    // There is room again.
    fs::remove_file(&file).expect("remove");
    proxy.signal_supervisor(Signal::SIGUSR1);
    until_true("a new file", || file.exists());
    assert!(ask_tcp(at(LISTEN), "room", PATIENCE).answered());
    until_true("lines are written again", || fs::read_to_string(&file).is_ok_and(|text| text.contains('\n')));
}

/// A file system of one page.
struct Small(std::path::PathBuf);

impl Small {
    #[track_caller]
    fn mount(directory: &std::path::Path) -> Self {
        let place = directory.join("small");
        fs::create_dir(&place).expect("make a directory");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4k", "tmpfs"]).arg(&place).status();
        assert!(mount.expect("run mount").success());
        Self(place)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the proxy has the file open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The reader of a pipe goes away for a while: rings fill, entries are dropped and counted, and traffic goes on.
#[test]
fn a_pipe_that_nobody_reads_drops_and_counts() {
    isolate();
    let _server = servers::Tcp::lines(SERVER, "A");
    let log = AccessLog::new();
    let pipe = log.directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
    let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).expect("open");
    let text = settings(&format!("[access_log]\npath = {pipe:?}\n"), "max_connections = 1\n");
    let proxy = start_with(&text);
    let mut held = connect(at(LISTEN));
    assert!(ask_on(&mut held, "hello").answered());
    // Refused ones fill half a ring and are told of by little work.
    until_true("a ring is full", || {
        (0..200).for_each(|_| drop(TcpStream::connect(at(LISTEN))));
        proxy.metrics().sum(DROPPED, &[("reason", "full")]) > 0.0
    });
    assert!(ask_on(&mut held, "still there").answered());
    drop(held);
    let mut read = String::new();
    until("all lines are written", || {
        let mut chunk = [0; 65_536];
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            read.push_str(std::str::from_utf8(&chunk[..count]).expect("text"));
        }
        let is_all = proxy.metrics().sum(LINES, &[]) == read.lines().count() as f64;
        (is_all && read.contains("reason=client_ended")).then_some(())
    });
    assert!(read.lines().all(|line| line.contains(" takeovers=")), "lines are whole");
    assert_eq!(proxy.metrics().sum(DROPPED, &[("reason", "write")]), 0.0);
}

#[test]
fn a_place_that_cannot_be_is_told() {
    isolate();
    let settings = settings("[access_log]\npath = \"/nonexistent/access.log\"\n", "");
    let builder = Proxy::builder().settings(&settings);
    builder.fails().says(1, &["cannot open the access log /nonexistent/access.log", "make its directory"]);
}

/// Who hangs between telling of an end and noting that is killed at a stop, which tells of what is open.
#[test]
fn an_end_that_was_told_is_not_told_again_at_a_stop() {
    // Outside the namespace: building may need the network.
    let binary = faulty::binary();
    isolate();
    let (_server, accepted) = servers::Tcp::handing_over(SERVER);
    let log = AccessLog::new();
    let builder = Proxy::builder().binary(&binary).env(faulty::VARIABLE, "primary:log.pushed:1:stop");
    let proxy = builder.settings(&settings(&log.settings(), "")).flag("--fence-after", "1m").start();
    let (client, _server_end) = clients::pair(at(LISTEN), &accepted);
    reset(client).expect("linger");
    until_true("it hangs", || proxy.log().contains("fault: primary stops at log.pushed"));
    log.until_lines(1);
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    proxy.wait_end();
    let reasons: Vec<_> = log.lines().into_iter().map(|line| line.reason).collect();
    assert_eq!(reasons, ["client_reset"]);
}
