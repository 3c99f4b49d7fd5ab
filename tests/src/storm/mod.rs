//! The storm: many verified connections and flows through a proxy whose processes are killed,
//! stopped and blocked all the time. Everything that happens is made from a seed; only the timing of
//! the machine is not.
//!
//! [`script`] says what a connection does, [`end`] does it, [`fault`] is the fault menu, [`log`]
//! counts.

pub mod end;
pub mod fault;
pub mod log;
pub mod script;
mod tcp;
mod udp;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::STANDBY;
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::wait::until;
use fault::Fault;
use log::Log;

const LISTEN: &str = "127.0.0.1:8080";
const SERVER: &str = "127.0.0.1:9001";
const WORKERS: u32 = 2;
/// Silence after which a pool of a storm is fenced, milliseconds.
pub const FENCE_AFTER_MS: u64 = 600;
/// Both pools must be ready again so soon after a fault; each may have to wait its turn.
const WHOLE: Duration = Duration::from_secs(30);
/// A recovery that takes longer is told.
const SLOW: Duration = Duration::from_secs(3);
/// Everything must have come to rest so soon after the last connection.
const QUIET: Duration = Duration::from_secs(20);
const PROGRESS: Duration = Duration::from_secs(5);

/// What a storm is to be like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything is made from this.
    pub seed: u64,
    /// How long faults go on.
    pub lasts: Duration,
    /// TCP clients, each with one connection at a time.
    pub clients: usize,
    /// UDP flows.
    pub flows: u32,
}

/// How a storm ended.
#[derive(Debug)]
pub struct Report {
    /// Times that a pool took over from another.
    pub takeovers: f64,
    /// Flows that were carried on.
    pub adopted: f64,
    /// Connections whose scripts were done.
    pub connections: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// UDP answers verified.
    pub answers: u64,
    /// Datagrams that a worker sent on for another one.
    pub foreign: f64,
    /// What went wrong, each printed already.
    pub failures: usize,
}

/// Runs a storm in this thread's network namespace. Everything that goes wrong is printed, with the
/// seed, and counted in the report.
pub fn run(settings: &Settings) -> Report {
    let log = Arc::new(Log::new(settings.seed));
    println!("storm: {settings:?}");
    let (_tcp, _udp) = (tcp::serve(&log), udp::serve());
    let proxy = start();
    // The workers tell of their pipes at their first tick.
    let baseline =
        until("the pools tell of their pipes", || Some(Open::of(&proxy)).filter(|o| o.private_pipes < 16));
    let clients = start_clients(settings, &log);
    strike_on(settings, &log, &proxy);
    log.is_over.store(true, Relaxed);
    clients.into_iter().for_each(|client| drop(client.join()));
    wait_quiet(&log, &proxy, &baseline);
    if log.failures() > 0 {
        eprintln!("--- log of the proxy:\n{}---", proxy.log());
    }
    report(&log, &proxy)
}

fn start() -> Proxy {
    Proxy::builder()
        .listen(&format!("tcp://{LISTEN}"))
        .listen(&format!("udp://{LISTEN}"))
        .upstream(SERVER)
        .flag("--workers", &WORKERS.to_string())
        .flag("--fence-after", &format!("{FENCE_AFTER_MS}ms"))
        // Often enough between two faults: flows of one pool whose datagrams the other one gets.
        .flag("--failback-after", "300ms")
        // No flow is silent for so long, whatever the faults do.
        .flag("--udp-idle", "10s")
        .env("PROXY_TEST_HOOKS", "1")
        .start()
}

fn start_clients(settings: &Settings, log: &Arc<Log>) -> Vec<JoinHandle<()>> {
    let tcp = (0..settings.clients).map(|_| {
        let log = Arc::clone(log);
        small_thread("client", move || tcp::client(&log))
    });
    let udp = (0..settings.flows).map(|number| {
        let log = Arc::clone(log);
        small_thread("flow", move || udp::client(&log, number))
    });
    tcp.chain(udp).collect()
}

fn small_thread(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().name(name.into()).stack_size(256 << 10);
    thread.spawn(run).expect("a thread")
}

/// One fault after the other, each when the proxy is whole again.
fn strike_on(settings: &Settings, log: &Log, proxy: &Proxy) {
    let mut rng = Rng::with_seed(settings.seed);
    let mut seat = STANDBY;
    let (began, mut told) = (Instant::now(), Instant::now());
    while began.elapsed() < settings.lasts && log.failures() < 50 {
        sleep(Duration::from_millis(rng.u64(300..650)));
        let fault = Fault::any(&mut rng, WORKERS, &mut seat);
        log.fault(format!("{fault:?}"));
        fault.strike(proxy);
        let struck = Instant::now();
        let Some(metrics) = wait_whole(proxy) else {
            log.fail(&format!("not whole again after {WHOLE:?}: {:?}", proxy.try_status()));
            return;
        };
        if struck.elapsed() > SLOW {
            println!("{:.1?} until the proxy was whole again after {fault:?}", struck.elapsed());
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            println!("{}", log.line(metrics.sum("proxy_takeovers_total", &[])));
        }
    }
}

/// Waits until both pools are ready and the supervisor has its twin. A pool that was just struck may
/// still be called ready.
fn wait_whole(proxy: &Proxy) -> Option<Metrics> {
    let end = Instant::now() + WHOLE;
    sleep(Duration::from_millis(30));
    while Instant::now() < end {
        let metrics = scrape(proxy);
        if let Some(metrics) = metrics
            && metrics.sum("proxy_pool_state", &[("state", "ready")]) == 2.0
            && metrics.sum("proxy_supervisor_up", &[]) == 1.0
            && metrics.sum("proxy_supervisor_twin_up", &[]) == 1.0
        {
            return Some(metrics);
        }
        sleep(Duration::from_millis(10));
    }
    None
}

fn scrape(proxy: &Proxy) -> Option<Metrics> {
    let answer = proxy.get("/metrics").ok().filter(|answer| answer.code == 200)?;
    Some(Metrics::parse(&answer.body))
}

/// Nothing is open any more, no descriptor is left, and nothing was lost.
fn wait_quiet(log: &Log, proxy: &Proxy, baseline: &Open) {
    let end = Instant::now() + QUIET;
    while let Some(wrong) = unrest(proxy, baseline) {
        if Instant::now() > end {
            log.fail(&format!("not quiet after {QUIET:?}: {wrong}"));
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let metrics = proxy.metrics();
    for name in ["proxy_lost_flows_total", "proxy_takeover_audit_mismatches_total"] {
        if metrics.sum(name, &[]) > 0.0 {
            log.fail(&metrics.show(name));
        }
    }
}

const GAUGES: [&str; 5] = [
    "proxy_listener_connections",
    "proxy_pool_connections",
    "proxy_udp_flows",
    "proxy_pool_udp_flows",
    "proxy_upstream_server_connections",
];

fn unrest(proxy: &Proxy, baseline: &Open) -> Option<String> {
    let Some(metrics) = scrape(proxy) else { return Some("no metrics".into()) };
    let is_open = |name: &&&str| metrics.sum(name, &[]) != 0.0;
    if let Some(name) = GAUGES.iter().find(is_open) {
        return Some(metrics.show(name));
    }
    let lent = metrics.sum("proxy_pipes", &[("state", "lent")]);
    if lent != 0.0 {
        return Some(format!("{lent} pipes are lent"));
    }
    let now = Open::of(proxy);
    // The first supervisor's reader of the kernel program's log keeps its number.
    let kept = usize::from(metrics.sum("proxy_supervisor_successions_total", &[]) > 0.0);
    let is_back = now.sockets == baseline.sockets && now.others == baseline.others + kept;
    let pipes = metrics.sum("proxy_pipes", &[]) as usize;
    if !is_back || now.pipes != pipes + baseline.private_pipes {
        return Some(format!("open {now:?}, at first {baseline:?}, pipes of the pools {pipes}"));
    }
    None
}

/// Open descriptors of the table that supervisor and pools share.
#[derive(Debug)]
struct Open {
    sockets: usize,
    pipes: usize,
    /// Pipes that are not the pools'.
    private_pipes: usize,
    /// Epoll sets, maps, files.
    others: usize,
}

impl Open {
    fn of(proxy: &Proxy) -> Self {
        let supervisor = proxy.status().supervisor.pid;
        let entries = fs::read_dir(format!("/proc/{supervisor}/fd")).expect("list descriptors");
        let link = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        let links: Vec<_> = entries.filter_map(|entry| link(entry.ok()?)).collect();
        let count = |prefix: &str| links.iter().filter(|l| l.to_string_lossy().starts_with(prefix)).count();
        let (sockets, pipes) = (count("socket:"), count("pipe:"));
        let lent = scrape(proxy).map_or(0.0, |metrics| metrics.sum("proxy_pipes", &[])) as usize;
        let private_pipes = pipes.saturating_sub(lent);
        Self { sockets, pipes, private_pipes, others: links.len() - sockets - pipes }
    }
}

fn report(log: &Log, proxy: &Proxy) -> Report {
    let metrics = proxy.metrics();
    let takeovers = metrics.sum("proxy_takeovers_total", &[]);
    println!("{}", metrics.show("proxy_adopted_flows_total"));
    println!("storm of seed {} is over. {}", log.seed, log.line(takeovers));
    Report {
        takeovers,
        adopted: metrics.sum("proxy_adopted_flows_total", &[]),
        connections: log.connections.load(Relaxed),
        bytes: log.bytes.load(Relaxed),
        answers: log.answers.load(Relaxed),
        foreign: metrics.sum("proxy_udp_foreign_datagrams_total", &[]),
        failures: log.failures(),
    }
}
