//! The text of a settings file, and places in it.

use std::{fs::File, io::Read as _, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{ConfigError, Given, bad, known};

/// Longest settings file, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Longest piece of the file in a message, characters.
const MAX_SHOWN: usize = 60;

/// The text of a settings file.
pub struct Source {
    /// As the user named it.
    path: String,
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

    /// A value with its place.
    pub fn given<T>(&self, key: &str, value: Spanned<T>) -> Given<T> {
        let span = value.span();
        let place = format!("{}: {key} {}", self.at(span.start), self.shown(span));
        Given { value: value.into_inner(), place: place.trim_end().into() }
    }

    /// A value that is written as text, with its place.
    ///
    /// # Errors
    /// What `parse` says is wrong.
    pub fn parsed<T>(
        &self,
        key: &str,
        text: Spanned<String>,
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<Given<T>, ConfigError> {
        let Given { value, place } = self.given(key, text);
        match parse(&value) {
            Ok(value) => Ok(Given { value, place }),
            Err(error) => match error.split_once("; ") {
                Some((problem, remedy)) => Err(bad(&place, problem, remedy)),
                None => Err(bad(&place, error, looks(&["", key]))),
            },
        }
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

    /// That the text, which is TOML, is no settings. The message is serde's: of what it says of an
    /// unknown and of a missing key, the names between backticks are taken.
    pub fn no_settings(&self, error: &Error, table: &DeTable<'_>) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let (place, message) = (self.at(span.start), one_line(error.message()));
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let path = path_of(table, span.start);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match (message.split(' ').next(), &names[..]) {
            (Some("unknown"), [unknown, known @ ..]) => {
                let place = format!("{place}: {}", self.shown(span));
                bad(&place, "there is no such setting", known::instead(unknown, known))
            }
            (Some("missing"), [missing, ..]) => bad(
                &format!("{place}: {missing}"),
                "is missing",
                looks(&[path.as_slice(), &[missing]].concat()),
            ),
            _ => bad(&format!("{place}: {}", path.join(".").escape_debug()), plain(&message), looks(&path)),
        }
    }
}

fn looks(path: &[&str]) -> String {
    let looks = known::looks(path);
    looks.map_or("see packaging/proxy.toml".into(), |looks| format!("it looks like {looks}"))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The format's words instead of the parser's.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 4] = [
        ("type: map", "type: table"),
        ("expected a sequence", "expected a list"),
        ("expected u32", "expected a whole number from 0 on"),
        (" as i128", ""),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
}

/// The keys that lead to what is at this byte.
fn path_of(table: &DeTable<'_>, offset: usize) -> Vec<String> {
    let found = table.iter().find_map(|(key, value)| {
        let mut path = path_in(value, offset)?;
        path.insert(0, key.get_ref().to_string());
        Some(path)
    });
    found.unwrap_or_default()
}

/// The keys below a value that lead there; `None` if they do not.
fn path_in(value: &Spanned<DeValue<'_>>, offset: usize) -> Option<Vec<String>> {
    let below = match value.get_ref() {
        DeValue::Table(table) => Some(path_of(table, offset)).filter(|path| !path.is_empty()),
        DeValue::Array(values) => values.iter().find_map(|value| path_in(value, offset)),
        _ => None,
    };
    below.or_else(|| value.span().contains(&offset).then(Vec::new))
}
