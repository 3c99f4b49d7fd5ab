//! The command line: what may be said. What it means is checked in [`crate::config`].

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::settings::values::{Patience, duration, duration_or_never, ip_port};

/// Where the control socket is unless `--control` says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/proxy/proxy.sock";

/// An L4 hot-standby proxy for TCP and UDP.
#[derive(Debug, Parser)]
#[command(name = "proxy", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the proxy in the foreground
    Run(RunArgs),
    /// Check settings and machine (rights, kernel, limits); exit 0 if `run` would work, else 1
    Check(RunArgs),
    /// Show pools, leases, flows and listeners; exit 0 both pools ready, 3 degraded, 1 not serving
    Status(StatusArgs),
    /// Show or close what is open
    #[command(subcommand)]
    Sessions(SessionsVerb),
    /// Send new traffic to the standby
    Failover(ControlArgs),
    /// Send new traffic to the primary again
    Failback(ControlArgs),
    /// Refuse new connections, wait until the old ones have ended; the process stays
    Drain(ControlArgs),
    /// Drain, then end the proxy
    Stop(StopArgs),
    /// Take the settings anew, without closing a connection; what is wrong is refused whole
    Reload(ControlArgs),
    /// Hand everything over to another binary, without closing a connection
    Upgrade(UpgradeArgs),
    /// Look at upstream servers, and change them while the proxy runs
    Upstream(UpstreamArgs),
    /// Print what a shell completes the command line by
    Completions(CompletionsArgs),
}

/// The settings of `run` and `check`. What is not given has the default that is named here, and in
/// [`crate::config`] is.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Settings file; other flags given beside it win over what it says
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["listen", "upstream"])]
    pub config: Option<PathBuf>,
    /// Address to listen on: tcp://IP:PORT or udp://IP:PORT; [::] takes IPv4 too. Repeatable
    #[arg(short, long, value_name = "URL", required_unless_present = "config")]
    pub listen: Vec<String>,
    /// Server to pass traffic on to: HOST:PORT, by the listener's own protocol. Repeatable
    #[arg(short, long, value_name = "HOST:PORT", required_unless_present = "config")]
    pub upstream: Vec<String>,
    /// Worker threads in each pool, 1 to 64 [default: one a CPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// How long a worker may be silent before the kernel passes it by [default: 100ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub lease: Option<Duration>,
    /// How long a worker may be silent, from the end of its lease on, before its pool is killed and replaced [default: 800ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub fence_after: Option<Duration>,
    /// How long a new primary must be ready before new traffic returns to it [default: 10s]
    #[arg(long, value_name = "DURATION|never", value_parser = duration_or_never)]
    pub failback_after: Option<Patience>,
    /// Address to serve /metrics, /healthz and /readyz on [default: none]
    #[arg(long, value_name = "IP:PORT", value_parser = ip_port)]
    pub metrics: Option<SocketAddr>,
    /// Where the control socket is made [default: /run/proxy/proxy.sock]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// User that pools and control run as, when started as root [default: nobody]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Limit on one attempt to connect to a server [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub connect_timeout: Option<Duration>,
    /// Close a connection on which nothing came or went for this long [default: 1h]
    #[arg(long, value_name = "DURATION|never", value_parser = duration_or_never)]
    pub idle_timeout: Option<Patience>,
    /// Forget a UDP flow on which nothing came or went for this long [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub udp_idle: Option<Duration>,
    /// Idle time before TCP keepalive asks whether the peer is still there [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub keepalive: Option<Duration>,
    /// Limit on open TCP connections [default: what the descriptor limit allows]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Limit on UDP flows [default: what half of the descriptor limit allows, at most 20000]
    #[arg(long, value_name = "N")]
    pub max_flows: Option<usize>,
    /// How long `stop` and SIGTERM let connections go on before they are cut [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,
    /// File to write a line to for each connection that has ended; - is standard output [default: none]
    #[arg(long, value_name = "PATH")]
    pub access_log: Option<PathBuf>,
    /// How to write logs [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Log formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Where to reach a running proxy.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// The running proxy's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub control: PathBuf,
}

/// The flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    /// Where to ask.
    pub control: ControlArgs,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again at this interval until interrupted
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub watch: Option<Duration>,
}

/// The verbs of `sessions`.
#[derive(Debug, Subcommand)]
pub enum SessionsVerb {
    /// Show open connections and UDP flows: whose, where to, how old, how much
    List(ListArgs),
    /// Close open connections (both sides are reset) and UDP flows, all that match
    Close(CloseArgs),
}

/// Which sessions are meant: those for which all that is given holds.
#[derive(Args, Clone, Debug)]
pub struct FilterArgs {
    /// Clients of this network, or this one
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub source: Option<IpNet>,
    /// The server, by the name that `proxy status` shows, or its address; UPSTREAM/NAME if several upstreams have it
    #[arg(long, value_name = "SERVER")]
    pub server: Option<String>,
    /// The listener, by name, or one of its addresses (tcp://IP:PORT)
    #[arg(long, value_name = "LISTENER")]
    pub listener: Option<String>,
}

/// Which sessions, and of which proxy.
#[derive(Args, Clone, Debug)]
pub struct WhichArgs {
    #[command(flatten)]
    /// Which ones.
    pub filter: FilterArgs,
    #[command(flatten)]
    /// Where to ask.
    pub control: ControlArgs,
}

/// The flags of `sessions list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    /// Which ones.
    pub which: WhichArgs,
    /// Answer in JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// The flags of `sessions close`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("which").args(["source", "server", "listener"]).required(true).multiple(true))]
pub struct CloseArgs {
    #[command(flatten)]
    /// Which ones.
    pub which: WhichArgs,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| alone());
    net.map_err(|_| "it looks like 10.0.0.0/8, 2001:db8::/32, or one address".into())
}

/// The flags of `stop`.
#[derive(Args, Clone, Debug)]
pub struct StopArgs {
    #[command(flatten)]
    /// Where to ask.
    pub control: ControlArgs,
    /// End at once, cutting what is open
    #[arg(long)]
    pub now: bool,
}

/// The flags of `upgrade`.
#[derive(Args, Clone, Debug)]
pub struct UpgradeArgs {
    #[command(flatten)]
    /// Where to ask.
    pub control: ControlArgs,
    /// The new binary [default: what is now at the path that the running one was started by]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
}

/// `upstream`, and what follows it. Where there is one upstream only, its name may be left out.
#[derive(Args, Clone, Debug)]
pub struct UpstreamArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: UpstreamVerb,
    /// The running proxy's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL, global = true)]
    pub control: PathBuf,
}

/// The verbs of `upstream`. A server is named as in the list; what is ordered holds until it is undone, through
/// takeovers, reloads and upgrades.
#[derive(Clone, Debug, Subcommand)]
pub enum UpstreamVerb {
    /// Show upstreams and their servers
    List {
        /// The upstream [default: all]
        upstream: Option<String>,
        /// Answer in JSON
        #[arg(long)]
        json: bool,
    },
    /// Send nothing new to a server; what is open goes on
    #[command(override_usage = "proxy upstream drain [OPTIONS] [UPSTREAM] SERVER")]
    Drain {
        /// The upstream, and the server
        #[arg(required = true, num_args = 1..=2, value_name = "[UPSTREAM] SERVER")]
        words: Vec<String>,
    },
    /// Give a drained server its share again
    #[command(override_usage = "proxy upstream ready [OPTIONS] [UPSTREAM] SERVER")]
    Ready {
        /// The upstream, and the server
        #[arg(required = true, num_args = 1..=2, value_name = "[UPSTREAM] SERVER")]
        words: Vec<String>,
    },
    /// Change a server's share: 0 to 1000, or default for what the settings say
    #[command(override_usage = "proxy upstream weight [OPTIONS] [UPSTREAM] SERVER N|default")]
    Weight {
        /// The upstream, the server, and the weight
        #[arg(required = true, num_args = 2..=3, value_name = "[UPSTREAM] SERVER N|default")]
        words: Vec<String>,
    },
    /// Add a server, until it is removed
    #[command(override_usage = "proxy upstream add [OPTIONS] [UPSTREAM] ADDRESS")]
    Add {
        /// The upstream, and where the server is: IP:PORT
        #[arg(required = true, num_args = 1..=2, value_name = "[UPSTREAM] ADDRESS")]
        words: Vec<String>,
        /// Its share [default: 1]
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
        /// Send traffic there only while no other server can take it
        #[arg(long)]
        backup: bool,
    },
    /// Remove a server that was added; what is open goes on
    #[command(override_usage = "proxy upstream remove [OPTIONS] [UPSTREAM] SERVER")]
    Remove {
        /// The upstream, and the server
        #[arg(required = true, num_args = 1..=2, value_name = "[UPSTREAM] SERVER")]
        words: Vec<String>,
    },
}

/// The argument of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell that will read it
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
