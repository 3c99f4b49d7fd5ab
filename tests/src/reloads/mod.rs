//! A long run of reloads at an even pace, with sessions of real programs, verified streams and UDP flows open all
//! the time: none of them is lost, and neither memory nor descriptors grow.
//!
//! [`sessions`] are the programs' sessions, [`growth`] compares what is used.

mod growth;
mod sessions;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::flows::Flows;
use crate::gap::numbers::Spread;
use crate::handover::{self, Handover};
use crate::net::at;
use crate::proxy::Proxy;
use crate::servers;
use crate::status::Status;
use crate::traffic::Traffic;
use crate::wait::until_true;
use growth::Use;
use sessions::Sessions;

/// Where the proxy listens, and the servers behind it: one port each.
const ECHO: [&str; 2] = ["127.0.0.1:8080", "127.0.0.1:9001"];
const WEBSOCKET: [&str; 2] = ["127.0.0.1:8081", "127.0.0.1:9002"];
const SSH: [&str; 2] = ["127.0.0.1:8022", "127.0.0.1:9022"];
const POSTGRES: [&str; 2] = ["127.0.0.1:5432", "127.0.0.1:9432"];
/// Of a stream between two rounds.
const PAUSE: Duration = Duration::from_millis(20);
/// After so many reloads a line is printed.
const TOLD: usize = 10;

/// What a run is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long.
    pub lasts: Duration,
    /// Reloads, spread evenly.
    pub count: usize,
    /// Verified streams.
    pub streams: usize,
    /// UDP flows.
    pub flows: usize,
}

/// Runs in this thread's network namespace; panics at the first thing that is not as it must be.
pub fn run(settings: &Settings) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let _servers = (servers::Tcp::echo(ECHO[1]), servers::Udp::naming(ECHO[1], "A"));
    let proxy = start(&directory);
    let sessions = Sessions::start(directory.path());
    let streams = Traffic::paced(at(ECHO[0]), settings.streams, PAUSE);
    let flows = Flows::start(at(ECHO[0]), settings.flows);
    let (mut done, mut uses): (Vec<Handover>, Vec<Use>) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for number in 1..=settings.count {
        let due = settings.lasts.mul_f64(number as f64 / settings.count as f64);
        thread::sleep(due.saturating_sub(began.elapsed()));
        done.push(handover::reload(&proxy));
        sessions.wait_steps(1);
        streams.wait_rounds(1);
        flows.wait_answers(1);
        uses.push(Use::of(&proxy));
        if number % TOLD == 0 || number == settings.count {
            let gap = Spread::of(done.iter().map(|done| done.gap).collect());
            println!("{number:4} reloads in {:.0?}: {}; gap {gap}", began.elapsed(), uses[number - 1]);
        }
    }
    println!("order obeyed {}", Spread::of(done.iter().map(|done| done.took).collect()));
    println!("old ones seen {}", Spread::of(done.iter().map(|done| done.gone).collect()));
    println!("sessions: {}", sessions.finish());
    streams.finish();
    println!("UDP flows: {} datagrams answered, none lost", flows.finish());
    assert_eq!(proxy.status().upgrade.done, settings.count as u64);
    wait_quiet(&proxy);
    growth::judge(&uses);
}

fn start(directory: &TempDir) -> Proxy {
    let path = directory.path().join("proxy.toml");
    write_settings(&path);
    let builder = Proxy::builder().flag("--config", path.to_str().expect("text"));
    // The defaults; tests have calmer ones.
    let proxy = builder.flag("--lease", "100ms").flag("--fence-after", "800ms").start();
    proxy.until_status("protected", Status::protected);
    proxy
}

fn write_settings(path: &Path) {
    let mut text = "[defaults]\nworkers = 2\nudp_idle = \"5s\"\n".to_owned();
    let tcp = ["tcp://"].as_slice();
    let all = [
        ("echo", ECHO, ["tcp://", "udp://"].as_slice()),
        ("websocket", WEBSOCKET, tcp),
        ("ssh", SSH, tcp),
        ("postgres", POSTGRES, tcp),
    ];
    for (name, [listen, server], protocols) in all {
        let bind: Vec<String> = protocols.iter().map(|protocol| format!("{protocol}{listen}")).collect();
        write!(
            text,
            "[[listener]]\nname = \"{name}\"\nbind = {bind:?}\nupstream = \"{name}\"\n\
             [[upstream.{name}.server]]\naddress = \"{server}\"\n"
        )
        .expect("write to memory");
    }
    fs::write(path, text).expect("write settings");
}

/// Nothing is open any more, and nobody is there but the last generation.
fn wait_quiet(proxy: &Proxy) {
    const OPEN: [&str; 3] =
        ["proxy_listener_connections", "proxy_udp_flows", "proxy_upstream_server_connections"];
    until_true("nothing is open", || {
        let metrics = proxy.metrics();
        OPEN.iter().all(|name| metrics.sum(name, &[]) == 0.0)
    });
    handover::one_generation(proxy);
}
