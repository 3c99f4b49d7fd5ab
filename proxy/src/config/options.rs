//! Settings that are given once or not at all: their defaults, which `proxy run --help` and
//! `packaging/proxy.toml` name too, and their limits.

use std::{path::PathBuf, time::Duration};

use humantime::format_duration;
use proxy_common::lease::MAX_WORKERS;

use super::rules::{ListenerRules, UpstreamRules};
use crate::{
    cli::DEFAULT_CONTROL,
    settings::{ConfigError, Given, Options, bad, values::Patience},
    sys::{
        credentials::{self, User},
        process,
    },
};

/// Shortest and longest lease. Shorter, and a busy machine's scheduler lets healthy leases lapse.
pub const LEASE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(60));

const DEFAULT_LEASE: Duration = Duration::from_millis(100);
const DEFAULT_FENCE_AFTER: Duration = Duration::from_secs(1);
const DEFAULT_USER: &str = "nobody";

fn or(given: &Option<Given<Duration>>, default: Duration) -> Duration {
    given.as_ref().map_or(default, |given| given.value)
}

fn patience_or(given: &Option<Given<Patience>>, default: Option<Duration>) -> Option<Duration> {
    given.as_ref().map_or(default, |given| given.value.0)
}

/// The rules of a listener of which nothing more is said.
pub fn listener_rules(options: &Options) -> ListenerRules {
    let rules = ListenerRules::default();
    ListenerRules {
        idle_timeout: patience_or(&options.idle_timeout, rules.idle_timeout),
        udp_idle: or(&options.udp_idle, rules.udp_idle),
        keepalive: or(&options.keepalive, rules.keepalive),
        ..rules
    }
}

/// The same of an upstream.
pub fn upstream_rules(options: &Options) -> UpstreamRules {
    let rules = UpstreamRules::default();
    UpstreamRules {
        connect_timeout: or(&options.connect_timeout, rules.connect_timeout),
        keepalive: or(&options.keepalive, rules.keepalive),
        ..rules
    }
}

pub fn drain_timeout(options: &Options) -> Duration {
    or(&options.drain_timeout, Duration::from_secs(30))
}

pub fn failback_after(options: &Options) -> Option<Duration> {
    patience_or(&options.failback_after, Some(Duration::from_secs(10)))
}

pub fn control(options: &Options) -> PathBuf {
    options.control.as_ref().map_or(DEFAULT_CONTROL.into(), |control| control.value.clone())
}

pub fn workers(options: &Options) -> Result<u32, ConfigError> {
    match &options.workers {
        None => Ok(process::cpus().min(MAX_WORKERS) as u32),
        Some(count) if (1..=MAX_WORKERS as u32).contains(&count.value) => Ok(count.value),
        Some(count) => Err(count.bad("out of range", format!("1 to {MAX_WORKERS} are possible"))),
    }
}

pub fn lease(options: &Options) -> Result<Duration, ConfigError> {
    match &options.lease {
        None => Ok(DEFAULT_LEASE),
        Some(lease) if (LEASE.0..=LEASE.1).contains(&lease.value) => Ok(lease.value),
        Some(lease) => {
            let (from, to) = (format_duration(LEASE.0), format_duration(LEASE.1));
            Err(lease.bad("out of range", format!("{from} to {to} are possible")))
        }
    }
}

/// At least twice the lease.
pub fn fence_after(options: &Options, lease: Duration) -> Result<Duration, ConfigError> {
    const PROBLEM: &str = "a healthy pool would be killed for one late heartbeat";
    let twice = format_duration(2 * lease);
    match (&options.fence_after, &options.lease) {
        (Some(given), _) if given.value < 2 * lease => {
            Err(given.bad(PROBLEM, format!("give at least twice the lease, {twice}")))
        }
        (Some(given), _) => Ok(given.value),
        (None, Some(given)) if DEFAULT_FENCE_AFTER < 2 * lease => {
            let default = format_duration(DEFAULT_FENCE_AFTER);
            let problem = format!("with the default fence-after, {default}, {PROBLEM}");
            Err(given.bad(problem, format!("give a fence-after of at least {twice}")))
        }
        (None, _) => Ok(DEFAULT_FENCE_AFTER),
    }
}

pub fn user(options: &Options) -> Result<Option<User>, ConfigError> {
    if !credentials::is_root() {
        return Ok(None);
    }
    let (place, name) = match &options.user {
        Some(user) => (user.place.as_str(), user.value.as_str()),
        None => ("user nobody, the default", DEFAULT_USER),
    };
    let user = credentials::find_user(name);
    let error = || bad(place, "there is no such user", "name one that `getent passwd` lists");
    user.map(Some).ok_or_else(error)
}

pub fn at_least_one(limit: &Option<Given<usize>>) -> Result<Option<usize>, ConfigError> {
    match limit {
        Some(given) if given.value == 0 => Err(given.bad("nothing could pass", "give 1 or more")),
        given => Ok(given.as_ref().map(|given| given.value)),
    }
}
