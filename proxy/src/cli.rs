//! The command line: what may be said. What it means is checked in [`crate::config`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

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
    /// Print what a shell completes the command line by
    Completions(CompletionsArgs),
}

/// The settings of `run` and `check`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Address to listen on: tcp://IP:PORT or udp://IP:PORT; [::] takes IPv4 too. Repeatable
    #[arg(short, long = "listen", value_name = "URL", required = true)]
    pub listen: Vec<String>,
    /// Server to pass traffic on to: HOST:PORT, by the listener's own protocol. Repeatable
    #[arg(short, long = "upstream", value_name = "HOST:PORT", required = true)]
    pub upstream: Vec<String>,
    /// Worker threads in each pool, 1 to 64 [default: one a CPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// How long a worker may be silent before the kernel passes it by
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub lease: Duration,
    /// How long a worker may be silent before its pool is killed and replaced
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub fence_after: Duration,
    /// How long a new primary must be ready before new traffic returns to it
    #[arg(long, value_name = "DURATION|never", default_value = "10s", value_parser = duration_or_never)]
    pub failback_after: Patience,
    /// Address to serve /metrics, /healthz and /readyz on [default: none]
    #[arg(long, value_name = "IP:PORT", value_parser = ip_port)]
    pub metrics: Option<SocketAddr>,
    /// Where the control socket is made
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub control: PathBuf,
    /// User that pools and control run as, when started as root
    #[arg(long, value_name = "NAME", default_value = "nobody")]
    pub user: String,
    /// Limit on one attempt to connect to a server
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// Close a connection on which nothing came or went for this long
    #[arg(long, value_name = "DURATION|never", default_value = "1h", value_parser = duration_or_never)]
    pub idle_timeout: Patience,
    /// Forget a UDP flow on which nothing came or went for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub udp_idle: Duration,
    /// Idle time before TCP keepalive asks whether the peer is still there
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub keepalive: Duration,
    /// Limit on open TCP connections [default: what the descriptor limit allows]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// Limit on UDP flows [default: what the descriptor limit allows]
    #[arg(long, value_name = "N")]
    pub max_flows: Option<usize>,
    /// How long `stop` and SIGTERM let connections go on before they are cut
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
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

/// The argument of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// The shell that will read it
    pub shell: Shell,
}

/// A duration, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".into()),
        Ok(duration) => Ok(duration),
        Err(_) if text.parse::<f64>().is_ok() => Err(format!("needs a unit, such as {text}ms or {text}s")),
        Err(error) => Err(format!("{error}; a duration looks like 100ms, 5s or 1m30s")),
    }
}

fn duration_or_never(text: &str) -> Result<Patience, String> {
    match text {
        "never" => Ok(Patience(None)),
        _ => match duration(text) {
            Ok(duration) => Ok(Patience(Some(duration))),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

fn ip_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no IP:PORT; it looks like 127.0.0.1:9100".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration_or_never("never"), Ok(Patience(None)));
        assert!(duration("100").unwrap_err().contains("needs a unit, such as 100ms"));
        assert!(duration("0s").unwrap_err().contains("more than 0"));
        assert!(duration("soon").unwrap_err().contains("looks like"));
        assert!(duration_or_never("nevr").unwrap_err().ends_with("1m30s, or never"));
    }

    #[test]
    fn an_address_has_ip_and_port() {
        assert_eq!(ip_port("[::1]:9100"), Ok("[::1]:9100".parse().unwrap()));
        assert!(ip_port("9100").unwrap_err().contains("looks like 127.0.0.1:9100"));
    }
}
