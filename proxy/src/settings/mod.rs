//! Settings as they were given, by flags or by a file, each with its place: what messages begin with.
//! Whether they can be is checked in [`crate::config`].

pub mod values;

mod file;
mod flags;
mod known;
mod source;
#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::cli::{LogFormat, RunArgs};
use values::Patience;

pub use known::nearest;

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}; {remedy}")]
pub struct ConfigError {
    /// The flag and its value; or file, line, column, key and value.
    pub setting: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// A value and its place, such as `--lease 1ms` or `proxy.toml:3:9: lease "1ms"`.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// What was given.
    pub value: T,
    /// What a message about it begins with.
    pub place: String,
}

impl<T> Given<T> {
    /// The error that this cannot be.
    pub fn bad(&self, problem: impl fmt::Display, remedy: impl fmt::Display) -> ConfigError {
        bad(&self.place, problem, remedy)
    }
}

/// The error that what was given at a place cannot be.
pub fn bad(place: &str, problem: impl fmt::Display, remedy: impl fmt::Display) -> ConfigError {
    ConfigError { setting: place.into(), problem: problem.to_string(), remedy: remedy.to_string() }
}

/// Everything that was given.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where more would be given: for errors of what is missing.
    pub place: String,
    /// In their order.
    pub listeners: Vec<ListenerSettings>,
    /// In their order.
    pub upstreams: Vec<UpstreamSettings>,
    /// All the rest.
    pub options: Options,
}

/// `[[listener]]`: addresses with one upstream.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Its name.
    pub name: Given<String>,
    /// Addresses, such as `tcp://0.0.0.0:5432`.
    pub bind: Given<Vec<Given<String>>>,
    /// The upstream's name.
    pub upstream: Given<String>,
}

/// `[upstream.NAME]`: servers of which one is as good as the other.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// Its name.
    pub name: Given<String>,
    /// HOST:PORT of each server.
    pub servers: Vec<Given<String>>,
}

/// Settings that are given once or not at all. [`crate::config::Config`] says what they mean.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Options {
    pub workers: Option<Given<u32>>,
    pub lease: Option<Given<Duration>>,
    pub fence_after: Option<Given<Duration>>,
    pub failback_after: Option<Given<Patience>>,
    pub metrics: Option<Given<SocketAddr>>,
    pub control: Option<Given<PathBuf>>,
    pub user: Option<Given<String>>,
    pub connect_timeout: Option<Given<Duration>>,
    pub idle_timeout: Option<Given<Patience>>,
    pub udp_idle: Option<Given<Duration>>,
    pub keepalive: Option<Given<Duration>>,
    pub max_connections: Option<Given<usize>>,
    pub max_flows: Option<Given<usize>>,
    pub drain_timeout: Option<Given<Duration>>,
    pub log_format: Option<Given<LogFormat>>,
}

impl Settings {
    /// What the command line says, and the settings file that it names; of what both say, the command
    /// line's word.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing in it that is not understood.
    pub fn of(args: &RunArgs) -> Result<Self, ConfigError> {
        let Some(path) = &args.config else { return Ok(flags::settings(args)) };
        let file = file::read(path)?;
        Ok(Self { options: flags::options(args).or(file.options), ..file })
    }
}

impl Options {
    fn or(self, other: Self) -> Self {
        Self {
            workers: self.workers.or(other.workers),
            lease: self.lease.or(other.lease),
            fence_after: self.fence_after.or(other.fence_after),
            failback_after: self.failback_after.or(other.failback_after),
            metrics: self.metrics.or(other.metrics),
            control: self.control.or(other.control),
            user: self.user.or(other.user),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            udp_idle: self.udp_idle.or(other.udp_idle),
            keepalive: self.keepalive.or(other.keepalive),
            max_connections: self.max_connections.or(other.max_connections),
            max_flows: self.max_flows.or(other.max_flows),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            log_format: self.log_format.or(other.log_format),
        }
    }
}
