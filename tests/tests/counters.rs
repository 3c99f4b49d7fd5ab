//! Counters go on in a successor, whatever its settings are.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::clients::{ask_tcp, ask_udp};
use proxy_tests::metrics::Metrics;
use proxy_tests::net::{at, isolate};
use proxy_tests::process::signal;
use proxy_tests::proxy::Proxy;
use proxy_tests::wait::until;
use proxy_tests::{PRIMARY, STANDBY, servers};

const LISTEN: &str = "127.0.0.1:8080";
const OTHER: &str = "127.0.0.1:8081";
const SERVER: &str = "127.0.0.1:9001";
const TIMEOUT: Duration = Duration::from_secs(5);
const DROPPED: &str = "proxy_udp_datagrams_dropped_total";
const BY_KERNEL: [(&str, &str); 1] = [("reason", "receive_buffer")];

/// What of a scrape must not fall; `proxy_control_clients_refused_total` tells that it is control's own.
const COUNTED: [&str; 12] = [
    "process_cpu_seconds_total",
    "proxy_listener_connections_total",
    "proxy_listener_received_bytes_total",
    "proxy_udp_datagrams_received_total",
    DROPPED,
    "proxy_upstream_server_connections_total",
    "proxy_upstream_server_connect_duration_seconds_sum",
    "proxy_worker_turns_total",
    "proxy_steering_verdicts_total",
    "proxy_takeovers_total",
    "proxy_takeover_duration_seconds_count",
    "proxy_pool_restarts_total",
];

/// The settings, with so many workers; `first` is before the listeners that are always there.
fn settings(workers: usize, first: &str) -> String {
    format!(
        "{first}\n[[listener]]\nname = \"it\"\nbind = [\"tcp://{LISTEN}\", \"udp://{LISTEN}\"]\nupstream = \"all\"\n\
         [upstream.all]\n[[upstream.all.server]]\naddress = \"{SERVER}\"\n[defaults]\nworkers = {workers}\n"
    )
}

fn talk() {
    for _ in 0..10 {
        assert!(ask_tcp(at(LISTEN), "hello", TIMEOUT).answered());
        assert!(ask_udp(at(LISTEN), "hello", TIMEOUT).answered());
    }
}

/// Nobody reads what comes to the standby's sockets, until the kernel has dropped some.
#[track_caller]
fn overflow(proxy: &Proxy) {
    let pools = [STANDBY, PRIMARY].map(|seat| proxy.pid(seat));
    proxy.verb(&["failover"]).says(0, &["standby"]);
    ask_udp(at(LISTEN), "hello", TIMEOUT);
    pools.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    until("the kernel drops datagrams", || {
        for _ in 0..100 {
            let client = UdpSocket::bind("127.0.0.1:0").expect("socket");
            client.send_to(&[0; 60_000], LISTEN).expect("send");
        }
        Some(proxy.metrics()).filter(|metrics| metrics.sum(DROPPED, &BY_KERNEL) > 100.0)
    });
    pools.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
}

/// Series by series. Workers that are no more have none.
#[track_caller]
fn assert_nothing_fell(before: &Metrics, after: &Metrics) {
    for name in COUNTED {
        assert!(before.sum(name, &[]) > 0.0, "{name} was not counted at all");
        for was in before.0.iter().filter(|sample| sample.name == name) {
            let mut same = after.0.iter().filter(|sample| sample.name == name && sample.labels == was.labels);
            match same.next() {
                Some(is) => assert!(is.value >= was.value, "it fell: {was:?} to {}", is.value),
                None => assert!(was.labels.contains_key("worker"), "it is gone: {was:?}"),
            }
        }
    }
}

#[test]
fn counters_go_on_with_fewer_workers_and_other_listeners() {
    isolate();
    let (_tcp, _udp) = (servers::Tcp::lines(SERVER, "A"), servers::Udp::naming(SERVER, "A"));
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("proxy.toml");
    let write = |text: String| fs::write(&file, text).expect("write");
    write(settings(3, ""));
    let proxy = Proxy::builder().flag("--config", file.to_str().expect("text")).flag("--fence-after", "60s");
    let proxy = proxy.start();
    talk();
    overflow(&proxy);
    let killed = proxy.status().pool(STANDBY).epoch;
    signal(proxy.pid(STANDBY), Signal::SIGKILL);
    proxy.until_status("the seat has a new pool", |s| s.whole() && s.pool(STANDBY).epoch > killed);
    talk();
    let mut before = proxy.until_metric("proxy_takeover_duration_seconds_count", &[("stage", "reseat")], 1.0);

    let another = format!("[[listener]]\nname = \"new\"\nbind = [\"tcp://{OTHER}\"]\nupstream = \"all\"");
    for (workers, first) in [(1, another.as_str()), (4, ""), (2, another.as_str())] {
        write(settings(workers, first));
        let answer = proxy.verb(&["reload"]);
        answer.says(0, &["reloaded: proxy ", ", gap "]);
        let after = proxy.metrics();
        assert_nothing_fell(&before, &after);
        talk();
        before = proxy.metrics();
        let name = "proxy_listener_connections_total";
        assert!(before.sum(name, &[]) >= after.sum(name, &[]) + 10.0, "{workers} workers count on");
    }
    let done = [("kind", "reload"), ("result", "done")];
    assert_eq!(proxy.metrics().sum("proxy_upgrades_total", &done), 3.0);
}
