//! The rules of a `[[listener]]`, checked.

use std::{collections::HashMap, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{AcceptProxy, ListenerRules, Rate, SniRoutes};
use crate::{
    config::{
        access::Access,
        listeners::upstream_number,
        options::{first, patience, value},
    },
    settings::{
        self, ConfigError, Defaults, Given, ListenerSettings, SniSettings, UpstreamSettings,
        values::Bandwidth,
    },
};

/// How long a ClientHello may take.
const SNI_TIMEOUT: Duration = Duration::from_secs(5);

/// Most server names of one listener.
const MAX_SERVER_NAMES: usize = 4096;

/// Longest server name, bytes (RFC 1035, section 2.3.4).
const MAX_SERVER_NAME: usize = 253;

/// Those of a listener that says nothing for itself.
pub fn common(defaults: &Defaults) -> ListenerRules {
    timeouts(&ListenerSettings::default(), defaults)
}

/// Those of a listener.
pub fn of(
    given: &ListenerSettings,
    defaults: &Defaults,
    upstreams: &[UpstreamSettings],
) -> Result<Arc<ListenerRules>, ConfigError> {
    Ok(Arc::new(ListenerRules {
        access: access(given)?,
        accept_proxy: given.accept_proxy.as_ref().map(accept_proxy).transpose()?,
        max_connections: value(&given.max_connections),
        max_connections_per_source: value(&given.max_connections_per_source),
        max_connection_rate: rate(given)?,
        bandwidth: value(&given.bandwidth).map(|Bandwidth(bytes)| bytes),
        udp_responses: value(&given.udp_responses),
        access_log: value(&given.access_log).unwrap_or(true),
        sni: sni(given, defaults, upstreams)?,
        ..timeouts(given, defaults)
    }))
}

fn timeouts(given: &ListenerSettings, defaults: &Defaults) -> ListenerRules {
    let rules = ListenerRules::default();
    ListenerRules {
        max_lifetime: patience([&given.max_lifetime, &defaults.max_lifetime], rules.max_lifetime),
        idle_timeout: patience([&given.idle_timeout, &defaults.idle_timeout], rules.idle_timeout),
        half_close_timeout: patience(
            [&given.half_close_timeout, &defaults.half_close_timeout],
            rules.half_close_timeout,
        ),
        udp_idle: first([&given.udp_idle, &defaults.udp_idle], rules.udp_idle),
        keepalive: first([&given.keepalive, &defaults.keepalive], rules.keepalive),
        user_timeout: patience([&given.user_timeout, &defaults.user_timeout], rules.user_timeout),
        congestion: value(&defaults.congestion).unwrap_or(rules.congestion),
        ..rules
    }
}

fn access(given: &ListenerSettings) -> Result<Access, ConfigError> {
    let (allow, deny) = (networks(given.allow.as_ref())?, networks(given.deny.as_ref())?);
    Access::new(&allow, &deny).map_err(|network| {
        let denied = given.deny.iter().flat_map(|deny| &deny.value).find(|denied| denied.value == network);
        let place = denied.map_or(&given.place, |denied| &denied.place);
        settings::bad(place, "allow has the same network", "leave it out of one of them")
    })
}

/// Those of a list: at least one, none twice.
fn networks(list: Option<&Given<Vec<Given<IpNet>>>>) -> Result<Vec<IpNet>, ConfigError> {
    let Some(list) = list else { return Ok(Vec::new()) };
    if list.value.is_empty() {
        return Err(list.bad("no network", "give at least one, or leave the setting out"));
    }
    let mut networks: HashMap<IpNet, ()> = HashMap::new();
    for network in &list.value {
        if networks.insert(network.value, ()).is_some() {
            return Err(network.bad(format!("{} is given twice", network.value), "leave one of them out"));
        }
    }
    Ok(list.value.iter().map(|network| network.value).collect())
}

fn accept_proxy(given: &settings::AcceptProxy) -> Result<AcceptProxy, ConfigError> {
    let timeout = value(&given.timeout).unwrap_or(AcceptProxy::TIMEOUT);
    Ok(AcceptProxy { from: networks(Some(&given.from))?, timeout })
}

/// Without a burst: what comes in a second.
fn rate(given: &ListenerSettings) -> Result<Option<Rate>, ConfigError> {
    match (&given.max_connection_rate, &given.max_connection_burst) {
        (None, None) => Ok(None),
        (None, Some(burst)) => {
            Err(burst
                .bad("there is no rate", r#"add max_connection_rate, such as "100/s", or leave this out"#))
        }
        (Some(rate), burst) => {
            let per_second = rate.value.0;
            let burst = value(burst).unwrap_or(per_second.ceil() as u32).max(1);
            Ok(Some(Rate { per_second, burst }))
        }
    }
}

fn sni(
    given: &ListenerSettings,
    defaults: &Defaults,
    upstreams: &[UpstreamSettings],
) -> Result<Option<SniRoutes>, ConfigError> {
    let Some(one) = given.sni.first() else { return Ok(None) };
    if given.bind.value.iter().all(|url| url.value.starts_with("udp://")) {
        let remedy = "add a tcp:// address to bind, or leave this out";
        return Err(settings::bad(&one.place, "the listener has no TCP address", remedy));
    }
    let mut routes = HashMap::new();
    for sni in &given.sni {
        add_routes(sni, upstream_number(&sni.upstream, upstreams)?, &mut routes)?;
    }
    if routes.len() > MAX_SERVER_NAMES {
        let problem = format!("{} server names", routes.len());
        return Err(settings::bad(&one.place, problem, format!("at most {MAX_SERVER_NAMES} are possible")));
    }
    let mut routes: Vec<(String, u32)> = routes.into_iter().collect();
    routes.sort();
    Ok(Some(SniRoutes { routes, timeout: first([&given.sni_timeout, &defaults.sni_timeout], SNI_TIMEOUT) }))
}

fn add_routes(
    given: &SniSettings,
    upstream: u32,
    routes: &mut HashMap<String, u32>,
) -> Result<(), ConfigError> {
    if given.server_names.value.is_empty() {
        return Err(given.server_names.bad("no name", r#"give at least one, such as "db.example.com""#));
    }
    for name in &given.server_names.value {
        if routes.insert(server_name(name)?, upstream).is_some() {
            return Err(name.bad("is given twice", "leave one of them out"));
        }
    }
    Ok(())
}

/// In lower case.
fn server_name(given: &Given<String>) -> Result<String, ConfigError> {
    let name = given.value.to_ascii_lowercase();
    let is_label = |label: &str| {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(is_fine)
    };
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    match name.len() <= MAX_SERVER_NAME && labels.split('.').all(is_label) {
        true => Ok(name),
        false => {
            let remedy = "it looks like db.example.com, or *.example.com for all names below; international \
                          names begin with xn--";
            Err(given.bad("cannot be a server name", remedy))
        }
    }
}
