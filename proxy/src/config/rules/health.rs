//! The health checks of an upstream, checked.

use std::path::Path;

use super::{Check, Health};
use crate::{
    config::options::value,
    settings::{
        self, ConfigError, Given, HealthSettings, place,
        values::{Bytes, CheckKind},
    },
};

/// Longest text of a check, bytes.
const MAX_TEXT: usize = 4096;

/// Those of an upstream.
pub fn of(given: &HealthSettings) -> Result<Health, ConfigError> {
    let rules = Health::default();
    let interval = value(&given.interval).unwrap_or(rules.interval);
    // Of a short interval the default timeout would be more.
    let timeout = value(&given.timeout).unwrap_or(rules.timeout.min(interval));
    if let Some(given) = given.timeout.as_ref().filter(|_| timeout > interval) {
        let interval = humantime::format_duration(interval);
        return Err(given.bad("is more than the interval", format!("give at most the interval, {interval}")));
    }
    Ok(Health {
        check: check(given)?,
        interval,
        timeout,
        rise: value(&given.rise).unwrap_or(rules.rise),
        fall: value(&given.fall).unwrap_or(rules.fall),
        port: value(&given.port),
    })
}

fn check(given: &HealthSettings) -> Result<Check, ConfigError> {
    let kind = value(&given.check).unwrap_or(CheckKind::Tcp);
    nothing_of_others(given, kind)?;
    let (send, expect) = (bytes(&given.send)?, bytes(&given.expect)?);
    match kind {
        CheckKind::Tcp => Ok(Check::Tcp { send, expect }),
        CheckKind::Udp => Ok(Check::Udp { send, expect }),
        CheckKind::Http => Ok(Check::Http {
            path: given.path.as_ref().map_or(Ok("/".into()), path)?,
            host: given.host.as_ref().map(host).transpose()?,
            status: given.status.as_ref().map_or(Ok((200, 399)), status)?,
        }),
        CheckKind::Exec => command(given),
    }
}

/// That nothing is given that this kind of check has no use for.
fn nothing_of_others(given: &HealthSettings, kind: CheckKind) -> Result<(), ConfigError> {
    let is_probe = matches!(kind, CheckKind::Tcp | CheckKind::Udp);
    let (is_http, is_exec) = (kind == CheckKind::Http, kind == CheckKind::Exec);
    let all = [
        (place(&given.send), is_probe, "tcp and udp"),
        (place(&given.expect), is_probe, "tcp and udp"),
        (place(&given.path), is_http, "http"),
        (place(&given.host), is_http, "http"),
        (place(&given.status), is_http, "http"),
        (place(&given.command), is_exec, "exec"),
    ];
    let stray =
        all.into_iter().find_map(|(place, is_used, kinds)| place.filter(|_| !is_used).zip(Some(kinds)));
    stray.map_or(Ok(()), |(place, kinds)| {
        let problem = format!("is for checks by {kinds} only");
        Err(settings::bad(place, problem, "leave it out, or give another check"))
    })
}

fn bytes(given: &Option<Given<Bytes>>) -> Result<Vec<u8>, ConfigError> {
    match given {
        None => Ok(Vec::new()),
        Some(bytes) if (1..=MAX_TEXT).contains(&bytes.value.0.len()) => Ok(bytes.value.0.clone()),
        Some(bytes) => Err(bytes.bad("cannot be", format!("give 1 to {MAX_TEXT} bytes, or leave it out"))),
    }
}

fn path(given: &Given<String>) -> Result<String, ConfigError> {
    let is_fine = |char: char| char.is_ascii_graphic();
    let path = &given.value;
    match path.starts_with('/') && path.chars().all(is_fine) && path.len() <= MAX_TEXT {
        true => Ok(path.clone()),
        false => Err(given.bad("is no path of a URL", "it begins with / and has no space, such as /healthz")),
    }
}

fn host(given: &Given<String>) -> Result<String, ConfigError> {
    let is_fine = |char: char| char.is_ascii_graphic();
    match !given.value.is_empty() && given.value.chars().all(is_fine) && given.value.len() <= MAX_TEXT {
        true => Ok(given.value.clone()),
        false => Err(given.bad("cannot be a Host header", "it looks like app.example.com")),
    }
}

/// One, or from-to.
fn status(given: &Given<String>) -> Result<(u16, u16), ConfigError> {
    let (from, to) = given.value.split_once('-').unwrap_or((&given.value, &given.value));
    match (from.trim().parse(), to.trim().parse()) {
        (Ok(from), Ok(to)) if 100 <= from && from <= to && to <= 599 => Ok((from, to)),
        _ => Err(given.bad("is no status", "it looks like 200 or 200-399, from 100 to 599")),
    }
}

fn command(given: &HealthSettings) -> Result<Check, ConfigError> {
    const LOOKS: &str = r#"it looks like command = ["/usr/bin/check", "arg"]"#;
    let Some(command) = &given.command else {
        return Err(settings::bad(&given.place, "a check by exec has no command", LOOKS));
    };
    match command.value.first() {
        Some(program) if Path::new(&program.value).is_absolute() => {
            let command = command.value.iter().map(|word| word.value.clone()).collect();
            Ok(Check::Exec { command })
        }
        _ => Err(command.bad("does not begin with a program's absolute path", LOOKS)),
    }
}
