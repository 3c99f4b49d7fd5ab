//! Metrics as others see them: promtool, a real Prometheus, and probes.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::clients::{ask_on, ask_tcp, ask_udp, connect};
use proxy_tests::metrics::{self, Metrics};
use proxy_tests::net::{at, isolate};
use proxy_tests::process::{Guard, signal};
use proxy_tests::proxy::{METRICS, Proxy};
use proxy_tests::wait::until;
use proxy_tests::{PRIMARY, STANDBY, servers, sys};

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const PROMETHEUS: &str = "127.0.0.1:9090";
const TIMEOUT: Duration = Duration::from_secs(2);

/// A proxy that has seen a bit of everything: TCP, UDP, a killed pool with a connection inside.
fn experienced_proxy() -> Proxy {
    let builder = Proxy::builder().listen("tcp://127.0.0.1:8080").listen("udp://127.0.0.1:8080");
    let proxy = builder.upstream(SERVER).flag("--workers", "2").start();
    for _ in 0..10 {
        assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
        assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
    }
    let mut inside = connect(at(LISTEN));
    assert!(ask_on(&mut inside, "hello").answered());
    let before = proxy.status();
    signal(before.pid(PRIMARY), Signal::SIGKILL);
    proxy.until_status("the seat has a new pool", |s| {
        s.whole() && s.pool(PRIMARY).epoch > before.pool(PRIMARY).epoch
    });
    assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
    proxy.until_metric("proxy_adopted_flows_total", &[("protocol", "tcp")], 1.0);
    proxy
}

fn both_servers() -> (servers::Tcp, servers::Udp) {
    (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"))
}

/// A program of the Prometheus package, which `cargo xtask test` fetches.
#[track_caller]
fn start(command: &mut Command) -> Guard {
    sys::die_with_thread(command);
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.spawn();
    Guard(started.unwrap_or_else(|e| panic!("no {name} ({e}): run the tests by cargo xtask test")))
}

#[test]
fn promtool_has_no_complaint() {
    isolate();
    let _servers = both_servers();
    let text = experienced_proxy().metrics_text();
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = start(&mut command);
    let mut input = promtool.0.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("write");
    drop(input);
    let status = promtool.0.wait().expect("wait");
    let said = [
        std::io::read_to_string(promtool.0.stdout.take().expect("piped")).expect("output"),
        std::io::read_to_string(promtool.0.stderr.take().expect("piped")).expect("output"),
    ];
    assert!(status.success() && said.concat().is_empty(), "{status}: {}", said.concat());
}

#[test]
fn prometheus_scrapes_it() {
    isolate();
    let _servers = both_servers();
    let _proxy = experienced_proxy();
    let directory = tempfile::tempdir().expect("temporary directory");
    let config = directory.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n  - job_name: proxy\n    scrape_interval: 1s\n    \
         static_configs:\n      - targets: ['{METRICS}']\n"
    );
    fs::write(&config, text).expect("write");
    let mut command = Command::new("prometheus");
    command.arg("--config.file").arg(&config).arg("--log.level=error");
    command.arg("--storage.tsdb.path").arg(directory.path().join("data"));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let _prometheus = start(&mut command);

    let target = until("the target has been scraped", || {
        let targets = ask_prometheus("/api/v1/targets")?;
        let target = targets["data"]["activeTargets"].get(0)?.clone();
        (target["health"] != "unknown").then_some(target)
    });
    assert_eq!(target["health"], "up", "{target}");
    assert_eq!(target["lastError"], "", "{target}");
    let verdicts = until("the verdicts can be queried", || {
        let answer = ask_prometheus("/api/v1/query?query=sum(proxy_steering_verdicts_total)")?;
        answer["data"]["result"].get(0)?["value"].get(1)?.as_str()?.parse::<f64>().ok()
    });
    assert!(verdicts >= 22.0, "{verdicts}");
}

fn ask_prometheus(path: &str) -> Option<serde_json::Value> {
    let answer = metrics::get_unchunked(at(PROMETHEUS), path).ok()?;
    serde_json::from_str(&answer.body).ok()
}

#[test]
fn every_promised_name_is_there() {
    const NAMES: [&str; 28] = [
        "proxy_build_info",
        "proxy_pool_state",
        "proxy_pool_lease_remaining_seconds",
        "proxy_failovers_total",
        "proxy_lost_flows_total",
        "proxy_steering_verdicts_total",
        "proxy_worker_accepted_total",
        "proxy_listener_connections",
        "proxy_listener_connections_total",
        "proxy_listener_connections_rejected_total",
        "proxy_listener_received_bytes_total",
        "proxy_listener_sent_bytes_total",
        "proxy_listener_accept_queue_length",
        "proxy_udp_flows",
        "proxy_udp_flows_total",
        "proxy_udp_datagrams_received_total",
        "proxy_udp_datagrams_sent_total",
        "proxy_udp_datagrams_dropped_total",
        "proxy_udp_foreign_datagrams_total",
        "proxy_upstream_server_up",
        "proxy_upstream_server_connections",
        "proxy_upstream_server_connections_total",
        "proxy_upstream_server_connect_failures_total",
        "proxy_upstream_server_connect_duration_seconds_count",
        "proxy_pipes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
    ];
    isolate();
    let _servers = both_servers();
    let metrics = experienced_proxy().metrics();
    let missing: Vec<_> = NAMES.into_iter().filter(|name| !metrics.has(name)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    for pool in [PRIMARY, STANDBY] {
        let ready = [("pool", pool), ("state", "ready")];
        assert_eq!(metrics.sum("proxy_pool_state", &ready), 1.0);
        assert_eq!(metrics.sum("proxy_pool_state", &[("pool", pool)]), 1.0, "one state at a time");
        let lease = metrics.sum("proxy_pool_lease_remaining_seconds", &[("pool", pool)]);
        assert!(lease > 0.0 && lease <= 1.0, "{lease}");
    }
}

/// Labels are for what is bounded in number. Clients are not.
#[test]
fn no_label_carries_a_client_address() {
    isolate();
    let _servers = both_servers();
    let proxy = Proxy::builder().listen("udp://127.0.0.1:8080").upstream(SERVER).start();
    let client = std::net::UdpSocket::bind("127.0.0.77:0").expect("bind");
    client.set_read_timeout(Some(TIMEOUT)).expect("timeout");
    client.send_to(b"hello", LISTEN).expect("send");
    client.recv_from(&mut [0; 100]).expect("an answer");
    let text = proxy.metrics_text();
    assert_eq!(Metrics::parse(&text).sum("proxy_udp_flows", &[]), 1.0);
    assert!(!text.contains("127.0.0.77"), "{text}");
}

#[test]
fn probes() {
    isolate();
    let _servers = both_servers();
    let proxy = experienced_proxy();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(proxy.get(path).expect("an answer").code, 200, "{path}");
    }
}
