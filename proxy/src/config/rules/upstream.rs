//! The rules of an `[upstream.NAME]`, checked.

use std::{sync::Arc, time::Duration};

use super::{Ejection, OnDown, ProxyVersion, UpstreamRules, health};
use crate::{
    config::options::{first, patience, value},
    settings::{ConfigError, Defaults, EjectSettings, Given, UpstreamSettings},
};

/// Those of an upstream that says nothing for itself.
pub fn common(defaults: &Defaults) -> UpstreamRules {
    timeouts(&UpstreamSettings::default(), defaults)
}

/// Those of an upstream; `has_udp`: UDP traffic comes to it.
pub fn of(
    given: &UpstreamSettings,
    defaults: &Defaults,
    has_udp: bool,
) -> Result<Arc<UpstreamRules>, ConfigError> {
    let rules = UpstreamRules::default();
    Ok(Arc::new(UpstreamRules {
        balance: value(&given.balance).unwrap_or(rules.balance),
        retries: value(&given.retries).unwrap_or(rules.retries),
        send_proxy: send_proxy(&given.send_proxy, has_udp)?,
        transparent: value(&given.transparent).unwrap_or(rules.transparent),
        health: given.health.as_ref().map(health::of).transpose()?,
        eject: eject(&given.eject)?,
        on_down: on_down(given)?,
        slow_start: value(&given.slow_start),
        queue_timeout: value(&given.queue_timeout),
        resolve: resolve(given, rules.resolve)?,
        ..timeouts(given, defaults)
    }))
}

fn timeouts(given: &UpstreamSettings, defaults: &Defaults) -> UpstreamRules {
    let rules = UpstreamRules::default();
    UpstreamRules {
        connect_timeout: first([&given.connect_timeout, &defaults.connect_timeout], rules.connect_timeout),
        keepalive: first([&given.keepalive, &defaults.keepalive], rules.keepalive),
        user_timeout: patience([&given.user_timeout, &defaults.user_timeout], rules.user_timeout),
        congestion: value(&defaults.congestion).unwrap_or(rules.congestion),
        ..rules
    }
}

/// Version 1 knows TCP only.
fn send_proxy(
    given: &Option<Given<ProxyVersion>>,
    has_udp: bool,
) -> Result<Option<ProxyVersion>, ConfigError> {
    match given {
        Some(version) if has_udp && version.value == ProxyVersion::V1 => {
            Err(version
                .bad("a listener's UDP traffic comes here, and version 1 is for TCP only", r#"give "v2""#))
        }
        given => Ok(value(given)),
    }
}

fn eject(given: &EjectSettings) -> Result<Ejection, ConfigError> {
    let rules = Ejection::default();
    let failures = value(&given.failures).unwrap_or(rules.failures);
    let (time, max_time) = ordered([&given.time, &given.max_time], (rules.time, rules.max_time))?;
    Ok(Ejection { failures, time, max_time })
}

/// Only checks take a server down.
fn on_down(given: &UpstreamSettings) -> Result<OnDown, ConfigError> {
    match (&given.on_down, &given.health) {
        (Some(on_down), None) if on_down.value == OnDown::Close => {
            let remedy = format!("add [upstream.{}.health], or leave this out", given.name.value);
            Err(on_down.bad("no server is ever down: there are no health checks", remedy))
        }
        (on_down, _) => Ok(value(on_down).unwrap_or(OnDown::Keep)),
    }
}

fn resolve(
    given: &UpstreamSettings,
    default: (Duration, Duration),
) -> Result<(Duration, Duration), ConfigError> {
    ordered([&given.resolve_min, &given.resolve_max], default)
}

/// Two durations of which the first is not longer than the second. If only one is given, the other gives way.
fn ordered(
    given: [&Option<Given<Duration>>; 2],
    default: (Duration, Duration),
) -> Result<(Duration, Duration), ConfigError> {
    match given {
        [Some(least), Some(most)] if least.value > most.value => {
            Err(least.bad("is more than the longest time, which stands beside it", "give less"))
        }
        [Some(least), Some(most)] => Ok((least.value, most.value)),
        [Some(least), None] => Ok((least.value, default.1.max(least.value))),
        [None, Some(most)] => Ok((default.0.min(most.value), most.value)),
        [None, None] => Ok(default),
    }
}
