//! Settings, checked: what the rest of the program may rely on.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use proxy_common::{abi::DEFAULT_MAX_LISTENERS, lease::MAX_WORKERS};

use crate::{
    cli::{LogFormat, RunArgs},
    sys::{
        credentials::{self, User},
        process,
        socket::Protocol,
    },
};

/// Shortest and longest lease. Shorter, and a busy machine's scheduler lets healthy leases lapse.
pub const LEASE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));
/// Most upstream servers.
pub const MAX_SERVERS: usize = 1024;

/// A listener's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(formatter, "{scheme}://{}", self.address)
    }
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its address.
    pub address: ListenAddress,
    /// Takes no IPv4 traffic, though it is a wildcard: another listener has it.
    pub v6_only: bool,
    /// The settings have it no more: nothing new comes in by it, and what is open goes on.
    pub is_retired: bool,
}

/// An upstream server.
#[derive(Clone, Debug)]
pub struct Server {
    /// As it was given, with the address if that was a name.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// The settings have it no more: nothing new goes to it, and what is open goes on.
    pub is_retired: bool,
}

/// All settings of a running proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<Listener>,
    /// At least one.
    pub servers: Vec<Server>,
    /// Workers per pool, 1 to [`MAX_WORKERS`].
    pub workers: u32,
    /// A worker's term.
    pub lease: Duration,
    /// Silence after which a pool is fenced; at least the lease.
    pub fence_after: Duration,
    /// Readiness after which new traffic returns to the primary; `None`: only when asked.
    pub failback_after: Option<Duration>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The control socket.
    pub control: PathBuf,
    /// Who pools and control run as; `None`: stay who we are (not root).
    pub user: Option<User>,
    /// Limit on one attempt to connect.
    pub connect_timeout: Duration,
    /// Limit on silence of a connection.
    pub idle_timeout: Option<Duration>,
    /// Limit on silence of a UDP flow.
    pub udp_idle: Duration,
    /// Idle time before TCP keepalive probes.
    pub keepalive: Duration,
    /// Limit on open connections; `None`: as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// Limit on UDP flows; `None`: as many as descriptors allow.
    pub max_flows: Option<usize>,
    /// Limit on draining.
    pub drain_timeout: Duration,
    /// How to log; `None`: by what stderr is.
    pub log_format: Option<LogFormat>,
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The flag and its value.
    pub setting: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

fn bad(setting: String, problem: impl fmt::Display, remedy: impl fmt::Display) -> ConfigError {
    ConfigError { setting, problem: problem.to_string(), remedy: remedy.to_string() }
}

impl Config {
    /// Checks the settings of `run` and `check`. Names of upstream servers are looked up.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn from_args(args: &RunArgs) -> Result<Self, ConfigError> {
        let listeners = listeners(&args.listen)?;
        Ok(Self {
            servers: not_ourselves(servers(&args.upstream)?, &listeners)?,
            listeners,
            workers: workers(args.workers)?,
            lease: lease(args.lease)?,
            fence_after: fence_after(args.fence_after, args.lease)?,
            failback_after: args.failback_after.0,
            metrics: args.metrics,
            control: args.control.clone(),
            user: user(&args.user)?,
            connect_timeout: args.connect_timeout,
            idle_timeout: args.idle_timeout.0,
            udp_idle: args.udp_idle,
            keepalive: args.keepalive,
            max_connections: at_least_one("--max-connections", args.max_connections)?,
            max_flows: at_least_one("--max-flows", args.max_flows)?,
            drain_timeout: args.drain_timeout,
            log_format: args.log_format,
        })
    }
}

fn listeners(urls: &[String]) -> Result<Vec<Listener>, ConfigError> {
    let mut addresses: Vec<ListenAddress> = Vec::new();
    for url in urls {
        let address = listen_address(url)?;
        if addresses.contains(&address) {
            return Err(bad(format!("--listen {url}"), "given twice", "leave one of them out"));
        }
        if let Some(other) = addresses.iter().find(|other| overlap(other, &address)) {
            let problem = format!("the wildcard among this and {other} takes what both want");
            return Err(bad(format!("--listen {url}"), problem, "leave one of them out"));
        }
        addresses.push(address);
    }
    if addresses.len() > DEFAULT_MAX_LISTENERS as usize {
        let problem = format!("{} listeners", addresses.len());
        return Err(bad("--listen".into(), problem, format!("at most {DEFAULT_MAX_LISTENERS} are possible")));
    }
    let has_v4_twin = |of: &ListenAddress| {
        addresses.iter().any(|other| {
            other.address.is_ipv4()
                && other.protocol == of.protocol
                && other.address.port() == of.address.port()
        })
    };
    Ok(addresses
        .iter()
        .map(|&address| Listener { address, v6_only: has_v4_twin(&address), is_retired: false })
        .collect())
}

/// Whether one is a wildcard that takes the other's traffic. (A `[::]` leaves IPv4 to others.)
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (a, b) = (one.address, other.address);
    let is_wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    one.protocol == other.protocol && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && is_wildcard
}

impl ListenAddress {
    /// Reads `tcp://IP:PORT` or `udp://IP:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        listen_address(url)
    }
}

fn listen_address(url: &str) -> Result<ListenAddress, ConfigError> {
    let wrong = |problem: String| {
        let remedy = "it looks like tcp://0.0.0.0:5432 or udp://[::]:53";
        bad(format!("--listen {url}"), problem, remedy)
    };
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| wrong("no tcp:// or udp:// before it".into()))?;
    let protocol = match scheme {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(wrong(format!("{other:?} is neither tcp nor udp"))),
    };
    let address: SocketAddr = rest.parse().map_err(|_| wrong(format!("{rest:?} is no IP:PORT")))?;
    if address.port() == 0 {
        return Err(wrong("port 0 cannot be listened on".into()));
    }
    if matches!(address.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(wrong("it is an IPv4 address in IPv6 form, write it as IPv4".into()));
    }
    Ok(ListenAddress { protocol, address })
}

fn servers(names: &[String]) -> Result<Vec<Server>, ConfigError> {
    let mut servers: Vec<Server> = Vec::new();
    for name in names {
        for address in resolve(name)? {
            if servers.iter().any(|server| server.address == address) {
                return Err(bad(
                    format!("--upstream {name}"),
                    format!("{address} is given twice"),
                    "leave one out",
                ));
            }
            let is_address = name.parse::<SocketAddr>().is_ok();
            let name = if is_address { name.clone() } else { format!("{name}/{address}") };
            servers.push(Server { name, address, is_retired: false });
        }
    }
    if servers.len() > MAX_SERVERS {
        let remedy = format!("at most {MAX_SERVERS} are possible");
        return Err(bad("--upstream".into(), format!("{} servers", servers.len()), remedy));
    }
    Ok(servers)
}

/// A server that is one of our own listeners: each connection would open another one, to the limit.
fn not_ourselves(servers: Vec<Server>, listeners: &[Listener]) -> Result<Vec<Server>, ConfigError> {
    let is_us = |server: SocketAddr| {
        let reaches = |at: SocketAddr| {
            let is_local = at.ip() == server.ip() || (at.ip().is_unspecified() && server.ip().is_loopback());
            at.port() == server.port() && is_local
        };
        listeners.iter().find(|listener| reaches(listener.address.address))
    };
    for server in &servers {
        if let Some(listener) = is_us(server.address) {
            let problem =
                format!("is our own listener {}: traffic would go round for ever", listener.address);
            return Err(bad(
                format!("--upstream {}", server.name),
                problem,
                "give the address of the service",
            ));
        }
    }
    Ok(servers)
}

fn resolve(name: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let wrong = |problem: String, remedy: &str| bad(format!("--upstream {name}"), problem, remedy);
    if name.contains("://") {
        let remedy = "write HOST:PORT only: a server is reached by the protocol of the listener";
        return Err(wrong("has a scheme".into(), remedy));
    }
    let looks = "it looks like 10.0.0.1:5432 or db.example:5432";
    if !name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(wrong("has no port from 1 to 65535".into(), looks));
    }
    let mut addresses: Vec<SocketAddr> = name
        .to_socket_addrs()
        .map_err(|error| wrong(format!("cannot be looked up ({error})"), looks))?
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn workers(given: Option<u32>) -> Result<u32, ConfigError> {
    match given {
        None => Ok(process::cpus().min(MAX_WORKERS) as u32),
        Some(count) if (1..=MAX_WORKERS as u32).contains(&count) => Ok(count),
        Some(count) => {
            let remedy = format!("1 to {MAX_WORKERS} are possible");
            Err(bad(format!("--workers {count}"), "out of range", remedy))
        }
    }
}

fn lease(lease: Duration) -> Result<Duration, ConfigError> {
    if (LEASE.0..=LEASE.1).contains(&lease) {
        return Ok(lease);
    }
    let range = format!(
        "{} to {} are possible",
        humantime::format_duration(LEASE.0),
        humantime::format_duration(LEASE.1)
    );
    Err(bad(format!("--lease {}", humantime::format_duration(lease)), "out of range", range))
}

fn fence_after(fence_after: Duration, lease: Duration) -> Result<Duration, ConfigError> {
    if fence_after >= 2 * lease {
        return Ok(fence_after);
    }
    let setting = format!("--fence-after {}", humantime::format_duration(fence_after));
    let remedy = format!("give at least twice the lease, {}", humantime::format_duration(2 * lease));
    Err(bad(setting, "a healthy pool would be killed for one late heartbeat", remedy))
}

fn user(name: &str) -> Result<Option<User>, ConfigError> {
    if !credentials::is_root() {
        return Ok(None);
    }
    match credentials::find_user(name) {
        Some(user) => Ok(Some(user)),
        None => {
            Err(bad(format!("--user {name}"), "there is no such user", "name one that `getent passwd` lists"))
        }
    }
}

fn at_least_one(flag: &str, limit: Option<usize>) -> Result<Option<usize>, ConfigError> {
    match limit {
        Some(0) => Err(bad(format!("{flag} 0"), "nothing could pass", "give 1 or more")),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_error(url: &str) -> String {
        listeners(&[url.into()]).unwrap_err().to_string()
    }

    #[test]
    fn listeners_are_checked() {
        assert!(listen_error("127.0.0.1:80").contains("no tcp:// or udp://"));
        assert!(listen_error("sctp://127.0.0.1:80").contains("neither tcp nor udp"));
        assert!(listen_error("tcp://localhost").contains("is no IP:PORT"));
        assert!(listen_error("tcp://127.0.0.1:0").contains("port 0"));
        let twice = ["tcp://[::1]:1".to_owned(), "tcp://[::1]:1".to_owned()];
        assert!(listeners(&twice).unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn a_wildcard_and_one_of_its_addresses_exclude_each_other() {
        for urls in [["tcp://127.0.0.1:1", "tcp://0.0.0.0:1"], ["udp://[::]:1", "udp://[::1]:1"]] {
            let error = listeners(&urls.map(str::to_owned)).unwrap_err().to_string();
            assert!(error.contains(urls[0]) && error.contains("leave one"), "{error}");
        }
        let fine = ["tcp://0.0.0.0:1", "udp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://[::1]:1"];
        assert_eq!(listeners(&fine.map(str::to_owned)).unwrap().len(), 4);
    }

    #[test]
    fn a_proxy_is_not_its_own_upstream() {
        let all = listeners(&["tcp://0.0.0.0:1", "udp://[::1]:2"].map(str::to_owned)).unwrap();
        for (server, is_us) in
            [("127.0.0.1:1", true), ("[::1]:2", true), ("127.0.0.1:2", false), ("10.0.0.1:1", false)]
        {
            let servers = servers(&[server.to_owned()]).unwrap();
            assert_eq!(not_ourselves(servers, &all).is_err(), is_us, "{server}");
        }
    }

    #[test]
    fn a_v6_wildcard_leaves_ipv4_to_a_listener_that_has_it() {
        let urls = ["tcp://[::]:1", "tcp://0.0.0.0:1", "udp://[::]:1"].map(str::to_owned);
        let v6_only: Vec<bool> = listeners(&urls).unwrap().iter().map(|listener| listener.v6_only).collect();
        assert_eq!((v6_only[0], v6_only[2]), (true, false));
    }

    #[test]
    fn servers_are_checked() {
        assert!(resolve("tcp://10.0.0.1:1").unwrap_err().to_string().contains("has a scheme"));
        assert!(resolve("10.0.0.1").unwrap_err().to_string().contains("has no port"));
        assert!(resolve("10.0.0.1:0").unwrap_err().to_string().contains("has no port"));
        assert_eq!(resolve("[::1]:5").unwrap(), ["[::1]:5".parse().unwrap()]);
    }

    #[test]
    fn a_fence_is_slower_than_a_lease() {
        assert!(fence_after(Duration::from_millis(150), Duration::from_millis(100)).is_err());
        assert!(lease(Duration::from_millis(1)).unwrap_err().to_string().contains("5ms to 1m"));
    }
}
