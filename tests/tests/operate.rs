//! The verbs and signals of operation: failover, failback, drain, stop, status.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::clients::{Outcome, ask_on, ask_tcp, ask_udp, connect};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{Guard, bytes_read, signal, wait_for};
use proxy_tests::proxy::Proxy;
use proxy_tests::wait::{DEADLINE, stays_true, until, until_true};
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(2);

fn both_protocols() -> Builder {
    let builder = Proxy::builder().upstream(SERVER).flag("--workers", "2");
    builder.listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080")
}

fn both_servers() -> (servers::Tcp, servers::Udp) {
    (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"))
}

fn accepted(proxy: &Proxy, pool: &str) -> f64 {
    proxy.metrics().sum("proxy_worker_accepted_total", &[("pool", pool)])
}

#[track_caller]
fn assert_answers() {
    assert_eq!(ask_tcp(at(LISTEN), "hello", TIMEOUT), Outcome::Answered("A hello".into()));
    assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
}

/// The kernel's types alone are 5 MB, and would be a third of the time until it serves.
#[test]
fn the_start_reads_little() {
    isolate();
    let proxy = both_protocols().start();
    let read = bytes_read(proxy.supervisor());
    assert!(read < 1 << 20, "{read} bytes");
}

#[test]
fn failover_and_failback_by_hand() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().flag("--failback-after", "never").start();
    let before = proxy.status();
    let mut stream = connect(at(LISTEN));
    assert!(ask_on(&mut stream, "before").answered());

    proxy.verb(&["failover"]).says(0, &[]);
    let over = proxy.until_status("the standby serves", |s| s.serves(STANDBY));
    assert_eq!(over.failovers, 1);
    assert_answers();
    assert_eq!((accepted(&proxy, PRIMARY), accepted(&proxy, STANDBY)), (1.0, 1.0));

    proxy.verb(&["failback"]).says(0, &[]);
    let back = proxy.until_status("the primary serves", |s| s.serves(PRIMARY));
    assert_answers();
    assert_eq!((accepted(&proxy, PRIMARY), accepted(&proxy, STANDBY)), (2.0, 1.0));

    assert_eq!(proxy.metrics().sum("proxy_failovers_total", &[("reason", "manual")]), 1.0);
    for seat in [PRIMARY, STANDBY] {
        assert_eq!(back.pid(seat), before.pid(seat), "nobody was replaced");
    }
    assert!(ask_on(&mut stream, "after").answered(), "open connections stay where they are");
}

/// Control dies between an order and its answer: the next one must not take that for its own.
#[test]
fn an_answer_is_not_given_to_the_next_control() {
    isolate();
    let builder = both_protocols().flag("--failback-after", "never").flag("--fence-after", "60s");
    let proxy = builder.env("PROXY_LOG", "info,proxy::control=debug").start();
    proxy.verb(&["failover"]).says(0, &[]);
    let control = proxy.status().control.pid;
    proxy.signal_supervisor(Signal::SIGSTOP);
    let mut ordering = proxy.verb_command(&["failback"]).stderr(Stdio::null()).spawn().expect("start");
    until_true("the order is logged", || proxy.log().contains(r#""order":"failback""#));
    signal(control, Signal::SIGKILL);
    proxy.signal_supervisor(Signal::SIGCONT);
    ordering.wait().expect("wait");
    proxy.until_status("there is a new control", |s| s.control.pid != control);
    // The standby dies, so that the next order is refused, unless the old answer is taken for its.
    proxy.signal(STANDBY, Signal::SIGSTOP);
    proxy.until_status("the standby hangs", |s| s.pool(STANDBY).state != "ready");
    proxy.verb(&["failover"]).says(1, &["standby", "not ready"]);
}

#[test]
fn failback_never() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().flag("--failback-after", "never").start();
    proxy.signal(PRIMARY, Signal::SIGKILL);
    proxy.until_status("the primary is back", |s| s.whole() && s.serves(STANDBY));
    stays_true("the standby serves", Duration::from_secs(1), || proxy.status().serves(STANDBY));
    let before = accepted(&proxy, STANDBY);
    assert_answers();
    assert_eq!(accepted(&proxy, STANDBY), before + 1.0);
}

#[test]
fn failback_after_a_while() {
    const AFTER: Duration = Duration::from_secs(1);
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().flag("--failback-after", "1s").start();
    let start = Instant::now();
    proxy.signal(PRIMARY, Signal::SIGKILL);
    proxy.until_status("the standby serves", |s| s.serves(STANDBY));
    proxy.until_status("the primary serves", |s| s.whole() && s.serves(PRIMARY));
    assert!(start.elapsed() >= AFTER, "not before the new pool was there so long");
    let before = accepted(&proxy, PRIMARY);
    assert_answers();
    assert_eq!(accepted(&proxy, PRIMARY), before + 1.0);
}

/// Asserts what draining means: what is open is served on, what is new is refused.
#[track_caller]
fn assert_draining(open: &mut std::net::TcpStream) {
    until_true("new connections are refused", || ask_tcp(at(LISTEN), "new", TIMEOUT) == Outcome::Refused);
    assert_eq!(ask_on(open, "open"), Outcome::Answered("A open".into()));
}

#[test]
fn drain_serves_what_is_open() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().start();
    let mut open = connect(at(LISTEN));
    assert!(ask_on(&mut open, "before").answered());
    assert_eq!(proxy.get("/readyz").expect("readyz").code, 200);
    thread::scope(|scope| {
        let drain = scope.spawn(|| proxy.verb(&["drain"]));
        assert_draining(&mut open);
        assert_eq!(proxy.get("/readyz").expect("readyz").code, 503);
        assert_eq!(proxy.status().draining, "draining");
        assert!(!drain.is_finished(), "it waits for what is open");
        drop(open);
        drain.join().expect("drain").says(0, &["drained"]);
    });
    assert_eq!(proxy.status().draining, "drained");
    assert!(proxy.ended().is_none(), "it stays, refusing, until it is stopped");
    assert_eq!(ask_tcp(at(LISTEN), "new", TIMEOUT), Outcome::Refused);
}

#[test]
fn stop_drains_and_ends() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().start();
    let mut open = connect(at(LISTEN));
    assert!(ask_on(&mut open, "before").answered());
    let mut stop = Guard(proxy.verb_command(&["stop"]).spawn().expect("start proxy stop"));
    assert_draining(&mut open);
    assert!(proxy.ended().is_none(), "it waits for the open connection");
    drop(open);
    assert_eq!(proxy.wait_end().code(), Some(0));
    let end = wait_for(&mut stop.0, DEADLINE).expect("proxy stop ends");
    assert!(end.success(), "{end}");
    assert!(!proxy.control().exists(), "the control socket is removed");
}

#[test]
fn stop_now_does_not_wait() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().start();
    let mut open = connect(at(LISTEN));
    assert!(ask_on(&mut open, "before").answered());
    let start = Instant::now();
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    assert_eq!(proxy.wait_end().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // An end of the stream would be a lie: the server never said so.
    let read = open.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn term_drains_and_a_second_one_ends() {
    for ending in [Signal::SIGTERM, Signal::SIGINT] {
        isolate();
        let _servers = both_servers();
        let proxy = both_protocols().start();
        let mut open = connect(at(LISTEN));
        assert!(ask_on(&mut open, "before").answered());
        proxy.signal_supervisor(ending);
        assert_draining(&mut open);
        assert!(proxy.ended().is_none(), "it waits for the open connection");
        let start = Instant::now();
        proxy.signal_supervisor(ending);
        assert_eq!(proxy.wait_end().code(), Some(0), "{ending}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn drain_has_an_end() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().flag("--drain-timeout", "500ms").start();
    let mut open = connect(at(LISTEN));
    assert!(ask_on(&mut open, "before").answered());
    let start = Instant::now();
    proxy.signal_supervisor(Signal::SIGTERM);
    assert_eq!(proxy.wait_end().code(), Some(0));
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "{took:?}");
}

/// A pool that hangs must not keep the proxy from ending.
#[test]
fn stop_ends_a_stopped_pool_too() {
    isolate();
    let proxy = both_protocols().flag("--fence-after", "60s").start();
    proxy.signal(STANDBY, Signal::SIGSTOP);
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    assert_eq!(proxy.wait_end().code(), Some(0));
}

#[test]
fn status_for_a_person() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().start();
    let status = proxy.status();
    let mut words = vec!["primary", "standby", "ready", "serv", "ms", "tcp://127.0.0.1:8080"];
    words.extend(["udp://127.0.0.1:8080", "queue", "connections", "flows"]);
    let pids = [status.supervisor.pid, status.pid(PRIMARY), status.pid(STANDBY)];
    let pids = pids.map(|pid| pid.to_string());
    words.extend(pids.iter().map(String::as_str));
    let shown = proxy.verb(&["status"]);
    shown.says(0, &words);
    assert!(shown.text.lines().count() <= 24, "at a glance: {}", shown.text);
    assert!(shown.text.lines().all(|line| line.chars().count() <= 100), "{}", shown.text);
}

#[test]
fn status_tells_what_the_contract_says() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().start();
    let mut open = connect(at(LISTEN));
    assert!(ask_on(&mut open, "hello").answered());
    assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
    let status = proxy.until_status("the flows are counted", |s| {
        s.pool(PRIMARY).connections == 1 && s.pool(PRIMARY).udp_flows == 1
    });
    assert_eq!(status.supervisor.pid, proxy.supervisor());
    assert!(!status.supervisor.version.is_empty());
    let addresses: Vec<_> = status.listeners.iter().map(|l| l.address.as_str()).collect();
    assert_eq!(addresses, ["tcp://127.0.0.1:8080", "udp://127.0.0.1:8080"]);
    assert_eq!((status.failovers, status.takeovers), (0, 0));
    for seat in [PRIMARY, STANDBY] {
        let pool = status.pool(seat);
        assert!(pool.live && (1..=1000).contains(&pool.lease_remaining_ms), "{pool:?}");
    }
    assert_ne!(status.pool(PRIMARY).epoch, status.pool(STANDBY).epoch);
}

#[test]
fn status_exit_codes() {
    isolate();
    let proxy = both_protocols().flag("--fence-after", "60s").start();
    proxy.verb(&["status"]).says(0, &[]);
    proxy.verb(&["status", "--bogus"]).says(2, &["--bogus"]);
    let standby = proxy.signal(STANDBY, Signal::SIGSTOP);
    proxy.until_status("the standby is suspect", |s| s.pool(STANDBY).state == "suspect");
    proxy.verb(&["status"]).says(3, &["suspect"]);
    proxy.verb(&["status", "--json"]).says(3, &["suspect"]);
    let primary = proxy.signal(PRIMARY, Signal::SIGSTOP);
    proxy.until_status("nobody serves", |s| s.serving.is_none());
    proxy.verb(&["status"]).says(1, &["suspect"]);
    for pid in [primary, standby] {
        signal(pid, Signal::SIGCONT);
    }
    proxy.until_status("both are ready", |s| s.whole());
    proxy.verb(&["stop", "--now"]).says(0, &[]);
    proxy.wait_end();
    let socket = proxy.control().display().to_string();
    proxy.verb(&["status"]).says(1, &[&socket]);
}

#[test]
fn status_watch_goes_on() {
    isolate();
    let proxy = both_protocols().start();
    let mut command = proxy.verb_command(&["status", "--watch", "100ms"]);
    let mut watch = Guard(command.stdout(Stdio::piped()).spawn().expect("start proxy status"));
    let output = watch.0.stdout.take().expect("piped");
    let reader = thread::spawn(move || {
        // Three pictures: the watch goes on, and does not wait for its buffer to fill.
        let lines = BufReader::new(output.take(1 << 20)).lines().map_while(Result::ok);
        lines.filter(|line| line.contains(STANDBY)).take(3).count()
    });
    until_true("three pictures are shown", || reader.is_finished());
    assert_eq!(reader.join().expect("the reader"), 3);
}

/// Nobody reads what the proxy logs, and the pipe to him is full.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    isolate();
    let _servers = both_servers();
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut options = OpenOptions::new();
    let mut pipe = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).expect("open");
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    let shell = format!("exec \"$0\" \"$@\" 2<>{}", fifo.display());
    let proxy = both_protocols().through(&["sh", "-c", &shell]).start();
    let before = proxy.status();
    signal(before.pid(PRIMARY), Signal::SIGKILL);
    proxy.until_status("taken over", |s| s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch);
    assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());

    let mut held = vec![0; 1 << 20];
    let mut read = 0;
    while let Ok(count @ 1..) = pipe.read(&mut held) {
        read += count;
        assert!(held[..count].iter().all(|byte| *byte == b'x'), "a line went into the full pipe");
    }
    assert!(read > 0);
    proxy.verb(&["failover"]).says(0, &[]);
    let told = until("the loss is told", || {
        let count = pipe.read(&mut held).ok()?;
        Some(String::from_utf8_lossy(&held[..count]).into_owned())
    });
    assert!(
        told.starts_with("{\"level\":\"WARN\",\"message\":\"standard error was full\",\"dropped\":"),
        "{told}"
    );
}

/// Who read what the proxy logs has gone.
#[test]
fn a_log_whose_reader_has_gone_stops_nothing() {
    isolate();
    let _servers = both_servers();
    let proxy = both_protocols().through(&["bash", "-c", "exec \"$0\" \"$@\" 2> >(exec true)"]).start();
    for _ in 0..3 {
        let before = proxy.status();
        signal(before.pid(PRIMARY), Signal::SIGKILL);
        proxy.until_status("taken over", |s| s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch);
        assert_eq!(proxy.status().supervisor.pid, before.supervisor.pid);
    }
    assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
}
