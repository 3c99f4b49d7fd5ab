//! Every setting of the settings file, declared once: its key, how it is written, its default, and what it does.
//! `docs/settings.md` and `docs/settings.schema.json` are made from this (`cargo xtask docs`). The defaults that
//! the program goes by are in [`crate::config`]; a test compares them.

mod listener;
mod upstream;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    ConfigError, Given,
    read::{At, Field, Fields, Section, Value},
    table::{Kind, Setting, Table, table},
    values::{Congestion, Patience},
};
use crate::cli::LogFormat;

pub use listener::{AcceptProxy, ListenerSettings, SniSettings};
pub use upstream::{EjectSettings, HealthSettings, ServerGiven, UpstreamSettings};

/// What a timeout may be. A day less than 25: what `TCP_USER_TIMEOUT` takes (tcp(7)), milliseconds in 31 bits.
const TIMES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(24 * DAY));

/// What a time that something is kept for may be: up to a year, as humantime has it.
const LONG: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(31_557_600));

/// What `TCP_KEEPIDLE` takes (tcp(7)): up to 32,767 s.
const KEEPALIVE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(9 * 3600));

/// Seconds.
const DAY: u64 = 24 * 3600;

/// Highest number of anything.
const MOST: u64 = u32::MAX as u64;

table! {
    /// The settings file.
    "the file" Settings {
        /// What all listeners and upstreams go by unless they say otherwise, and what there is once only.
        defaults: Defaults;
        /// When the standby takes the primary's place.
        standby: Standby;
        /// Where metrics are served.
        metrics: Metrics;
        /// A line for each connection and UDP flow that has ended.
        access_log: Option<AccessLogSettings>;
        /// What to listen on.
        listeners as "listener": Vec<ListenerSettings>;
        /// Where traffic goes.
        upstreams as "upstream": Vec<UpstreamSettings>;
    }
}

table! {
    /// What all listeners and upstreams go by unless they say otherwise, and what there is once only. A flag of
    /// `proxy run` wins over what is here.
    "[defaults]" Defaults {
        /// Worker threads in each of the two pools.
        workers: Option<Given<u32>> [.without("one a CPU, at most 64").like("4").numbers(1, 64)];
        /// Limit on one attempt to connect to a server.
        connect_timeout: Option<Given<Duration>> [.default(r#""5s""#).times(TIMES)];
        /// Close a TCP connection on which nothing came or went for this long.
        idle_timeout: Option<Given<Patience>> [.default(r#""1h""#).times(TIMES)];
        /// Reset a TCP connection of which one side has ended, and on which nothing came or went for this long.
        half_close_timeout: Option<Given<Patience>> [.default(r#""5m""#).times(TIMES)];
        /// Forget a UDP flow on which nothing came or went for this long.
        udp_idle: Option<Given<Duration>> [.default(r#""60s""#).times(TIMES)];
        /// End a connection or UDP flow that is this old, whatever it does.
        max_lifetime: Option<Given<Patience>> [.default(r#""never""#).like(r#""24h""#).times(TIMES)];
        /// Idle time before TCP keepalive asks whether the peer is still there; in whole seconds.
        keepalive: Option<Given<Duration>> [.default(r#""60s""#).times(KEEPALIVE)];
        /// Reset a TCP connection whose peer has not acknowledged what was sent for this long
        /// (`TCP_USER_TIMEOUT`); `"never"`: the kernel's own patience, about 15 minutes (`net.ipv4.tcp_retries2`).
        user_timeout: Option<Given<Patience>> [.default(r#""never""#).like(r#""30s""#).times(TIMES)];
        /// Who chooses the congestion control of TCP sockets. `"system"`: the kernel
        /// (`net.ipv4.tcp_congestion_control`). `"auto"`: the kernel, too, but of listeners bound to a loopback
        /// address, and to servers at one, where there is no network, `reno` in place of `bbr`, which would pace at
        /// two to three times the CPU.
        congestion: Option<Given<Congestion>> [.default(r#""auto""#)];
        /// How long a connection may take to say, by its TLS ClientHello, which server it is for; looked at once a second.
        sni_timeout: Option<Given<Duration>> [.default(r#""5s""#).times(TIMES)];
        /// Limit on open TCP connections, of all listeners.
        max_connections: Option<Given<usize>> [.without(DESCRIPTORS).like("100000").numbers(1, MOST)];
        /// Limit on UDP flows, of all listeners.
        max_flows: Option<Given<usize>> [.without(HALF_OF_DESCRIPTORS).like("100000").numbers(1, MOST)];
        /// How long a stop lets connections go on before they are cut.
        drain_timeout: Option<Given<Duration>> [.default(r#""30s""#).times(LONG)];
        /// User that pools and control run as, when proxy is started as root. (The service is not.)
        user: Option<Given<String>> [.default(r#""nobody""#)];
        /// Where the control socket is. (The service says that by a flag, which wins.)
        control: Option<Given<PathBuf>> [.default(r#""/run/proxy/proxy.sock""#)];
        /// How to write logs.
        log_format: Option<Given<LogFormat>> [.without("text on a terminal, else json").like(r#""json""#)];
    }
}

const DESCRIPTORS: &str = "what the descriptor limit allows";
const HALF_OF_DESCRIPTORS: &str = "what half of the descriptor limit allows, at most 20000";

table! {
    /// When the standby takes the primary's place, and when it gives it back.
    "[standby]" Standby {
        /// How long a worker may be silent before the kernel passes it by. Shorter ones let a busy machine's
        /// healthy workers be passed by.
        lease: Option<Given<Duration>>
            [.default(r#""100ms""#).times((Duration::from_millis(5), Duration::from_secs(60)))];
        /// How long a worker may be silent, from the end of its lease on, before its pool is killed and replaced; at least
        /// twice the lease, and so is the default.
        fence_after: Option<Given<Duration>> [.default(r#""800ms""#).times(LONG)];
        /// How long a new primary must be ready before new traffic returns to it; `"never"`: only by
        /// `proxy failback`.
        failback_after: Option<Given<Patience>> [.default(r#""10s""#).times(LONG)];
    }
}

table! {
    /// Where metrics are served.
    "[metrics]" Metrics {
        /// Address to serve `/metrics`, `/healthz` and `/readyz` on.
        listen: Option<Given<SocketAddr>> [.without("none").like(r#""127.0.0.1:9100""#)];
    }
}

table! {
    /// A line for each connection and UDP flow that has ended: whose, where to, how much, how long, why. Without
    /// this table there is none.
    "[access_log]" AccessLogSettings {
        /// The file that is written to; `"-"` is standard output. SIGUSR1 has it opened anew, by the supervisor: it
        /// belongs on a local disk, for a network file system that hangs would hold that up.
        path: Given<PathBuf> [.like(r#""/var/log/proxy/access.log""#)];
        /// Text, or an object a line.
        format: Option<Given<LogFormat>> [.default(r#""text""#)];
    }
}
