//! Control's sockets, served in a thread over a table of made-up numbers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use proxy_common::lease::Liveness;

use super::{status::Status, *};
use crate::{
    cli::{Cli, Verb},
    slots,
    sys::{socket, time},
    table::{Dimensions, DrainState, HandoverKind, PoolState},
};

struct FixedSteering(Liveness);

impl SteeringView for FixedSteering {
    fn liveness(&self) -> Liveness {
        self.0
    }

    fn verdicts(&self) -> Result<Vec<u64>, String> {
        Ok((100..200).collect())
    }
}

struct Control {
    path: PathBuf,
    metrics: SocketAddr,
    table: Table,
    /// The supervisor's end of the line.
    line: Fd,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn config() -> Config {
    let words = "proxy run -l tcp://127.0.0.1:1 -l udp://[::1]:2 -u 127.0.0.1:3 -u 127.0.0.1:4 --workers 2 \
                 --max-connections 7 --user root";
    let cli = <Cli as clap::Parser>::try_parse_from(words.split_whitespace()).unwrap();
    let Verb::Run(args) = cli.verb else { panic!("run is run") };
    Config::from_args(&args).unwrap()
}

fn table() -> Table {
    let config = config();
    let (upstreams, servers) = (1, config.slots());
    let dimensions =
        Dimensions { descriptors: 100, workers: 2, listeners: 2, upstreams, servers, ..Dimensions::SMALL };
    let (_, table) = Table::create(dimensions).unwrap();
    slots::seed(&config, &table);
    table.supervisor().looked_at.store(u64::MAX, Relaxed);
    for seat in 0..2 {
        table.seat(seat).set_state(PoolState::Ready);
        table.worker(seat, 1).connections.set(5);
        table.listener_counters(seat, 1)[0].accepted.add(10);
        table.listener_counters(seat, 0)[1].datagrams_received.add(20);
        table.server_counters(seat, 0)[1].failures[0].add(3);
        table.worker(seat, 1).counters.turns.add(2);
        table.inherited_worker(seat, 1).turns.add(30);
    }
    table.inherited_listeners()[0].accepted.add(500);
    table.inherited_servers()[1].failures[0].add(100);
    table.inherited_rest().audits.add(9);
    table.supervisor().ticks_inherited.add(1200);
    table.supervisor().handover.succeed(3, HandoverKind::Upgrade, 4200);
    table.supervisor().handover.begin(HandoverKind::Reload);
    table.supervisor().handover.fail("line 3: no such \"key\"");
    table
}

fn all_live() -> Liveness {
    let mut liveness = Liveness { workers: 2, ..Liveness::EMPTY };
    for seat in &mut liveness.seats {
        seat.live = 1;
        seat.deadlines = [time::monotonic_ns() + 3_600_000_000_000; 64];
    }
    liveness
}

fn start(liveness: Liveness) -> Control {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("proxy-control-{}-{}.sock", std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let control_socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    control_socket.set_nonblocking(true).unwrap();
    let metrics_socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    metrics_socket.set_nonblocking(true).unwrap();
    let metrics = metrics_socket.local_addr().unwrap();
    let (orders, line) = socket::message_pair().unwrap();
    let table = table();
    let (notices, notices_peer) = socket::message_pair().unwrap();
    let thread = std::thread::spawn(move || {
        serve(Context {
            config: config(),
            table,
            steering: &FixedSteering(liveness),
            control_socket: Fd::keep(control_socket),
            metrics: Some(Fd::keep(metrics_socket)),
            orders,
            listening: Vec::new(),
            unneeded: Vec::new(),
            orders_peer: orders,
            notices,
            notices_peer,
            access_log: None,
            last_kept: orders,
        })
    });
    Control { path, metrics, table, line, thread }
}

impl Control {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        answer(stream)
    }

    fn http(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // A request that is too long may be answered, and closed, before it is sent.
        let _ = stream.write_all(request.as_bytes());
        answer(stream)
    }

    fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    fn hear_order(&self) -> String {
        assert!(crate::sys::poll::readable(&[self.line], Duration::from_secs(20)).unwrap()[0]);
        let mut buffer = [0; 64];
        let len = socket::receive_message(self.line, &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    }
}

/// Everything until the end; a reset is an end too.
fn answer(mut stream: impl Read) -> String {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer: {error}"),
        }
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn status_is_as_promised() {
    let control = start(all_live());
    let text = control.ask(b"status\n");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["/supervisor/pid", "/supervisor/version", "/failovers", "/takeovers", "/listeners/0/address"]
    {
        assert!(value.pointer(key).is_some(), "no {key} in {text}");
    }
    for key in ["seat", "pid", "epoch", "state", "live", "lease_remaining_ms", "connections", "udp_flows"] {
        assert!(value["pools"][1].get(key).is_some(), "no pool {key} in {text}");
    }
    let upgrade = r#""upgrade":{"number":4,"kind":"reload","state":"failed","error":"line 3: no such \"key\"","gap_us":4200,"done":1,"failed":1}"#;
    assert!(text.contains(upgrade), "no {upgrade} in {text}");
    let status: Status = serde_json::from_str(&text).unwrap();
    assert_eq!(status.serving.as_deref(), Some("primary"));
    assert!(status.supervisor.up);
    assert_eq!((status.pools[0].state.as_str(), status.pools[0].connections), ("ready", 5));
    assert!(status.pools[0].live && status.pools[0].lease_remaining_ms > 3_000_000);
    assert_eq!((status.listeners[0].total, status.servers[1].failures), (520, 106));
    assert_eq!(status.listeners[1].address, "udp://[::1]:2");
}

#[test]
fn nobody_live_is_nobody_serving() {
    let control = start(Liveness { workers: 2, ..Liveness::EMPTY });
    // A request may end with the stream instead of the line.
    let mut stream = control.connect();
    stream.write_all(b"status").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let status: Status = serde_json::from_str(&answer(stream)).unwrap();
    assert_eq!((status.serving, status.pools[0].live, status.pools[0].lease_remaining_ms), (None, false, 0));
    assert!(control.get("/readyz").starts_with("HTTP/1.1 503 "));
}

#[test]
fn garbage_is_answered_and_hurts_nobody() {
    let control = start(all_live());
    let is_error = |answer: &str| matches!(serde_json::from_str(answer), Ok(Reply::Error(_)));
    for garbage in [&b"\n"[..], b"rm -rf\n", b"\xff\xfe\n", &[b'a'; 5000]] {
        let answer = control.ask(garbage);
        assert!(is_error(&answer), "{garbage:?}: {answer:?}");
    }
    drop(control.connect());
    assert!(control.ask(b"status\n").contains("serving"));
}

#[test]
fn orders_are_passed_on_and_answers_back() {
    let control = start(all_live());
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| control.ask(b"failover\n"));
        assert_eq!(control.hear_order(), "1 failover");
        socket::send_message(control.line, b"1 done").unwrap();
        asked.join().unwrap()
    });
    assert_eq!(asked, "{\"done\":\"failover\"}\n");
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| control.ask(b"stop-now\n"));
        assert_eq!(control.hear_order(), "2 stop-now");
        socket::send_message(control.line, b"2 refused not today").unwrap();
        asked.join().unwrap()
    });
    assert_eq!(asked, "{\"error\":\"not today\"}\n");
}

#[test]
fn metrics_are_read_from_the_table() {
    let control = start(all_live());
    let text = control.get("/metrics");
    let expected = [
        r#"proxy_pool_state{pool="standby",state="ready"} 1"#,
        r#"proxy_pool_state{pool="standby",state="dead"} 0"#,
        r#"proxy_listener_connections_total{listener="tcp://127.0.0.1:1"} 520"#,
        r#"proxy_udp_datagrams_received_total{listener="udp://[::1]:2"} 40"#,
        r#"proxy_upstream_server_connect_failures_total{upstream="default",server="127.0.0.1:4",reason="refused"} 106"#,
        r#"proxy_worker_turns_total{pool="standby",worker="1"} 32"#,
        "proxy_takeover_audits_total 9",
        r#"proxy_upgrades_total{kind="upgrade",result="done"} 1"#,
        r#"proxy_upgrades_total{kind="reload",result="failed"} 1"#,
        "proxy_upgrade_gap_seconds 0.0042",
        "process_cpu_seconds_total 12",
        r#"proxy_steering_verdicts_total{listener="udp://[::1]:2",pool="standby",reason="bit_clear"} 126"#,
        r#"proxy_limit{what="connections"} 7"#,
        "proxy_supervisor_up 1",
    ];
    for line in expected {
        assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(r#"proxy_listener_connections_total{listener="udp"#));
    assert!(!text.contains(r#"what="flows""#));
}

#[test]
fn http_knows_three_paths_and_two_methods() {
    let control = start(all_live());
    assert!(control.get("/healthz").starts_with("HTTP/1.1 200 "));
    assert!(control.get("/readyz").starts_with("HTTP/1.1 200 "));
    assert!(control.get("/").starts_with("HTTP/1.1 404 "));
    assert!(control.http("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").contains(" 405 "));
    let head = control.http("HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.0 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    control.table.supervisor().set_drain(DrainState::Draining);
    assert!(control.get("/readyz").starts_with("HTTP/1.1 503 "));
    assert!(control.get("/metrics").contains("\nproxy_draining 1\n"));
}

#[test]
fn huge_and_broken_requests_are_refused() {
    let control = start(all_live());
    let huge = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let answer = control.http(&huge);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    assert!(control.http("\x01\x02 garbage\r\n\r\n").contains(" 400 "));
    assert!(control.get("/healthz").contains(" 200 "));
}

#[test]
fn clients_that_say_nothing_are_closed() {
    let control = start(all_live());
    let silent = control.connect();
    let mut truncated = TcpStream::connect(control.metrics).unwrap();
    truncated.write_all(b"GET /metrics HT").unwrap();
    truncated.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(answer(truncated), "");
    assert_eq!(answer(silent), "");
}

#[test]
fn one_client_too_many_is_closed_and_counted() {
    let control = start(all_live());
    let held: Vec<UnixStream> = (0..clients::MAX_CLIENTS).map(|_| control.connect()).collect();
    assert_eq!(answer(control.connect()), "");
    assert!(
        control.get("/metrics").contains("\nproxy_control_clients_refused_total{socket=\"control\"} 1\n")
    );
    drop(held);
    while !control.ask(b"status\n").contains("serving") {}
}

#[test]
fn control_outlives_the_supervisor_but_not_the_pools() {
    let mut control = start(all_live());
    control.table.supervisor().looked_at.store(0, Relaxed);
    assert!(control.ask(b"failover\n").contains("supervisor is gone"));
    assert!(control.get("/metrics").contains("\nproxy_supervisor_up 0\n"));
    crate::sys::fd::close(control.line);
    let thread = std::mem::replace(&mut control.thread, std::thread::spawn(|| Ok(())));
    assert!(thread.join().unwrap().is_ok());
}
