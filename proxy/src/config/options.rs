//! Settings that are given once or not at all: what counts if they are not, and what has to be so of several.

use std::{path::PathBuf, time::Duration};

use humantime::format_duration;
use proxy_common::lease::MAX_WORKERS;

use super::rules::AccessLog;
use crate::{
    cli::{DEFAULT_CONTROL, LogFormat},
    settings::{AccessLogSettings, ConfigError, Defaults, Given, Standby, bad, values::Patience},
    sys::{
        credentials::{self, User},
        process,
    },
};

/// The path of the access log that stands for standard output.
pub const STANDARD_OUTPUT: &str = "-";

const DEFAULT_LEASE: Duration = Duration::from_millis(100);
/// What a stopped worker had read waits for lease and this: less than the second after which many clients give up.
const DEFAULT_FENCE_AFTER: Duration = Duration::from_millis(800);
const DEFAULT_USER: &str = "nobody";

/// What was given, if it was.
pub fn value<T: Clone>(given: &Option<Given<T>>) -> Option<T> {
    given.as_ref().map(|given| given.value.clone())
}

/// The first that was given, or the default.
pub fn first<T: Copy>(given: [&Option<Given<T>>; 2], default: T) -> T {
    given.into_iter().flatten().next().map_or(default, |given| given.value)
}

/// As [`first`], of what may be `never`.
pub fn patience(given: [&Option<Given<Patience>>; 2], default: Option<Duration>) -> Option<Duration> {
    first(given, Patience(default)).0
}

/// The same of one.
fn or_seconds(given: &Option<Given<Duration>>, default: u64) -> Duration {
    value(given).unwrap_or(Duration::from_secs(default))
}

pub fn drain_timeout(defaults: &Defaults) -> Duration {
    or_seconds(&defaults.drain_timeout, 30)
}

pub fn failback_after(standby: &Standby) -> Option<Duration> {
    value(&standby.failback_after).map_or(Some(Duration::from_secs(10)), |Patience(duration)| duration)
}

pub fn control(defaults: &Defaults) -> PathBuf {
    value(&defaults.control).unwrap_or_else(|| DEFAULT_CONTROL.into())
}

pub fn workers(defaults: &Defaults) -> u32 {
    value(&defaults.workers).unwrap_or_else(|| process::cpus().min(MAX_WORKERS) as u32)
}

pub fn lease(standby: &Standby) -> Duration {
    value(&standby.lease).unwrap_or(DEFAULT_LEASE)
}

/// At least twice the lease; so is the default.
pub fn fence_after(standby: &Standby) -> Result<Duration, ConfigError> {
    let twice = 2 * lease(standby);
    match &standby.fence_after {
        Some(given) if given.value < twice => Err(given.bad(
            "a healthy pool would be killed for one late heartbeat",
            format!("give at least twice the lease, {}", format_duration(twice)),
        )),
        Some(given) => Ok(given.value),
        None => Ok(DEFAULT_FENCE_AFTER.max(twice)),
    }
}

pub fn user(defaults: &Defaults) -> Result<Option<User>, ConfigError> {
    if !credentials::is_root() {
        return Ok(None);
    }
    let (place, name) = match &defaults.user {
        Some(user) => (user.place.as_str(), user.value.as_str()),
        None => ("user nobody, the default", DEFAULT_USER),
    };
    let user = credentials::find_user(name);
    let error = || bad(place, "there is no such user", "name one that `getent passwd` lists");
    user.map(Some).ok_or_else(error)
}

pub fn access_log(given: &AccessLogSettings) -> Result<AccessLog, ConfigError> {
    let path = &given.path;
    if path.value.as_os_str().is_empty()
        || !(path.value.is_absolute() || path.value.as_os_str() == STANDARD_OUTPUT)
    {
        return Err(path.bad("is no absolute path", "write it from / on, or \"-\" for standard output"));
    }
    Ok(AccessLog { path: path.value.clone(), is_json: value(&given.format) == Some(LogFormat::Json) })
}
