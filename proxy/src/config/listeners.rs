//! Listeners, checked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proxy_common::abi::DEFAULT_MAX_LISTENERS;

use super::{
    ListenAddress, Listener,
    rules::{self, ListenerRules},
    unix,
};
use crate::{
    settings::{ConfigError, Given, Settings, UpstreamSettings, bad, nearest},
    sys::socket::Protocol,
};

/// Longest name of a listener or an upstream, bytes.
const MAX_NAME: usize = 64;

/// All listeners, one for each address.
pub fn all(settings: &Settings) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::new();
    for (number, given) in settings.listeners.iter().enumerate() {
        check_name(&given.name)?;
        if settings.listeners[..number].iter().any(|other| other.name.value == given.name.value) {
            return Err(given.name.bad("another listener has this name", "give each one its own"));
        }
        if given.bind.value.is_empty() {
            return Err(given.bind.bad("no address", "give at least one, such as tcp://0.0.0.0:5432"));
        }
        let upstream = upstream_number(&given.upstream, &settings.upstreams)?;
        let rules = rules::listener::of(given, &settings.defaults, &settings.upstreams)?;
        for url in &given.bind.value {
            add(url, Template { name: &given.name.value, upstream, rules: &rules }, &mut listeners)?;
        }
    }
    if listeners.is_empty() {
        let remedy = "add a [[listener]] with name, bind and upstream";
        return Err(bad(&settings.place, "there is no listener", remedy));
    }
    leave_ipv4_to_others(&mut listeners);
    Ok(listeners)
}

/// What the listeners of one `[[listener]]` have in common.
#[derive(Clone, Copy)]
struct Template<'a> {
    name: &'a str,
    upstream: u32,
    rules: &'a Arc<ListenerRules>,
}

/// Adds a listener for each address of a URL.
fn add(url: &Given<String>, common: Template<'_>, listeners: &mut Vec<Listener>) -> Result<(), ConfigError> {
    let addresses = listen_addresses(url)?;
    let count = listeners.len() + addresses.len();
    if count > DEFAULT_MAX_LISTENERS as usize {
        let problem = format!("with this there are {count} addresses to listen on");
        return Err(url.bad(problem, format!("at most {DEFAULT_MAX_LISTENERS} are possible")));
    }
    for address in addresses {
        check_free(url, address, listeners)?;
        listeners.push(Listener {
            name: common.name.to_owned(),
            address,
            upstream: common.upstream,
            group: 0,
            v6_only: false,
            rules: common.rules.clone(),
            is_retired: false,
        });
    }
    Ok(())
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

/// The number of an upstream that is named.
pub fn upstream_number(wanted: &Given<String>, upstreams: &[UpstreamSettings]) -> Result<u32, ConfigError> {
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

/// That no other listener has the address.
fn check_free(
    url: &Given<String>,
    address: ListenAddress,
    listeners: &[Listener],
) -> Result<(), ConfigError> {
    match listeners.iter().find(|other| overlap(&other.address, &address)) {
        None => Ok(()),
        Some(other) if other.address == address => {
            let problem = match url.value.ends_with(&address.to_string()) {
                true => "given twice".into(),
                false => format!("{address} is given twice"),
            };
            Err(url.bad(problem, "leave one of them out"))
        }
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

/// The addresses of a URL, one for each port.
fn listen_addresses(url: &Given<String>) -> Result<Vec<ListenAddress>, ConfigError> {
    let wrong = |problem: String| {
        url.bad(problem, "it looks like tcp://0.0.0.0:5432, udp://[::]:53 or unix:///run/app.sock")
    };
    if let Some(path) = url.value.strip_prefix(unix::SCHEME) {
        // For the life of the process, as the settings are.
        let path = unix::path(url, path)?.into_boxed_path();
        return Ok(vec![ListenAddress::unix(Box::leak(path))]);
    }
    let (scheme, rest) =
        url.value.split_once("://").ok_or_else(|| wrong("no tcp:// or udp:// before it".into()))?;
    let protocol = match scheme {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(wrong(format!("{other:?} is neither tcp nor udp"))),
    };
    let (first, last) = match rest.rsplit_once('-') {
        Some((first, last)) => (first, Some(last)),
        None => (rest, None),
    };
    let address: SocketAddr = first.parse().map_err(|_| wrong(format!("{rest:?} is no IP:PORT")))?;
    if address.port() == 0 {
        return Err(wrong("port 0 cannot be listened on".into()));
    }
    if matches!(address.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(wrong("it is an IPv4 address in IPv6 form, write it as IPv4".into()));
    }
    let last = match last.map(str::parse::<u16>) {
        None => address.port(),
        Some(Ok(last)) if last >= address.port() => last,
        Some(_) => {
            let remedy = "it looks like tcp://0.0.0.0:8000-8010, the lower port first";
            return Err(url.bad("is no range of ports", remedy));
        }
    };
    let at = |port| ListenAddress::internet(protocol, SocketAddr::new(address.ip(), port));
    Ok((address.port()..=last).map(at).collect())
}

/// An IPv6 wildcard takes no IPv4 traffic where another listener has it.
fn leave_ipv4_to_others(listeners: &mut [Listener]) {
    let with_ipv4 = |listener: &Listener| {
        let ListenAddress { protocol, address, .. } = listener.address;
        address.is_ipv4().then_some((protocol, address.port()))
    };
    let taken: Vec<(Protocol, u16)> = listeners.iter().filter_map(with_ipv4).collect();
    for listener in listeners {
        let ListenAddress { protocol, address, .. } = listener.address;
        listener.v6_only = taken.contains(&(protocol, address.port()));
    }
}
