//! Upstreams and their servers, checked.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    Listener, Upstream, listeners::check_name, options::value, own_listener::own_listener, rules, unix,
};
use crate::{
    settings::{ConfigError, Given, ServerGiven, Settings, UpstreamSettings},
    sys::socket::Protocol,
    table::{Identity, Origin},
};

/// Most servers that are given, of all upstreams together.
pub const MAX_SERVERS: usize = 1024;
/// Addresses that a name may have at once.
pub const ADDRESSES_OF_A_NAME: usize = 16;
/// Room of an upstream beside its servers' and their names' addresses: for so many servers that are added while the
/// proxy runs, and for those that it had before.
pub const SPARE_SLOTS: usize = 16;

/// A server as the settings give it.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// As it was given.
    pub given: String,
    /// Where it is.
    pub place: Place,
    /// Its share, compared with its upstream's other servers.
    pub weight: u32,
    /// Takes traffic only while no other server of its upstream can.
    pub is_backup: bool,
    /// Limit on open connections.
    pub max_connections: Option<u32>,
    /// The settings have it no more: nothing new goes to it, and what is open goes on.
    pub is_retired: bool,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address.
    Address(SocketAddr),
    /// At a unix socket, a stream one.
    Unix(PathBuf),
    /// At the addresses that a name has at the time: as many servers, or none.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Place {
    /// What its slot has for its address, if it has one for good.
    pub fn slot_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Unix(path) => Some(unix::stand_in(path)),
            Self::Name { .. } => None,
        }
    }
}

impl ServerSettings {
    /// A server at an address, with everything else as it is when it is not given. (The text tells a unix socket.)
    pub fn at(given: String, address: SocketAddr) -> Self {
        let path = given.strip_prefix(unix::SCHEME).map(PathBuf::from);
        let place = path.map_or(Place::Address(address), Place::Unix);
        Self { given, place, weight: 1, is_backup: false, max_connections: None, is_retired: false }
    }

    /// What its server at this address is.
    pub fn identity(&self, address: SocketAddr, origin: Origin) -> Identity {
        Identity {
            address,
            origin,
            weight: self.weight,
            is_backup: self.is_backup,
            max_connections: self.max_connections.unwrap_or(0),
        }
    }
}

/// All upstreams.
pub fn all(settings: &Settings, listeners: &[Listener]) -> Result<Vec<Upstream>, ConfigError> {
    let (mut upstreams, mut count) = (Vec::new(), 0);
    for (number, upstream) in (0..).zip(&settings.upstreams) {
        check_name(&upstream.name)?;
        count += upstream.servers.len();
        if count > MAX_SERVERS {
            let problem = format!("with its servers there are {count}");
            return Err(upstream.name.bad(problem, format!("at most {MAX_SERVERS} are possible")));
        }
        let servers = servers_of((number, upstream), listeners)?;
        if has_udp(number, listeners)
            && let Some(at) = servers.iter().position(|server| matches!(server.place, Place::Unix(_)))
        {
            let remedy = "give the address of the service, or the listener another upstream";
            return Err(upstream.servers[at]
                .address
                .bad("a unix socket takes no datagrams of a UDP listener", remedy));
        }
        let rules = rules::upstream::of(upstream, &settings.defaults, has_udp(number, listeners))?;
        let name = upstream.name.value.clone();
        upstreams.push(Upstream { name, servers, slots: 0..0, rules, is_retired: false });
    }
    lay_out_slots(&mut upstreams);
    Ok(upstreams)
}

/// Whether UDP traffic comes to an upstream.
fn has_udp(upstream: u32, listeners: &[Listener]) -> bool {
    let mut udp = listeners.iter().filter(|listener| listener.address.protocol == Protocol::Udp);
    udp.any(|listener| listener.upstream == upstream)
}

/// Gives each upstream its slots, one upstream's after the other's.
pub fn lay_out_slots(upstreams: &mut [Upstream]) {
    let mut start = 0;
    for upstream in upstreams {
        let room = |server: &ServerSettings| match server.place {
            Place::Address(_) | Place::Unix(_) => 1,
            Place::Name { .. } => ADDRESSES_OF_A_NAME,
        };
        let end = start + SPARE_SLOTS + upstream.servers.iter().map(room).sum::<usize>();
        upstream.slots = start..end;
        start = end;
    }
}

fn servers_of(
    (number, upstream): (u32, &UpstreamSettings),
    listeners: &[Listener],
) -> Result<Vec<ServerSettings>, ConfigError> {
    let mut servers: Vec<ServerSettings> = Vec::new();
    for ServerGiven { address, weight, backup, max_connections, .. } in &upstream.servers {
        let place = place(address)?;
        if servers.iter().any(|server| server.place == place) {
            return Err(address.bad("given twice", "leave one out"));
        }
        if let Some(server) = place.slot_address() {
            not_ourselves(address, (server, number), listeners)?;
        }
        servers.push(ServerSettings {
            given: address.value.clone(),
            place,
            weight: value(weight).unwrap_or(1),
            is_backup: value(backup).unwrap_or(false),
            max_connections: value(max_connections),
            is_retired: false,
        });
    }
    if servers.is_empty() {
        let name = &upstream.name;
        let remedy = format!("add [[upstream.{}.server]] with an address", name.value);
        return Err(name.bad("it has no server", remedy));
    }
    Ok(servers)
}

/// As far as the settings tell; what the machine's addresses tell is looked at by who starts or checks.
fn not_ourselves(
    given: &Given<String>,
    (server, upstream): (SocketAddr, u32),
    listeners: &[Listener],
) -> Result<(), ConfigError> {
    match own_listener(server, upstream, listeners, |_| false) {
        None => Ok(()),
        Some(listener) => {
            let problem =
                format!("is our own listener {}: traffic would go round for ever", listener.address);
            Err(given.bad(problem, "give the address of the service"))
        }
    }
}

/// Reads HOST:PORT. A name is not looked up here.
fn place(given: &Given<String>) -> Result<Place, ConfigError> {
    const LOOKS: &str = "it looks like 10.0.0.1:5432 or db.example:5432";
    let text = &given.value;
    if let Some(path) = text.strip_prefix(unix::SCHEME) {
        return unix::path(given, path).map(Place::Unix);
    }
    if text.contains("://") {
        let remedy =
            "write HOST:PORT, for a server is reached by the protocol of the listener, or unix:///PATH";
        return Err(given.bad("has a scheme", remedy));
    }
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = split.filter(|(_, port)| *port > 0) else {
        return Err(given.bad("has no port from 1 to 65535", LOOKS));
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.ip() != address.ip().to_canonical() {
            return Err(given.bad("is an IPv4 address in IPv6 form", "write it as IPv4"));
        }
        return Ok(Place::Address(address));
    }
    if !is_name(host) {
        return Err(given.bad(format!("{host:?} is neither an IP address nor a host name"), LOOKS));
    }
    Ok(Place::Name { host: host.to_ascii_lowercase(), port })
}

/// Labels of letters, digits, hyphens and underscores, at most 63 bytes each and 253 together (RFC 1035, RFC 2181).
fn is_name(host: &str) -> bool {
    let is_fine = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(is_fine);
    let labels = host.strip_suffix('.').unwrap_or(host);
    // Only digits and dots are an address that is none, such as 10.0.0.300.
    let is_number = labels.chars().all(|char| char.is_ascii_digit() || char == '.');
    labels.len() <= 253 && !is_number && labels.split('.').all(is_label)
}
