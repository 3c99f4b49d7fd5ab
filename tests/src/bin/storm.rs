//! A storm of faults on the proxy that `PROXY_BIN` names: see `proxy_tests::storm`. As root;
//! `cargo xtask storm` builds what it needs and starts it.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use proxy_tests::net::isolate;
use proxy_tests::proxy::stop_all_on_panic;
use proxy_tests::storm::{self, Settings};

/// Verified traffic through a proxy whose processes are killed, stopped and blocked
#[derive(Parser)]
struct Arguments {
    /// Everything that happens is made from this number
    #[arg(long)]
    seed: u64,
    /// How long, in minutes
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// TCP clients, each with one connection at a time
    #[arg(long, default_value_t = 150)]
    clients: usize,
    /// UDP flows
    #[arg(long, default_value_t = 20)]
    flows: u32,
}

fn main() -> ExitCode {
    let Arguments { seed, minutes, clients, flows } = Arguments::parse();
    stop_all_on_panic();
    isolate();
    let lasts = Duration::from_secs_f64(minutes * 60.0);
    let report = storm::run(&Settings { seed, lasts, clients, flows });
    println!("{report:?}");
    if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
