//! The settings file: what may be in it. `packaging/proxy.toml` explains it.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use toml::{Spanned, de::DeTable};

use super::{
    ConfigError, Given, ListenerSettings, Options, Settings, UpstreamSettings,
    source::Source,
    values::{duration, duration_or_never, ip_port, log_format},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct File {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    standby: Standby,
    #[serde(default)]
    metrics: Metrics,
    #[serde(default)]
    listener: Vec<Listener>,
    #[serde(default)]
    upstream: BTreeMap<Spanned<String>, Upstream>,
}

type Text = Option<Spanned<String>>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct Defaults {
    workers: Option<Spanned<u32>>,
    connect_timeout: Text,
    idle_timeout: Text,
    udp_idle: Text,
    keepalive: Text,
    max_connections: Option<Spanned<u32>>,
    max_flows: Option<Spanned<u32>>,
    drain_timeout: Text,
    user: Text,
    control: Text,
    log_format: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct Standby {
    lease: Text,
    fence_after: Text,
    failback_after: Text,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct Metrics {
    listen: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Listener {
    name: Spanned<String>,
    bind: Spanned<Vec<Spanned<String>>>,
    upstream: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Upstream {
    #[serde(default)]
    server: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Server {
    address: Spanned<String>,
}

/// Reads a settings file.
///
/// # Errors
/// It cannot be read, or the first thing in it that is not understood.
pub fn read(path: &Path) -> Result<Settings, ConfigError> {
    settings(&Source::read(path)?)
}

/// What a settings file says.
///
/// # Errors
/// The first thing in it that is not understood.
pub fn settings(source: &Source) -> Result<Settings, ConfigError> {
    let table = DeTable::parse(&source.text).map_err(|error| source.no_toml(&error))?;
    let file = File::deserialize(toml::Deserializer::from(table.clone()))
        .map_err(|error| source.no_settings(&error, table.get_ref()))?;
    Ok(Settings {
        place: source.at(0),
        options: options(source, file.defaults, file.standby, file.metrics)?,
        listeners: file.listener.into_iter().map(|listener| listener_settings(source, listener)).collect(),
        upstreams: upstreams(source, file.upstream),
    })
}

fn options(
    source: &Source,
    defaults: Defaults,
    standby: Standby,
    metrics: Metrics,
) -> Result<Options, ConfigError> {
    let length = |key, text: Text| text.map(|text| source.parsed(key, text, duration)).transpose();
    let patience = |key, text: Text| text.map(|text| source.parsed(key, text, duration_or_never)).transpose();
    let count = |key, count: Option<Spanned<u32>>| {
        let Given { value, place } = source.given(key, count?);
        Some(Given { value: value as usize, place })
    };
    let listen = metrics.listen.map(|text| source.parsed("listen", text, ip_port));
    let format = defaults.log_format.map(|text| source.parsed("log_format", text, log_format));
    let control = defaults.control.map(|path| source.given("control", path));
    Ok(Options {
        workers: defaults.workers.map(|count| source.given("workers", count)),
        lease: length("lease", standby.lease)?,
        fence_after: length("fence_after", standby.fence_after)?,
        failback_after: patience("failback_after", standby.failback_after)?,
        metrics: listen.transpose()?,
        control: control.map(|Given { value, place }| Given { value: value.into(), place }),
        user: defaults.user.map(|name| source.given("user", name)),
        connect_timeout: length("connect_timeout", defaults.connect_timeout)?,
        idle_timeout: patience("idle_timeout", defaults.idle_timeout)?,
        udp_idle: length("udp_idle", defaults.udp_idle)?,
        keepalive: length("keepalive", defaults.keepalive)?,
        max_connections: count("max_connections", defaults.max_connections),
        max_flows: count("max_flows", defaults.max_flows),
        drain_timeout: length("drain_timeout", defaults.drain_timeout)?,
        log_format: format.transpose()?,
    })
}

fn listener_settings(source: &Source, listener: Listener) -> ListenerSettings {
    let Given { value, place } = source.given("bind", listener.bind);
    ListenerSettings {
        name: source.given("name", listener.name),
        bind: Given { value: value.into_iter().map(|url| source.given("bind", url)).collect(), place },
        upstream: source.given("upstream", listener.upstream),
    }
}

/// In the order of the file: a table's keys come in that of the alphabet.
fn upstreams(source: &Source, tables: BTreeMap<Spanned<String>, Upstream>) -> Vec<UpstreamSettings> {
    let mut tables: Vec<_> = tables.into_iter().collect();
    tables.sort_by_key(|(name, _)| name.span().start);
    let address = |server: Server| source.given("address", server.address);
    tables
        .into_iter()
        .map(|(name, upstream)| UpstreamSettings {
            name: source.given("upstream", name),
            servers: upstream.server.into_iter().map(address).collect(),
        })
        .collect()
}
