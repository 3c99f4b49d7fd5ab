//! Reading the tables of a settings file, and what is in them.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Given, bad, known,
    source::Source,
    table::{Kind, Setting, Size, Table},
};

/// What a setting's value is read as.
pub trait Value: Sized {
    /// How it is written.
    const KIND: Kind;

    /// Reads it.
    ///
    /// # Errors
    /// It is not so written.
    fn read(at: &At<'_>) -> Result<Self, ConfigError>;

    /// What a range is about.
    fn size(&self) -> Size {
        Size::None
    }
}

/// What a setting is in its table: there or not, once or many times.
pub trait Field: Sized {
    /// How it is written.
    const KIND: Kind;
    /// Whether it has to be there.
    const IS_REQUIRED: bool = false;

    /// It is there.
    ///
    /// # Errors
    /// It cannot be read.
    fn there(at: &At<'_>) -> Result<Self, ConfigError>;

    /// It is not; `None`: it has to be.
    fn absent() -> Option<Self>;
}

/// A value in the file.
pub struct At<'a> {
    source: &'a Source,
    /// What it is of.
    pub setting: &'a Setting,
    /// What the user has named it, in a table of named tables.
    name: Option<&'a Spanned<Cow<'a, str>>>,
    /// As it was parsed.
    pub value: &'a Spanned<DeValue<'a>>,
}

impl<'a> At<'a> {
    /// A message's beginning.
    pub fn place(&self) -> String {
        let is_table = |value: &DeValue<'_>| value.is_table();
        let value = self.value.get_ref();
        let has_tables = value.as_array().is_some_and(|list| list.iter().any(|one| is_table(one.get_ref())));
        match is_table(value) || has_tables {
            // Their text may be a heading, which says no more than the key.
            true => {
                let place = self.source.at(self.value.span().start);
                let name = self.name.map(|name| format!(" {}", name.get_ref().escape_debug()));
                format!("{place}: {}{}", self.setting.key, name.unwrap_or_default())
            }
            false => self.source.place(self.setting.key, self.value.span()),
        }
    }

    /// The error that the value cannot be.
    pub fn bad(&self, problem: &str) -> ConfigError {
        match problem.split_once("; ") {
            Some((problem, remedy)) => bad(&self.place(), problem, remedy),
            None => bad(&self.place(), problem, format!("it looks like {}", self.setting.looks())),
        }
    }

    /// The error that the value is none of what it has to be.
    pub fn is_not(&self, wanted: &str) -> ConfigError {
        let is = match self.value.get_ref() {
            DeValue::String(_) => "is text",
            DeValue::Integer(_) => "is a whole number",
            DeValue::Float(_) => "is a number with a fraction",
            DeValue::Boolean(_) => "is true or false",
            DeValue::Datetime(_) => "is a date or time",
            DeValue::Array(_) => "is a list",
            DeValue::Table(_) => "is a table",
        };
        self.bad(&format!("{is}, where {wanted} is wanted"))
    }

    /// A text.
    ///
    /// # Errors
    /// It is none.
    pub fn text(&self) -> Result<&'a str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.is_not("text"))
    }

    /// A text that is read by this.
    ///
    /// # Errors
    /// It is none, or what `parse` says, with what to do after a semicolon.
    pub fn parsed<T>(&self, parse: fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(self.text()?).map_err(|problem| self.bad(&problem))
    }

    /// A whole number from 0 on.
    ///
    /// # Errors
    /// It is none.
    pub fn number<T: TryFrom<u64>>(&self) -> Result<T, ConfigError> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return Err(self.is_not("a whole number"));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| self.bad("is below 0, or too large"))
    }

    /// A list's values.
    ///
    /// # Errors
    /// It is none.
    pub fn list(&self) -> Result<impl Iterator<Item = At<'a>>, ConfigError> {
        let list = self.value.get_ref().as_array().ok_or_else(|| self.is_not("a list"))?;
        let (source, setting) = (self.source, self.setting);
        Ok(list.iter().map(move |value| At { source, setting, name: None, value }))
    }

    /// A table's tables, by their names, in the order of the file.
    ///
    /// # Errors
    /// It is none.
    pub fn named(&self) -> Result<impl Iterator<Item = At<'a>>, ConfigError> {
        let mut named: Vec<_> = self.table()?.iter().collect();
        named.sort_by_key(|(name, _)| name.span().start);
        let (source, setting) = (self.source, self.setting);
        Ok(named.into_iter().map(move |(name, value)| At { source, setting, name: Some(name), value }))
    }

    fn table(&self) -> Result<&'a DeTable<'a>, ConfigError> {
        self.value.get_ref().as_table().ok_or_else(|| self.is_not("a table"))
    }
}

/// A declared table, as it is read.
pub trait Section: Sized {
    /// Its declaration.
    const TABLE: &'static Table;

    /// Of the settings that are there.
    ///
    /// # Errors
    /// One of them cannot be read, or is missing.
    fn fill(fields: &Fields<'_>) -> Result<Self, ConfigError>;
}

/// The settings of a table in the file.
pub struct Fields<'a> {
    source: &'a Source,
    table: &'static Table,
    /// The byte where it begins.
    start: usize,
    /// Its key, or its name.
    title: Option<Given<String>>,
    values: &'a DeTable<'a>,
}

impl<'a> Fields<'a> {
    /// The whole file's.
    ///
    /// # Errors
    /// There is a setting that is not known.
    pub fn whole(
        source: &'a Source,
        table: &'static Table,
        values: &'a DeTable<'a>,
    ) -> Result<Self, ConfigError> {
        Self { source, table, start: 0, title: None, values }.known()
    }

    /// Those of a table that is a value.
    ///
    /// # Errors
    /// It is none, or there is a setting that is not known.
    pub fn of(at: &At<'a>, table: &'static Table) -> Result<Self, ConfigError> {
        let key = at.setting.key;
        let (title, start) = match at.name {
            Some(name) => {
                let place = at.source.place(key, name.span());
                (Given { value: name.get_ref().to_string(), place }, name.span().start)
            }
            None => {
                let start = at.value.span().start;
                (Given { value: key.into(), place: format!("{}: {key}", at.source.at(start)) }, start)
            }
        };
        Self { source: at.source, table, start, title: Some(title), values: at.table()? }.known()
    }

    /// That all that is there is known.
    fn known(self) -> Result<Self, ConfigError> {
        let is_known = |key: &str| self.table.settings.iter().any(|setting| setting.key == key);
        let unknown = self.values.keys().filter(|key| !is_known(key.get_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(self),
            Some(key) => {
                let place = self.source.place("", key.span());
                Err(bad(&place, "there is no such setting", known::instead(key.get_ref(), self.table)))
            }
        }
    }

    /// What messages about the table begin with.
    pub fn place(&self) -> String {
        self.title.as_ref().map_or_else(|| self.source.at(0), |title| title.place.clone())
    }

    /// What the user has named it.
    pub fn name(&self) -> Given<String> {
        self.title.clone().unwrap_or_default()
    }

    /// The setting of this key.
    ///
    /// # Errors
    /// It cannot be read, or is missing.
    pub fn read<T: Field>(&self, key: &'static str) -> Result<T, ConfigError> {
        let setting = self.table.settings.iter().find(|setting| setting.key == key);
        let value = self.values.get(key);
        match setting.zip(value) {
            Some((setting, value)) => T::there(&At { source: self.source, setting, name: None, value }),
            None => T::absent().ok_or_else(|| {
                let place = format!("{}: {key}", self.source.at(self.start));
                let looks = setting.map_or_else(String::new, Setting::looks);
                bad(&place, "is missing", format!("it looks like {looks}"))
            }),
        }
    }
}
