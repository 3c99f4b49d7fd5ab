//! Reloads of the proxy that `PROXY_BIN` names, again and again: see `proxy_tests::reloads`. As root;
//! `cargo xtask reloads` builds what it needs and starts it.

use std::time::Duration;

use clap::Parser;
use proxy_tests::net::isolate;
use proxy_tests::proxy::stop_all_on_panic;
use proxy_tests::reloads::{self, Settings};

/// Reloads at an even pace under live sessions; fails if anything is lost, or grows
#[derive(Parser)]
struct Arguments {
    /// How long, in minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Reloads
    #[arg(long, default_value_t = 136)]
    count: usize,
    /// Verified TCP streams
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// UDP flows
    #[arg(long, default_value_t = 16)]
    flows: usize,
}

fn main() {
    let Arguments { minutes, count, streams, flows } = Arguments::parse();
    stop_all_on_panic();
    isolate();
    reloads::run(&Settings { lasts: Duration::from_secs_f64(minutes * 60.0), count, streams, flows });
}
