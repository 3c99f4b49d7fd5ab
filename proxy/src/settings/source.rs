//! The text of a settings file, and places in it.

use std::{fs::File, io::Read as _, ops::Range, path::Path};

use toml::de::Error;

use super::{ConfigError, bad};

/// Longest settings file, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Longest piece of the file in a message, characters.
const MAX_SHOWN: usize = 60;

/// So often the characters up to a place are noted, bytes.
const STEP: usize = 1024;

/// The text of a settings file.
pub struct Source {
    /// As the user named it.
    path: String,
    /// What is in it.
    pub text: String,
    /// Where lines begin, bytes.
    lines: Vec<usize>,
    /// Characters that begin before each [`STEP`]: each value has a place, and none may cost a walk from the start.
    characters: Vec<usize>,
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
            Ok(text) => Ok(Self::of_text(path, text)),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let place = Self::of_text(path, text).at(good);
                Err(bad(&place, "there is something that is no text", "write the file in UTF-8"))
            }
        }
    }

    fn of_text(path: String, text: String) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let mut count = 0;
        let counts = text.as_bytes().chunks(STEP).map(|step| {
            let before = count;
            count += count_characters(step);
            before
        });
        let characters = counts.collect();
        Self { path, text, lines, characters }
    }

    /// FILE:LINE:COLUMN of a byte; lines and columns (characters) are counted from 1.
    pub fn at(&self, offset: usize) -> String {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.characters_before(offset) - self.characters_before(start) + 1;
        format!("{}:{line}:{column}", self.path)
    }

    fn characters_before(&self, offset: usize) -> usize {
        let step = (offset / STEP).min(self.characters.len().saturating_sub(1));
        let before = self.characters.get(step).copied().unwrap_or_default();
        before + count_characters(&self.text.as_bytes()[step * STEP..offset])
    }

    /// What a message about a value begins with: FILE:LINE:COLUMN: KEY VALUE.
    pub fn place(&self, key: &str, span: Range<usize>) -> String {
        let place = format!("{}: {key} {}", self.at(span.start), self.shown(span));
        place.trim_end().replace(":  ", ": ")
    }

    /// What is written there, if that is one short line.
    fn shown(&self, span: Range<usize>) -> &str {
        let text = self.text.get(span).unwrap_or_default();
        if text.contains(char::is_control) || text.chars().count() > MAX_SHOWN { "" } else { text }
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

/// Those that begin in a piece of UTF-8.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
