//! Upstreams and their servers, checked.

use std::net::{SocketAddr, ToSocketAddrs};

use super::{Listener, Server, Upstream, listeners::check_name};
use crate::settings::{ConfigError, Given, UpstreamSettings};

/// Most servers, of all upstreams together.
pub const MAX_SERVERS: usize = 1024;

/// All upstreams, and the servers of all.
pub fn all(
    given: &[UpstreamSettings],
    listeners: &[Listener],
) -> Result<(Vec<Upstream>, Vec<Server>), ConfigError> {
    let (mut upstreams, mut servers) = (Vec::new(), Vec::new());
    for upstream in given {
        check_name(&upstream.name)?;
        let first = servers.len();
        servers.extend(servers_of(upstream, listeners)?);
        if servers.len() > MAX_SERVERS {
            let problem = format!("with its servers there are {}", servers.len());
            return Err(upstream.name.bad(problem, format!("at most {MAX_SERVERS} are possible")));
        }
        upstreams.push(Upstream {
            name: upstream.name.value.clone(),
            servers: first..servers.len(),
            rules: Default::default(),
            is_retired: false,
        });
    }
    Ok((upstreams, servers))
}

fn servers_of(upstream: &UpstreamSettings, listeners: &[Listener]) -> Result<Vec<Server>, ConfigError> {
    let mut servers: Vec<Server> = Vec::new();
    for given in &upstream.servers {
        for address in resolve(given)? {
            if servers.iter().any(|server| server.address == address) {
                return Err(given.bad(format!("{address} is given twice"), "leave one out"));
            }
            not_ourselves(given, address, listeners)?;
            let is_address = given.value.parse::<SocketAddr>().is_ok();
            let name = if is_address { given.value.clone() } else { format!("{}/{address}", given.value) };
            servers.push(Server { name, address, upstream: upstream.name.value.clone(), is_retired: false });
        }
    }
    match servers.is_empty() {
        true => {
            let name = &upstream.name;
            Err(name
                .bad("it has no server", format!("add [[upstream.{}.server]] with an address", name.value)))
        }
        false => Ok(servers),
    }
}

/// A server that is one of our own listeners: each connection would open another one, to the limit.
fn not_ourselves(
    given: &Given<String>,
    server: SocketAddr,
    listeners: &[Listener],
) -> Result<(), ConfigError> {
    let reaches = |at: SocketAddr| {
        let is_local = at.ip() == server.ip() || (at.ip().is_unspecified() && server.ip().is_loopback());
        at.port() == server.port() && is_local
    };
    match listeners.iter().find(|listener| reaches(listener.address.address)) {
        None => Ok(()),
        Some(listener) => {
            let problem =
                format!("is our own listener {}: traffic would go round for ever", listener.address);
            Err(given.bad(problem, "give the address of the service"))
        }
    }
}

fn resolve(given: &Given<String>) -> Result<Vec<SocketAddr>, ConfigError> {
    const LOOKS: &str = "it looks like 10.0.0.1:5432 or db.example:5432";
    let name = &given.value;
    if name.contains("://") {
        let remedy = "write HOST:PORT only: a server is reached by the protocol of the listener";
        return Err(given.bad("has a scheme", remedy));
    }
    if !name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(given.bad("has no port from 1 to 65535", LOOKS));
    }
    let found = name.to_socket_addrs();
    let found = found.map_err(|error| given.bad(format!("cannot be looked up ({error})"), LOOKS))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}
