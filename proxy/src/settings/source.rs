//! The text of a settings file, and places in it.

use std::{fs::File, io::Read as _, ops::Range, path::Path};

use toml::de::Error;

use super::{ConfigError, bad};

/// Longest settings file, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Longest piece of the file in a message, characters.
const MAX_SHOWN: usize = 60;

/// The text of a settings file.
pub struct Source {
    /// As the user named it.
    path: String,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is longer than [`MAX_BYTES`], or is no text.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let flag = format!("--config {}", path.display());
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(bad(&flag, format!("cannot be read ({error})"), "name a settings file"));
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Err(bad(&flag, "has more than 1 MiB", "name a settings file"));
        }
        Self::of(path.display().to_string(), bytes)
    }

    /// These bytes as the text of a file so named.
    ///
    /// # Errors
    /// They are no text.
    pub fn of(path: String, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let place = Self { path, text }.at(good);
                Err(bad(&place, "there is something that is no text", "write the file in UTF-8"))
            }
        }
    }

    /// FILE:LINE:COLUMN of a byte; lines and columns (characters) are counted from 1.
    pub fn at(&self, offset: usize) -> String {
        let offset = self.text.floor_char_boundary(offset);
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|char| *char != '\n').count() + 1;
        format!("{}:{line}:{column}", self.path)
    }

    /// What a message about a value begins with: FILE:LINE:COLUMN: KEY VALUE.
    pub fn place(&self, key: &str, span: Range<usize>) -> String {
        let place = format!("{}: {key} {}", self.at(span.start), self.shown(span));
        place.trim_end().replace(":  ", ": ")
    }

    /// What is written there, if that is one short line.
    fn shown(&self, span: Range<usize>) -> &str {
        let text = self.text.get(span).unwrap_or_default();
        if text.contains('\n') || text.chars().count() > MAX_SHOWN { "" } else { text }
    }

    /// That the text is no TOML.
    pub fn no_toml(&self, error: &Error) -> ConfigError {
        let place = self.at(error.span().map_or(0, |span| span.start));
        let remedy = match error.message() {
            "duplicate key" => "leave one of them out",
            _ => "a setting is KEY = VALUE, and text is in quotes",
        };
        bad(&place, one_line(error.message()), remedy)
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
