//! Logs: `tracing`, and through it the `log` crate (the kernel program's lines), to stderr.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::cli::LogFormat;

/// Variable that says what is logged, in the form of `tracing_subscriber::EnvFilter`:
/// `warn`, `debug`, `proxy::control=debug`.
pub const VARIABLE: &str = "PROXY_LOG";

/// Starts logging to stderr. It makes no thread and no descriptor and buffers nothing, so it works
/// on in cloned processes. Doing it again changes nothing.
pub fn init(format: Option<LogFormat>) {
    let by_device = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let (filter, complaint) = filter(std::env::var(VARIABLE).ok().as_deref());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let done = match format.unwrap_or(by_device) {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    if let (Ok(()), Some(complaint)) = (done, complaint) {
        tracing::warn!("{complaint}");
    }
}

/// The filter of a value of [`VARIABLE`], and what is wrong with the value.
fn filter(value: Option<&str>) -> (EnvFilter, Option<String>) {
    let value = value.filter(|value| !value.is_empty()).unwrap_or("info");
    match EnvFilter::try_new(value) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let complaint = format!("{VARIABLE}={value:?} is ignored: {error}; write, for example, debug");
            (EnvFilter::new("info"), Some(complaint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_told_and_replaced() {
        let (filter, complaint) = filter(Some("proxy=loud"));
        assert_eq!(filter.to_string(), "info");
        assert!(complaint.is_some_and(|complaint| complaint.contains("proxy=loud")));
    }

    #[test]
    fn the_default_is_info() {
        for value in [None, Some("")] {
            let (filter, complaint) = super::filter(value);
            assert_eq!((filter.to_string().as_str(), complaint), ("info", None));
        }
    }
}
