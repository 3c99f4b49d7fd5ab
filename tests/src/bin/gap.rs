//! Measures the gap of takeovers of the proxy that `PROXY_BIN` names: see `proxy_tests::gap`. As root;
//! `cargo xtask gap` builds what it needs and starts it.

use std::net::SocketAddr;

use clap::Parser;
use proxy_tests::gap::{self, Settings, echo};
use proxy_tests::proxy::stop_all_on_panic;

/// Takeovers with many idle connections: how long active ones wait, and what it all takes in memory
#[derive(Parser)]
struct Arguments {
    /// Open connections; a tenth of them is measured as well
    #[arg(long, default_value_t = 9000)]
    connections: usize,
    /// Connections on which a byte goes to and fro all the time
    #[arg(long, default_value_t = 100)]
    active: usize,
    /// Pools that are killed
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Only be the server behind the proxy, at this address
    #[arg(long, hide = true)]
    serve: Option<SocketAddr>,
}

fn main() -> std::io::Result<()> {
    let Arguments { connections, active, kills, serve } = Arguments::parse();
    gap::raise_limit();
    if let Some(address) = serve {
        return echo::serve(address);
    }
    stop_all_on_panic();
    for connections in [connections, (connections / 10).max(active)] {
        gap::run(&Settings { connections, active, kills });
    }
    Ok(())
}
