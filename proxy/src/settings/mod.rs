//! Settings as they were given, by flags or by a file, each with its place: what messages begin with.
//! Whether they can be is checked in [`crate::config`].

pub mod docs;
pub mod values;

mod file;
mod flags;
mod kinds;
mod known;
mod read;
mod source;
mod table;
mod tables;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use crate::cli::RunArgs;

pub use known::nearest;
pub use tables::*;

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
#[derive(Clone, Debug, Default)]
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

/// Where a setting was given, if it was.
pub fn place<T>(given: &Option<Given<T>>) -> Option<&str> {
    given.as_ref().map(|given| given.place.as_str())
}

/// The error that what was given at a place cannot be.
pub fn bad(place: &str, problem: impl fmt::Display, remedy: impl fmt::Display) -> ConfigError {
    ConfigError { setting: place.into(), problem: problem.to_string(), remedy: remedy.to_string() }
}

impl Settings {
    /// What the command line says, and the settings file that it names; of what both say, the command
    /// line's word.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing in it, or on the command line, that is not understood.
    pub fn of(args: &RunArgs) -> Result<Self, ConfigError> {
        let mut settings = match &args.config {
            Some(path) => file::read(path)?,
            None => flags::settings(args),
        };
        flags::put(args, &mut settings)?;
        Ok(settings)
    }
}
