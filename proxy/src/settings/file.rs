//! A settings file as settings.

use std::path::Path;

use toml::de::DeTable;

use super::{
    ConfigError, Settings,
    read::{Fields, Section as _},
    source::Source,
};

/// Reads a settings file.
///
/// # Errors
/// It cannot be read, or the first thing in it that is not understood.
pub fn read(path: &Path) -> Result<Settings, ConfigError> {
    settings(&Source::read(path)?)
}

/// What a settings file says.
///
/// # Errors
/// The first thing in it that is not understood.
pub fn settings(source: &Source) -> Result<Settings, ConfigError> {
    let table = DeTable::parse(&source.text).map_err(|error| source.no_toml(&error))?;
    Settings::fill(&Fields::whole(source, Settings::TABLE, table.get_ref())?)
}
