//! The command line as settings: one listener and one upstream, both named `default`.

use std::{fmt::Display, time::Duration};

use humantime::format_duration;

use super::{Given, ListenerSettings, Options, Settings, UpstreamSettings, values::Patience};
use crate::cli::{LogFormat, RunArgs};

/// What its listener and its upstream are named.
const NAME: &str = "default";

/// Everything, when there is no settings file.
pub fn settings(args: &RunArgs) -> Settings {
    let name = |place: &str| Given { value: NAME.to_owned(), place: place.into() };
    let all = |flag: &str, urls: &[String]| -> Vec<_> {
        urls.iter().map(|url| Given { value: url.clone(), place: format!("{flag} {url}") }).collect()
    };
    Settings {
        place: "--listen".into(),
        listeners: vec![ListenerSettings {
            name: name("--listen"),
            bind: Given { value: all("--listen", &args.listen), place: "--listen".into() },
            upstream: name("--upstream"),
        }],
        upstreams: vec![UpstreamSettings {
            name: name("--upstream"),
            servers: all("--upstream", &args.upstream),
        }],
        options: options(args),
    }
}

/// What may be given beside a settings file.
pub fn options(args: &RunArgs) -> Options {
    Options {
        workers: given("--workers", &args.workers, u32::to_string),
        lease: given("--lease", &args.lease, duration),
        fence_after: given("--fence-after", &args.fence_after, duration),
        failback_after: given("--failback-after", &args.failback_after, patience),
        metrics: given("--metrics", &args.metrics, ToString::to_string),
        control: given("--control", &args.control, |path| path.display().to_string()),
        user: given("--user", &args.user, String::clone),
        connect_timeout: given("--connect-timeout", &args.connect_timeout, duration),
        idle_timeout: given("--idle-timeout", &args.idle_timeout, patience),
        udp_idle: given("--udp-idle", &args.udp_idle, duration),
        keepalive: given("--keepalive", &args.keepalive, duration),
        max_connections: given("--max-connections", &args.max_connections, usize::to_string),
        max_flows: given("--max-flows", &args.max_flows, usize::to_string),
        drain_timeout: given("--drain-timeout", &args.drain_timeout, duration),
        log_format: given("--log-format", &args.log_format, |format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }),
    }
}

fn given<T: Clone, D: Display>(flag: &str, value: &Option<T>, shown: impl Fn(&T) -> D) -> Option<Given<T>> {
    value.as_ref().map(|value| Given { value: value.clone(), place: format!("{flag} {}", shown(value)) })
}

fn duration(duration: &Duration) -> String {
    format_duration(*duration).to_string()
}

fn patience(Patience(duration): &Patience) -> String {
    duration.map_or("never".into(), |duration| format_duration(duration).to_string())
}
