//! What settings come to: what listens, what goes where, with which limits.

use std::{fmt::Display, time::Duration};

use humantime::format_duration;
use ipnet::IpNet;

use crate::{
    config::{
        Config, Listener, ServerSettings, Upstream,
        rules::{Check, Health, ListenerRules, OnDown, ProxyVersion, UpstreamRules},
    },
    settings::{Given, ListenerSettings, Settings},
};

/// Lines for people. Each listener and upstream begins at the margin, what holds for it is below.
pub fn lines(settings: &Settings, config: &Config) -> Vec<String> {
    let listeners = settings.listeners.iter().filter_map(|given| {
        let listener = config.listeners.iter().find(|listener| listener.name == given.name.value)?;
        Some(listener_lines(given, listener))
    });
    let upstreams = config.upstreams.iter().map(upstream_lines);
    listeners.chain(upstreams).flatten().collect()
}

fn listener_lines(given: &ListenerSettings, listener: &Listener) -> Vec<String> {
    let rules = &listener.rules;
    let addresses = list(given.bind.value.iter().map(|url| &url.value));
    let mut lines = vec![format!("listener {} at {addresses}", listener.name)];
    lines.extend(given.sni.iter().map(|sni| {
        let names = list(sni.server_names.value.iter().map(|name| &name.value));
        format!("  TLS for {names} to upstream {}", sni.upstream.value)
    }));
    lines.push(format!("  to upstream {}", given.upstream.value));
    lines.extend(networks(&given.allow).map(|networks| format!("  from {networks} only")));
    lines.extend(networks(&given.deny).map(|networks| format!("  not from {networks}")));
    lines.extend(rules.accept_proxy.as_ref().map(|accept| {
        let (from, timeout) = (list(accept.from.iter().map(network)), format_duration(accept.timeout));
        format!("  with a PROXY header from {from}, within {timeout}")
    }));
    lines.extend(sentence("at most ", limits(rules)));
    lines.extend(sentence("ends ", ends(given, rules)));
    lines
}

fn limits(rules: &ListenerRules) -> Vec<String> {
    let rate = rules.max_connection_rate.map(|rate| {
        let (rate, unit) = match rate.per_second {
            per_second if per_second >= 1.0 => (per_second, "second"),
            per_second if per_second * 60.0 >= 1.0 => (per_second * 60.0, "minute"),
            per_second => (per_second * 3600.0, "hour"),
        };
        format!("{} new ones a {unit}", (rate * 100.0).round() / 100.0)
    });
    let burst = rules.max_connection_rate.map(|rate| format!("{} of them at once", rate.burst));
    let all = rules.max_connections.map(|count| format!("{count} connections and UDP flows"));
    let of_one = rules.max_connections_per_source.map(|count| format!("{count} of one client"));
    let bandwidth = rules.bandwidth.map(|bytes| format!("{bytes} bytes a second each way of a connection"));
    [all, of_one, rate, burst, bandwidth].into_iter().flatten().collect()
}

fn ends(given: &ListenerSettings, rules: &ListenerRules) -> Vec<String> {
    let (has_tcp, has_udp) = given.traffic();
    let after =
        |what: &str, time: Option<Duration>| time.map(|time| format!("{what} {}", format_duration(time)));
    let answers = rules
        .udp_responses
        .map(|count| format!("UDP flows after {} to each datagram", counted(count, "answer")));
    let all = [
        after("idle connections after", rules.idle_timeout).filter(|_| has_tcp),
        after("half closed ones after", rules.half_close_timeout).filter(|_| has_tcp),
        after("idle UDP flows after", Some(rules.udp_idle)).filter(|_| has_udp),
        answers.filter(|_| has_udp),
        after("everything after", rules.max_lifetime),
    ];
    all.into_iter().flatten().collect()
}

fn upstream_lines(upstream: &Upstream) -> Vec<String> {
    let rules = &upstream.rules;
    let mut lines = vec![format!("upstream {}, balanced by {}", upstream.name, rules.balance.word())];
    lines.extend(upstream.servers.iter().map(server));
    let header = rules.send_proxy.map(|version| match version {
        ProxyVersion::V1 => "a PROXY header, version 1".to_owned(),
        ProxyVersion::V2 => "a PROXY header, version 2".to_owned(),
    });
    let source = rules.transparent.then(|| "the client's own address as the source".to_owned());
    lines.extend(sentence("with ", header.into_iter().chain(source).collect()));
    lines.push(format!("  {}", attempts(rules)));
    lines.extend(rules.health.as_ref().map(|health| format!("  {}", checks(health, rules.on_down))));
    lines
}

fn server(server: &ServerSettings) -> String {
    let weight = match server.weight {
        0 => ", nothing new (weight 0)".to_owned(),
        1 => String::new(),
        weight => format!(", weight {weight}"),
    };
    let backup = if server.is_backup { ", backup" } else { "" };
    let limit = server.max_connections.map(|count| format!(", at most {count} connections"));
    format!("  to {}{}{backup}{}", server.given, weight, limit.unwrap_or_default())
}

fn attempts(rules: &UpstreamRules) -> String {
    let (timeout, eject) = (format_duration(rules.connect_timeout), &rules.eject);
    let eject = match eject.failures {
        0 => "never passes over a server".to_owned(),
        failures => format!(
            "passes over a server after {}, for {} to {}",
            counted(failures, "failure"),
            format_duration(eject.time),
            format_duration(eject.max_time)
        ),
    };
    format!("connects within {timeout}, tries up to {}, {eject}", counted(rules.retries, "further server"))
}

fn checks(health: &Health, on_down: OnDown) -> String {
    let what = match &health.check {
        Check::Tcp { .. } => "a connection".to_owned(),
        Check::Udp { .. } => "a datagram".into(),
        Check::Http { path, .. } => format!("GET {path}"),
        Check::Exec { command } => list(command.first()),
    };
    let (interval, timeout) = (format_duration(health.interval), format_duration(health.timeout));
    let then = match on_down {
        OnDown::Keep => "connections go on",
        OnDown::Close => "connections are reset",
    };
    let (rise, fall) = (health.rise, counted(health.fall, "failure"));
    format!(
        "checked by {what} every {interval}, within {timeout}; down after {fall}, then {then}; up after {rise}"
    )
}

fn networks(given: &Option<Given<Vec<Given<IpNet>>>>) -> Option<String> {
    given.as_ref().map(|given| list(given.value.iter().map(|given| network(&given.value))))
}

/// An address without the bits that say that it is one.
fn network(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// With commas.
fn list<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

/// One line of several parts, if there are any.
fn sentence(begin: &str, parts: Vec<String>) -> Option<String> {
    (!parts.is_empty()).then(|| format!("  {begin}{}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::{examples, parse};

    /// What each example comes to, as a reader of it would expect.
    #[test]
    fn examples_are_explained() {
        let explained = |(name, text): (String, String)| {
            let settings = parse(text.as_bytes()).unwrap();
            let lines = lines(&settings, &Config::of(&settings).unwrap()).join("\n");
            format!("--- {name}\n{lines}\n")
        };
        let all: String = examples().into_iter().map(explained).collect();
        assert_eq!(all, include_str!("tests/explained.txt"));
    }

    #[test]
    fn readme_shows_what_its_example_comes_to() {
        let readme = include_str!("../../../README.md");
        let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let settings = parse(example.as_bytes()).unwrap();
        let lines = lines(&settings, &Config::of(&settings).unwrap());
        let first: String = lines.iter().take(5).map(|line| format!("{line}\n")).collect();
        assert!(readme.contains(&format!("```\n{first}```\n")), "{first}");
    }
}
