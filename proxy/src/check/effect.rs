//! Settings that are fine, and have no effect, and traffic that never comes.

use ipnet::IpNet;

use super::Finding;
use crate::settings::{ListenerSettings, Settings, UpstreamSettings, place};

/// All of them.
pub fn none(settings: &Settings) -> Vec<Finding> {
    let listeners = settings.listeners.iter().flat_map(|listener| of_listener(listener, settings));
    let upstreams = settings.upstreams.iter().flat_map(|upstream| {
        let own = of_upstream(upstream);
        own.into_iter().chain(by_protocol(upstream, settings)).chain(unused(upstream, settings))
    });
    of_defaults(settings).into_iter().chain(listeners).chain(upstreams).collect()
}

/// A setting's place, if it was given, whether it has an effect, and why not.
type Effect<'a> = (Option<&'a str>, bool, &'a str);

fn without_effect<'a>(all: impl IntoIterator<Item = Effect<'a>>) -> Vec<Finding> {
    let without = all.into_iter().filter(|(_, has_effect, _)| !has_effect);
    without.filter_map(|(place, _, why)| Some(no_effect(place?, why))).collect()
}

fn no_effect(place: &str, why: &str) -> Finding {
    Finding::warn(place, format!("has no effect: {why}"), "leave it out")
}

fn of_defaults(settings: &Settings) -> Vec<Finding> {
    const NO_TCP: &str = "no listener has a TCP address";
    const NO_UDP: &str = "no listener has a UDP address";
    let has_tcp = settings.listeners.iter().any(|listener| listener.traffic().0);
    let has_udp = settings.listeners.iter().any(|listener| listener.traffic().1);
    let has_sni = settings.listeners.iter().any(|listener| !listener.sni.is_empty());
    let defaults = &settings.defaults;
    without_effect([
        (place(&defaults.connect_timeout), has_tcp, NO_TCP),
        (place(&defaults.idle_timeout), has_tcp, NO_TCP),
        (place(&defaults.half_close_timeout), has_tcp, NO_TCP),
        (place(&defaults.keepalive), has_tcp, NO_TCP),
        (place(&defaults.user_timeout), has_tcp, NO_TCP),
        (place(&defaults.max_connections), has_tcp, NO_TCP),
        (place(&defaults.sni_timeout), has_sni, "no listener has [[listener.sni]]"),
        (place(&defaults.udp_idle), has_udp, NO_UDP),
        (place(&defaults.max_flows), has_udp, NO_UDP),
    ])
}

fn of_listener(listener: &ListenerSettings, settings: &Settings) -> Vec<Finding> {
    const NO_TCP: &str = "the listener has no TCP address";
    const NO_UDP: &str = "the listener has no UDP address";
    let (has_tcp, has_udp) = listener.traffic();
    let limits = (&listener.max_connections_per_source, &listener.max_connections);
    let is_below = !matches!(limits, (Some(one), Some(all)) if one.value >= all.value);
    let mut findings = without_effect([
        (place(&listener.bandwidth), has_tcp, NO_TCP),
        (place(&listener.idle_timeout), has_tcp, NO_TCP),
        (place(&listener.half_close_timeout), has_tcp, NO_TCP),
        (place(&listener.keepalive), has_tcp, NO_TCP),
        (place(&listener.user_timeout), has_tcp, NO_TCP),
        (place(&listener.udp_idle), has_udp, NO_UDP),
        (place(&listener.udp_responses), has_udp, NO_UDP),
        (place(&listener.sni_timeout), !listener.sni.is_empty(), "the listener has no [[listener.sni]]"),
        (place(&listener.access_log), settings.access_log.is_some(), "there is no [access_log]"),
        (place(&listener.max_connections_per_source), is_below, "max_connections is not more"),
    ]);
    findings.extend(networks_without_effect(listener));
    findings
}

/// Denied networks that nobody is let in from anyway.
fn networks_without_effect(listener: &ListenerSettings) -> Vec<Finding> {
    let (Some(allow), Some(deny)) = (&listener.allow, &listener.deny) else { return Vec::new() };
    let meets = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let is_open = |network: &IpNet| allow.value.iter().any(|allowed| meets(&allowed.value, network));
    let without = deny.value.iter().filter(|denied| !is_open(&denied.value));
    without.map(|denied| no_effect(&denied.place, "allow lets nobody in from there")).collect()
}

fn of_upstream(upstream: &UpstreamSettings) -> Vec<Finding> {
    const ONE: &str = "the upstream has one server";
    let is_name =
        |address: &str| !address.starts_with("unix://") && address.parse::<std::net::SocketAddr>().is_err();
    let has_name = upstream.servers.iter().any(|server| is_name(&server.address.value));
    let is_one = upstream.servers.len() == 1 && !has_name;
    let is_limited = upstream.servers.iter().any(|server| server.max_connections.is_some());
    let ejects = upstream.eject.failures.as_ref().is_none_or(|failures| failures.value > 0);
    let mut findings = without_effect([
        (place(&upstream.balance), !is_one, ONE),
        (place(&upstream.retries), !is_one, ONE),
        (place(&upstream.slow_start), !is_one, ONE),
        (place(&upstream.on_down), upstream.health.is_some(), "there are no health checks"),
        (place(&upstream.queue_timeout), is_limited, "no server has max_connections"),
        (place(&upstream.resolve_min), has_name, "no server has a name"),
        (place(&upstream.resolve_max), has_name, "no server has a name"),
        (place(&upstream.eject.time), ejects, "failures is 0"),
        (place(&upstream.eject.max_time), ejects, "failures is 0"),
    ]);
    let all_backups =
        upstream.servers.iter().all(|server| server.backup.as_ref().is_some_and(|backup| backup.value));
    findings.extend(upstream.servers.iter().flat_map(|server| {
        // Weight 0 takes a server out of use.
        let weighs = !is_one || server.weight.as_ref().is_some_and(|weight| weight.value == 0);
        without_effect([
            (place(&server.weight), weighs, ONE),
            (place(&server.backup), !is_one, ONE),
            (place(&server.backup), is_one || !all_backups, "all servers are backups"),
        ])
    }));
    findings.extend(weightless(upstream));
    findings
}

/// No server of it gets anything.
fn weightless(upstream: &UpstreamSettings) -> Option<Finding> {
    let is_out =
        upstream.servers.iter().all(|server| server.weight.as_ref().is_some_and(|weight| weight.value == 0));
    let problem = "no server gets anything new: each has weight 0";
    is_out.then(|| Finding::warn(&upstream.name.place, problem, "give one of them a weight of 1 or more"))
}

/// Settings for TCP where no TCP traffic comes.
fn by_protocol(upstream: &UpstreamSettings, settings: &Settings) -> Vec<Finding> {
    const NO_TCP: &str = "only UDP traffic comes here";
    let mut users = settings.listeners.iter().filter(|listener| is_used(upstream, listener)).peekable();
    let is_unused = users.peek().is_none();
    let has_tcp = is_unused || users.any(|listener| listener.traffic().0);
    without_effect([
        (place(&upstream.connect_timeout), has_tcp, NO_TCP),
        (place(&upstream.keepalive), has_tcp, NO_TCP),
        (place(&upstream.user_timeout), has_tcp, NO_TCP),
        (place(&upstream.queue_timeout), has_tcp, NO_TCP),
    ])
}

/// Whether a listener's traffic may go there.
fn is_used(upstream: &UpstreamSettings, listener: &ListenerSettings) -> bool {
    let name = &upstream.name.value;
    listener.upstream.value == *name || listener.sni.iter().any(|sni| sni.upstream.value == *name)
}

fn unused(upstream: &UpstreamSettings, settings: &Settings) -> Option<Finding> {
    let is_unused = !settings.listeners.iter().any(|listener| is_used(upstream, listener));
    let what = format!("upstream {}", upstream.name.value);
    let remedy = "name it in a [[listener]], or leave it out";
    is_unused.then(|| Finding::warn(what, "no listener's traffic goes there", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::{examples, parse};

    /// Every setting that can be without effect is.
    const IDLE: &str = r#"
[defaults]
sni_timeout = "1s"
connect_timeout = "1s"
[[listener]]
name = "udp"
bind = ["udp://192.0.2.1:1"]
upstream = "one"
bandwidth = "1MiB/s"
idle_timeout = "1h"
half_close_timeout = "1m"
keepalive = "1m"
user_timeout = "1m"
sni_timeout = "1s"
access_log = true
max_connections = 10
max_connections_per_source = 10
[[listener]]
name = "tcp"
bind = ["tcp://192.0.2.1:1"]
upstream = "two"
udp_idle = "1s"
udp_responses = 1
allow = ["10.0.0.0/8"]
deny = ["10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0"]
[upstream.one]
balance = "round-robin"
retries = 1
slow_start = "1s"
on_down = "keep"
queue_timeout = "1s"
resolve_min = "1s"
resolve_max = "1m"
connect_timeout = "1s"
keepalive = "1m"
user_timeout = "1m"
eject = { failures = 0, time = "1s", max_time = "2s" }
[[upstream.one.server]]
address = "192.0.2.2:1"
weight = 2
backup = true
[upstream.two]
[[upstream.two.server]]
address = "192.0.2.3:1"
weight = 0
backup = true
[[upstream.two.server]]
address = "192.0.2.4:1"
weight = 0
backup = true
[upstream.three]
resolve_min = "1s"
[[upstream.three.server]]
address = "name.example:1"
"#;

    #[test]
    fn settings_without_effect_are_found() {
        let findings = none(&parse(IDLE.as_bytes()).unwrap());
        let lines = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(lines, include_str!("tests/without_effect.txt").trim_end());
    }

    #[test]
    fn all_settings_of_the_examples_have_an_effect() {
        for (name, text) in examples() {
            assert_eq!(none(&parse(text.as_bytes()).unwrap()), [], "{name}");
        }
    }
}
