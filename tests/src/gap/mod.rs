//! How long the gap is that a takeover makes, with many connections of which most are idle: a pool is
//! killed, and each active connection waits for its next byte.
//!
//! [`load`] is the clients, [`echo`] the server behind the proxy, a process of its own because of the
//! limit of descriptors, [`numbers`] the statistics.

pub mod echo;
mod load;
pub mod numbers;

use std::env::current_exe;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::net::{at, isolate};
use crate::process::{self, Guard};
use crate::proxy::Proxy;
use crate::status::{Pool, Status};
use crate::sys;
use crate::wait::until;
use load::Load;
use numbers::Spread;

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
/// Traffic between two kills.
const BETWEEN: Duration = Duration::from_millis(500);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Open connections, the active ones among them.
    pub connections: usize,
    /// Connections on which a byte goes to and fro all the time.
    pub active: usize,
    /// Pools that are killed, one after the other.
    pub kills: usize,
}

/// Raises this process's limit of descriptors as far as it may. Children inherit it.
pub fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit of descriptors");
}

/// Measures in a network namespace of its own, and prints what it finds.
pub fn run(settings: &Settings) {
    isolate();
    let _server = start_server();
    let proxy = Proxy::builder()
        .listen(&format!("tcp://{LISTEN}"))
        .upstream(SERVER)
        // The defaults; tests have calmer ones.
        .flag("--lease", "100ms")
        .flag("--fence-after", "800ms")
        .start();
    let empty = memory(&proxy);
    let mut load = Load::open(at(LISTEN), settings);
    let Settings { connections, active, .. } = settings;
    println!("{connections} connections, {active} of them active; first byte after the kill:");
    let all: Vec<Spread> = (1..=settings.kills).map(|kill| measure(kill, &proxy, &mut load)).collect();
    println!("  all      {}", Spread::of_all(&all));
    let full = memory(&proxy);
    let each = (full - empty) / *connections as f64;
    println!("memory of the proxy's processes (PSS, without the kernel's buffers):");
    println!("  {:.1} MB at first, {:.1} MB now, {:.2} KB a connection", empty / 1e6, full / 1e6, each / 1e3);
    println!("stages of the takeovers, as the supervisor sees them, mean:{}", stages(&proxy));
    let lost = proxy.metrics().sum("proxy_lost_flows_total", &[]);
    assert_eq!(lost, 0.0, "connections lost");
}

fn start_server() -> Guard {
    let mut command = Command::new(current_exe().expect("own path"));
    command.args(["--serve", SERVER]).stdin(Stdio::null());
    sys::die_with_thread(&mut command);
    let server = Guard(command.spawn().expect("start the server"));
    until("the server listens", || std::net::TcpStream::connect(at(SERVER)).ok());
    server
}

/// Kills the pool that carries the connections, and prints what came of it.
fn measure(kill: usize, proxy: &Proxy, load: &mut Load) -> Spread {
    let before = proxy.until_status("both pools are ready", Status::whole);
    load.exchange(BETWEEN);
    let carries = |pool: &&Pool| pool.connections;
    let pool = before.pools.iter().max_by_key(carries).and_then(|pool| pool.pid);
    let gaps = load.kill(pool.expect("a pool with connections"));
    proxy.until_status("taken over", |s| s.takeovers > before.takeovers);
    let spread = Spread::of(gaps);
    println!("  kill {kill:<3} {spread}");
    spread
}

/// Proportional set sizes of all processes of the proxy, bytes: what several of them share is counted once.
fn memory(proxy: &Proxy) -> f64 {
    let sizes = proxy.processes().into_iter().filter_map(|p| process::proportional_set_size(p.pid));
    sizes.map(|bytes| bytes as f64).sum()
}

fn stages(proxy: &Proxy) -> String {
    const NAME: &str = "proxy_takeover_duration_seconds";
    let metrics = proxy.metrics();
    let count = format!("{NAME}_count");
    let stages = metrics.0.iter().filter(|sample| sample.name == count && sample.value > 0.0);
    let mean = |stage: &str, count: f64| {
        let sum = metrics.sum(&format!("{NAME}_sum"), &[("stage", stage)]);
        format!(" {stage} {:.1} ms", sum / count * 1e3)
    };
    stages.map(|sample| mean(&sample.labels["stage"], sample.value)).collect::<Vec<_>>().join(",")
}
