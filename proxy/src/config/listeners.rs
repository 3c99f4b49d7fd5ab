//! Listeners, checked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proxy_common::abi::DEFAULT_MAX_LISTENERS;

use super::{ListenAddress, Listener, rules::ListenerRules};
use crate::{
    settings::{ConfigError, Given, ListenerSettings, Settings, UpstreamSettings, bad, nearest},
    sys::socket::Protocol,
};

/// Longest name of a listener or an upstream, bytes.
const MAX_NAME: usize = 64;

/// All listeners, one for each address.
pub fn all(settings: &Settings, defaults: &Arc<ListenerRules>) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (number, given) in settings.listeners.iter().enumerate() {
        check_name(&given.name)?;
        if settings.listeners[..number].iter().any(|other| other.name.value == given.name.value) {
            return Err(given.name.bad("another listener has this name", "give each one its own"));
        }
        if given.bind.value.is_empty() {
            return Err(given.bind.bad("no address", "give at least one, such as tcp://0.0.0.0:5432"));
        }
        let upstream = upstream(given, &settings.upstreams)?;
        for url in &given.bind.value {
            let (name, address) = (given.name.value.clone(), free_address(url, &listeners)?);
            listeners.push(Listener {
                name,
                address,
                upstream,
                v6_only: false,
                rules: Arc::clone(defaults),
                is_retired: false,
            });
        }
    }
    if listeners.is_empty() {
        let remedy = "add a [[listener]] with name, bind and upstream";
        return Err(bad(&settings.place, "there is no listener", remedy));
    }
    if listeners.len() > DEFAULT_MAX_LISTENERS as usize {
        let problem = format!("{} addresses to listen on", listeners.len());
        return Err(bad(&settings.place, problem, format!("at most {DEFAULT_MAX_LISTENERS} are possible")));
    }
    leave_ipv4_to_others(&mut listeners);
    Ok(listeners)
}

/// Names are shown in metrics, status and logs.
pub fn check_name(name: &Given<String>) -> Result<(), ConfigError> {
    let is_fine = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if (1..=MAX_NAME).contains(&name.value.len()) && name.value.chars().all(is_fine) {
        return Ok(());
    }
    let remedy = format!("write 1 to {MAX_NAME} letters a to z, digits, or any of - _ .");
    Err(name.bad("cannot be a name", remedy))
}

/// The number of a listener's upstream.
fn upstream(listener: &ListenerSettings, upstreams: &[UpstreamSettings]) -> Result<u32, ConfigError> {
    let wanted = &listener.upstream;
    match upstreams.iter().position(|upstream| upstream.name.value == wanted.value) {
        Some(number) => Ok(number as u32),
        None => {
            let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.value.as_str()).collect();
            let remedy = match nearest(&wanted.value, &names) {
                Some(name) => format!("the nearest is {name}"),
                None => format!("add [upstream.{0}] with [[upstream.{0}.server]]", wanted.value),
            };
            Err(wanted.bad("there is no such upstream", remedy))
        }
    }
}

/// An address that no other listener has.
fn free_address(url: &Given<String>, listeners: &[Listener]) -> Result<ListenAddress, ConfigError> {
    let address = listen_address(url)?;
    match listeners.iter().find(|other| overlap(&other.address, &address)) {
        None => Ok(address),
        Some(other) if other.address == address => Err(url.bad("given twice", "leave one of them out")),
        Some(other) => {
            let problem = format!("the wildcard among this and {} takes what both want", other.address);
            Err(url.bad(problem, "leave one of them out"))
        }
    }
}

/// Whether they are the same, or one is a wildcard that takes the other's traffic. (A `[::]` leaves
/// IPv4 to others.)
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    let (a, b) = (one.address, other.address);
    let has_wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    let is_same_family = a.is_ipv4() == b.is_ipv4() && one.protocol == other.protocol;
    is_same_family && a.port() == b.port() && (a == b || has_wildcard)
}

fn listen_address(url: &Given<String>) -> Result<ListenAddress, ConfigError> {
    let wrong = |problem: String| url.bad(problem, "it looks like tcp://0.0.0.0:5432 or udp://[::]:53");
    let (scheme, rest) =
        url.value.split_once("://").ok_or_else(|| wrong("no tcp:// or udp:// before it".into()))?;
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

/// An IPv6 wildcard takes no IPv4 traffic where another listener has it.
fn leave_ipv4_to_others(listeners: &mut [Listener]) {
    let with_ipv4 = |listener: &Listener| {
        let ListenAddress { protocol, address } = listener.address;
        address.is_ipv4().then_some((protocol, address.port()))
    };
    let taken: Vec<(Protocol, u16)> = listeners.iter().filter_map(with_ipv4).collect();
    for listener in listeners {
        let ListenAddress { protocol, address } = listener.address;
        listener.v6_only = taken.contains(&(protocol, address.port()));
    }
}
