//! The command line as settings: one listener and one upstream, both named `default`.

use std::{fmt::Display, time::Duration};

use humantime::format_duration;

use super::{
    ConfigError, Defaults, Given, ListenerSettings, Metrics, Settings, Standby, UpstreamSettings,
    read::{Section as _, Value},
    tables::ServerGiven,
    values::Patience,
};
use crate::cli::RunArgs;

/// What its listener and its upstream are named.
const NAME: &str = "default";

/// One listener and one upstream, when there is no settings file.
pub fn settings(args: &RunArgs) -> Settings {
    let name = |place: &str| Given { value: NAME.to_owned(), place: place.into() };
    let all = |flag: &str, urls: &[String]| -> Vec<_> {
        urls.iter().map(|url| Given { value: url.clone(), place: format!("{flag} {url}") }).collect()
    };
    let server = |address| ServerGiven { place: "--upstream".into(), address, ..Default::default() };
    Settings {
        place: "--listen".into(),
        listeners: vec![ListenerSettings {
            place: "--listen".into(),
            name: name("--listen"),
            bind: Given { value: all("--listen", &args.listen), place: "--listen".into() },
            upstream: name("--upstream"),
            ..Default::default()
        }],
        upstreams: vec![UpstreamSettings {
            place: "--upstream".into(),
            name: name("--upstream"),
            servers: all("--upstream", &args.upstream).into_iter().map(server).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Puts what flags say, with or without a settings file, in the place of what is there.
///
/// # Errors
/// A value that is out of its range.
pub fn put(args: &RunArgs, settings: &mut Settings) -> Result<(), ConfigError> {
    let Settings { defaults, standby, metrics, access_log, .. } = settings;
    set(&mut defaults.workers, "--workers", &args.workers, u32::to_string)?;
    set(&mut standby.lease, "--lease", &args.lease, duration)?;
    set(&mut standby.fence_after, "--fence-after", &args.fence_after, duration)?;
    set(&mut standby.failback_after, "--failback-after", &args.failback_after, patience)?;
    set(&mut metrics.listen, "--metrics", &args.metrics, ToString::to_string)?;
    set(&mut defaults.control, "--control", &args.control, |path| path.display().to_string())?;
    set(&mut defaults.user, "--user", &args.user, String::clone)?;
    set(&mut defaults.connect_timeout, "--connect-timeout", &args.connect_timeout, duration)?;
    set(&mut defaults.idle_timeout, "--idle-timeout", &args.idle_timeout, patience)?;
    set(&mut defaults.udp_idle, "--udp-idle", &args.udp_idle, duration)?;
    set(&mut defaults.keepalive, "--keepalive", &args.keepalive, duration)?;
    set(&mut defaults.max_connections, "--max-connections", &args.max_connections, usize::to_string)?;
    set(&mut defaults.max_flows, "--max-flows", &args.max_flows, usize::to_string)?;
    set(&mut defaults.drain_timeout, "--drain-timeout", &args.drain_timeout, duration)?;
    set(&mut defaults.log_format, "--log-format", &args.log_format, |format| format.word())?;
    if let Some(path) = &args.access_log {
        let given = Given { value: path.clone(), place: format!("--access-log {}", path.display()) };
        access_log.get_or_insert_default().path = given;
    }
    Ok(())
}

/// If the flag is given. It is named as the setting is, which has the range.
fn set<T: Value + Clone, D: Display>(
    setting: &mut Option<Given<T>>,
    flag: &str,
    value: &Option<T>,
    shown: impl Fn(&T) -> D,
) -> Result<(), ConfigError> {
    let Some(value) = value else { return Ok(()) };
    let given = Given { value: value.clone(), place: format!("{flag} {}", shown(value)) };
    let key = flag.trim_start_matches('-').replace('-', "_");
    let settings =
        [Defaults::TABLE, Standby::TABLE, Metrics::TABLE].into_iter().flat_map(|table| table.settings);
    settings.filter(|setting| setting.key == key).try_for_each(|setting| setting.check(&given))?;
    *setting = Some(given);
    Ok(())
}

fn duration(duration: &Duration) -> String {
    format_duration(*duration).to_string()
}

fn patience(Patience(duration): &Patience) -> String {
    duration.map_or("never".into(), |duration| format_duration(duration).to_string())
}
