//! How values are written, on the command line and in the settings file alike.

use std::{net::SocketAddr, time::Duration};

use clap::ValueEnum as _;

use crate::cli::LogFormat;

/// A duration, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

/// A duration with its unit, longer than 0.
///
/// # Errors
/// What is wrong, and what it looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".into()),
        Ok(duration) => Ok(duration),
        Err(_) if text.parse::<f64>().is_ok() => Err(format!("needs a unit, such as {text}ms or {text}s")),
        Err(error) => Err(format!("{error}; a duration looks like 100ms, 5s or 1m30s")),
    }
}

/// A duration as in [`duration`], or `never`.
///
/// # Errors
/// As there.
pub fn duration_or_never(text: &str) -> Result<Patience, String> {
    match text {
        "never" => Ok(Patience(None)),
        _ => match duration(text) {
            Ok(duration) => Ok(Patience(Some(duration))),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

/// An address and a port.
///
/// # Errors
/// What it looks like.
pub fn ip_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no IP:PORT; it looks like 127.0.0.1:9100".into())
}

/// How to log.
///
/// # Errors
/// What there is.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    LogFormat::from_str(text, false).map_err(|_| "is no format of logs; there are text and json".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration_or_never("never"), Ok(Patience(None)));
        assert!(duration("100").unwrap_err().contains("needs a unit, such as 100ms"));
        assert!(duration("0s").unwrap_err().contains("more than 0"));
        assert!(duration("soon").unwrap_err().contains("looks like"));
        assert!(duration_or_never("nevr").unwrap_err().ends_with("1m30s, or never"));
    }

    #[test]
    fn an_address_has_ip_and_port() {
        assert_eq!(ip_port("[::1]:9100"), Ok("[::1]:9100".parse().unwrap()));
        assert!(ip_port("9100").unwrap_err().contains("looks like 127.0.0.1:9100"));
    }
}
