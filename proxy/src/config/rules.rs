//! What the settings say of the traffic of one listener, and of one upstream. What is not said is as in the
//! `Default`s here.

pub(super) mod health;
pub(super) mod listener;
pub(super) mod upstream;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access::Access;
use crate::sys::socket::FlowOptions;

pub use crate::settings::values::{Balance, Congestion, OnDown, ProxyVersion};

/// How a listener's traffic is treated. All addresses of one `[[listener]]` share it. It is handed over by the names
/// of its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerRules {
    /// Clients that are let in, and that are turned away.
    pub access: Access,
    /// Clients begin with a PROXY header, if they are among those.
    pub accept_proxy: Option<AcceptProxy>,
    /// Limit on open connections and UDP flows, of all its addresses together.
    pub max_connections: Option<u32>,
    /// The same limit for one client: an IPv4 address, or an IPv6 /64.
    pub max_connections_per_source: Option<u32>,
    /// Limit on new connections and UDP flows, of all its addresses together.
    pub max_connection_rate: Option<Rate>,
    /// TCP: limit on each direction of each connection, bytes a second.
    pub bandwidth: Option<u64>,
    /// Longest life of a connection, or UDP flow.
    pub max_lifetime: Option<Duration>,
    /// TCP: limit on silence of a connection.
    pub idle_timeout: Option<Duration>,
    /// TCP: limit on silence of a connection that one side has ended.
    pub half_close_timeout: Option<Duration>,
    /// Limit on silence of a UDP flow.
    pub udp_idle: Duration,
    /// Datagrams from the server that each datagram of a UDP client asks for; with the last of them the flow ends.
    pub udp_responses: Option<u32>,
    /// Idle time before TCP keepalive probes.
    pub keepalive: Duration,
    /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)).
    pub user_timeout: Option<Duration>,
    /// Who chooses how its sockets send.
    pub congestion: Congestion,
    /// Whether its connections and flows are in the access log, if there is one.
    pub access_log: bool,
    /// TCP: upstreams by the server name of a TLS ClientHello.
    pub sni: Option<SniRoutes>,
}

impl Default for ListenerRules {
    fn default() -> Self {
        Self {
            access: Access::default(),
            accept_proxy: None,
            max_connections: None,
            max_connections_per_source: None,
            max_connection_rate: None,
            bandwidth: None,
            max_lifetime: None,
            idle_timeout: Some(Duration::from_secs(3600)),
            half_close_timeout: Some(Duration::from_secs(300)),
            udp_idle: Duration::from_secs(60),
            udp_responses: None,
            keepalive: Duration::from_secs(60),
            user_timeout: None,
            congestion: Congestion::Auto,
            access_log: true,
            sni: None,
        }
    }
}

impl ListenerRules {
    /// What sockets to clients have that come in at this address.
    pub fn flow_options(&self, address: SocketAddr) -> FlowOptions {
        let Self { keepalive, user_timeout, bandwidth, .. } = *self;
        let is_unpaced = self.congestion.is_unpaced(address);
        FlowOptions { keepalive, user_timeout, pacing: bandwidth, is_unpaced }
    }
}

/// Who may say whom a connection is from, by a PROXY header of version 1 or 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AcceptProxy {
    /// Peers that have to begin with a header; what others send is not looked at.
    pub from: Vec<IpNet>,
    /// Limit on the header's coming.
    pub timeout: Duration,
}

impl AcceptProxy {
    /// [`Self::timeout`], unless it is said.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Whether a peer has to begin with a header. One without an address (`0.0.0.0`) comes by a unix socket, and
    /// who may do that is said by the file's mode.
    pub fn trusts(&self, peer: SocketAddr) -> bool {
        peer.ip().is_unspecified() || self.from.iter().any(|network| network.contains(&peer.ip()))
    }
}

/// So many a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// A second, more than 0.
    pub per_second: f64,
    /// At once, at least 1.
    pub burst: u32,
}

/// Upstreams by server name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SniRoutes {
    /// Names, in lower case and sorted, and the number of the upstream; `*.example.com` is all names below.
    pub routes: Vec<(String, u32)>,
    /// Limit on the ClientHello's coming; then, and without a name that is known, the listener's upstream.
    pub timeout: Duration,
}

/// How an upstream's servers are treated. It is handed over as [`ListenerRules`] are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamRules {
    /// Which server a new connection goes to.
    pub balance: Balance,
    /// Further servers that are tried for one connection.
    pub retries: u32,
    /// Limit on one attempt to connect.
    pub connect_timeout: Duration,
    /// Tells the server by a PROXY header whom the connection is from; UDP: version 2, before each datagram.
    pub send_proxy: Option<ProxyVersion>,
    /// Connects from the client's own address (`IP_TRANSPARENT`, ip(7)).
    pub transparent: bool,
    /// Active checks. (Not handed over: servers that the settings have no more are not checked.)
    #[serde(skip)]
    pub health: Option<Health>,
    /// When a server that fails connections is passed over.
    pub eject: Ejection,
    /// What becomes of open connections to a server that is down by its checks.
    pub on_down: OnDown,
    /// A server that comes up gets its share over this time, beginning with a tenth.
    pub slow_start: Option<Duration>,
    /// How long a connection waits while all servers have their most connections; `None`: it is refused.
    pub queue_timeout: Option<Duration>,
    /// Idle time before TCP keepalive probes to servers.
    pub keepalive: Duration,
    /// As [`ListenerRules::user_timeout`], towards servers.
    pub user_timeout: Option<Duration>,
    /// As [`ListenerRules::congestion`], towards servers.
    pub congestion: Congestion,
    /// How often names are looked up, at the least and at the most, whatever their TTL.
    pub resolve: (Duration, Duration),
}

impl SniRoutes {
    /// The upstream of a server name in lower case: the name's own, else that of the longest suffix.
    pub fn upstream(&self, name: &str) -> Option<u32> {
        let of = |pattern: &str| {
            let found = self.routes.binary_search_by(|(route, _)| route.as_str().cmp(pattern)).ok()?;
            Some(self.routes[found].1)
        };
        let suffixes = name.match_indices('.').filter(|(dot, _)| *dot > 0).map(|(dot, _)| &name[dot..]);
        of(name).or_else(|| suffixes.map(|suffix| format!("*{suffix}")).find_map(|pattern| of(&pattern)))
    }
}

impl Default for UpstreamRules {
    fn default() -> Self {
        Self {
            balance: Balance::RandomTwo,
            retries: 2,
            connect_timeout: Duration::from_secs(5),
            send_proxy: None,
            transparent: false,
            health: None,
            eject: Ejection::default(),
            on_down: OnDown::Keep,
            slow_start: None,
            queue_timeout: None,
            keepalive: Duration::from_secs(60),
            user_timeout: None,
            congestion: Congestion::Auto,
            resolve: (Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// When a server that fails connections is passed over, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ejection {
    /// After so many failures in a row; 0: never.
    pub failures: u32,
    /// For so long at first, and twice as long each time.
    pub time: Duration,
    /// At most so long.
    pub max_time: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 1, time: Duration::from_secs(1), max_time: Duration::from_secs(60) }
    }
}

/// How servers are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is done.
    pub check: Check,
    /// Time from one check of a server to the next.
    pub interval: Duration,
    /// Limit on one check.
    pub timeout: Duration,
    /// Checks in a row that have to go well before a server that is down is up.
    pub rise: u32,
    /// Checks in a row that have to fail before a server that is up is down.
    pub fall: u32,
    /// The port that is checked instead of the server's own.
    pub port: Option<u16>,
}

impl Default for Health {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Self {
            check: Check::Tcp { send: Vec::new(), expect: Vec::new() },
            interval,
            timeout,
            rise: 2,
            fall: 3,
            port: None,
        }
    }
}

/// A check.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Connect; if there is something to send, send it; if something is expected, it has to be in the answer.
    Tcp {
        /// What is sent.
        send: Vec<u8>,
        /// What the answer has to contain.
        expect: Vec<u8>,
    },
    /// `GET path`; the status has to be one of these.
    Http {
        /// The path.
        path: String,
        /// The Host header; `None`: the server's address.
        host: Option<String>,
        /// From, to, both included.
        status: (u16, u16),
    },
    /// Send a datagram; if something is expected, it has to be in the answer, else only ICMP errors tell.
    Udp {
        /// What is sent.
        send: Vec<u8>,
        /// What the answer has to contain.
        expect: Vec<u8>,
    },
    /// Run a program with the server's address and port as arguments after these; it has to exit with 0.
    Exec {
        /// The program and its first arguments.
        command: Vec<String>,
    },
}

/// The access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where it is written; `-` is standard output.
    pub path: PathBuf,
    /// Whether lines are JSON, else text.
    pub is_json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_has_its_own_upstream_or_that_of_the_longest_suffix() {
        let mut routes = vec![
            ("a.example".to_owned(), 1),
            ("*.example".to_owned(), 2),
            ("*.b.example".to_owned(), 3),
            ("*.c.b.example".to_owned(), 4),
            ("www.b.example".to_owned(), 5),
        ];
        routes.sort();
        let routes = SniRoutes { routes, timeout: Duration::ZERO };
        let cases = [
            ("a.example", Some(1)),
            ("b.example", Some(2)),
            ("x.a.example", Some(2)),
            ("x.b.example", Some(3)),
            ("www.b.example", Some(5)),
            ("x.y.c.b.example", Some(4)),
            ("example", None),
            (".example", None),
            ("xexample", None),
            ("a.example.", None),
            ("", None),
        ];
        for (name, upstream) in cases {
            assert_eq!(routes.upstream(name), upstream, "{name}");
        }
    }
}
