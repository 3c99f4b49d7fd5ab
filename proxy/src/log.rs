//! Logs: `tracing`, and through it the `log` crate (aya's lines), to stderr.

use std::{
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use ::log::{Log, Metadata, Record};
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

use crate::{
    cli::LogFormat,
    config::Listener,
    sys::{Fd, poll},
};

/// Variable that says what is logged, in the form of `tracing_subscriber::EnvFilter`:
/// `warn`, `debug`, `proxy::control=debug`.
pub const VARIABLE: &str = "PROXY_LOG";

/// Starts logging to stderr. It makes no thread and no descriptor and buffers nothing, so it works
/// on in cloned processes. It does not wait for a reader (unless several processes fill a pipe's last page
/// at the same moment). Doing it again changes nothing.
pub fn init(format: Option<LogFormat>) {
    let by_device = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let (filter, complaint) = filter(std::env::var(VARIABLE).ok().as_deref());
    let format = format.unwrap_or(by_device);
    let builder = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(move || Unwaiting { format });
    let done = match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    if let (Ok(()), Some(complaint)) = (done, complaint) {
        tracing::warn!("{complaint}");
    }
}

/// Bytes that a pipe takes without blocking when poll(2) calls it writable (`PIPE_BUF`, pipe(7)).
const ATOMIC: usize = 4096;

/// Lines that nobody would take, since the last one that was.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Standard error, but for lines that it would not take at once: a full pipe whose reader is stuck must
/// not stop the supervisor, which logs. They are dropped, and the next line that is not tells how many.
struct Unwaiting {
    format: LogFormat,
}

impl Unwaiting {
    /// The line about dropped lines.
    fn notice(&self, dropped: u64) -> String {
        match self.format {
            LogFormat::Text => format!("proxy: {dropped} log lines were dropped: standard error was full\n"),
            LogFormat::Json => {
                format!(
                    "{{\"level\":\"WARN\",\"message\":\"standard error was full\",\"dropped\":{dropped}}}\n"
                )
            }
        }
    }
}

impl io::Write for Unwaiting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = DROPPED.load(Relaxed);
        let notice = if dropped > 0 { self.notice(dropped) } else { String::new() };
        for part in [notice.as_bytes()].into_iter().chain(line.chunks(ATOMIC)) {
            // A reader that has gone is an error, and no reason to go too.
            let is_taken =
                poll::writable_now(Fd::from_raw(libc::STDERR_FILENO)) && io::stderr().write_all(part).is_ok();
            if !is_taken {
                DROPPED.fetch_add(1, Relaxed);
                return Ok(line.len());
            }
        }
        DROPPED.fetch_sub(dropped, Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

/// Where the kernel program's lines go: to the log, with the listener by its address.
pub struct KernelLog {
    addresses: Vec<String>,
}

impl KernelLog {
    /// For a program that steers these listeners.
    pub fn new(listeners: &[Listener]) -> Self {
        Self { addresses: listeners.iter().map(|listener| listener.address.to_string()).collect() }
    }

    /// Address and message of `listener NUMBER: MESSAGE`, which every line of the program looks like.
    fn split<'a>(&'a self, line: &'a str) -> Option<(&'a str, &'a str)> {
        let (number, message) = line.strip_prefix("listener ")?.split_once(": ")?;
        Some((self.addresses.get(number.parse::<usize>().ok()?)?, message))
    }
}

impl Log for KernelLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        match self.split(&line) {
            Some((listener, message)) => tracing::info!(target: "proxy::kernel", listener, "{message}"),
            None => tracing::info!(target: "proxy::kernel", "{line}"),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lines_name_the_listener() {
        let log = KernelLog { addresses: vec!["tcp://a:1".into(), "udp://b:2".into()] };
        assert_eq!(log.split("listener 1: new traffic"), Some(("udp://b:2", "new traffic")));
        for other in ["listener 2: new traffic", "listener x: new traffic", "something else"] {
            assert_eq!(log.split(other), None);
        }
    }

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
