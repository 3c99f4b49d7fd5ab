//! What the tables of a settings file are made of. [`super::tables`] declares them, each setting once; what reads
//! them, what explains them and what is generated from them all go by that.

use std::time::Duration;

use humantime::format_duration;

use super::{ConfigError, Given, read::Value};

/// A table of the settings file.
#[derive(Debug)]
pub struct Table {
    /// As it begins in a file, such as `[[listener]]`.
    pub heading: &'static str,
    /// What it is for: lines, each with a space before it.
    pub about: &'static str,
    /// What may be in it.
    pub settings: &'static [Setting],
    /// There may be many of it, each under a name that the user gives.
    pub is_named: bool,
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What stands before the `=`.
    pub key: &'static str,
    /// What it does: lines, each with a space before it.
    pub about: &'static str,
    /// What it is written as.
    pub kind: Kind,
    /// It has to be there.
    pub is_required: bool,
    /// What counts if it is left out.
    pub default: Fallback,
    /// A value that it may have, in TOML.
    pub like: &'static str,
    /// What its value has to be within.
    pub range: Range,
}

/// How a value is written.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// Text, or a list of numbers from 0 to 255.
    Bytes,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Bool,
    /// A duration with its unit.
    Duration,
    /// The same, or `never`.
    Patience,
    /// A number a second, a minute or an hour.
    Rate,
    /// Bytes a second.
    Bandwidth,
    /// An address, or a network as ADDRESS/BITS.
    Network,
    /// IP:PORT.
    Address,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A list of such values.
    List(&'static Kind),
    /// A table.
    Table(&'static Table),
    /// Many tables: a list of them, or by name.
    Tables(&'static Table),
}

/// What counts if a setting is left out.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// Nothing that would have to be said.
    Nothing,
    /// This value, in TOML.
    Value(&'static str),
    /// What these words say.
    Words(&'static str),
}

/// What a value has to be within; both ends are.
#[derive(Clone, Copy, Debug)]
pub enum Range {
    /// Any.
    Any,
    /// A number.
    Numbers(u64, u64),
    /// A duration.
    Times(Duration, Duration),
}

/// What of a value a range is about.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// Nothing.
    None,
    /// A number.
    Number(u64),
    /// A duration.
    Time(Duration),
}

impl Setting {
    /// A setting of which nothing more is said.
    pub const fn new(key: &'static str, about: &'static str, kind: Kind, is_required: bool) -> Self {
        let default = Fallback::Nothing;
        Self { key, about, kind, is_required, default, like: "", range: Range::Any }
    }

    /// With this value if it is left out, and as an example.
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Fallback::Value(value);
        self.like(value)
    }

    /// With what these words say if it is left out.
    pub const fn without(mut self, words: &'static str) -> Self {
        self.default = Fallback::Words(words);
        self
    }

    /// With this as an example.
    pub const fn like(mut self, value: &'static str) -> Self {
        self.like = value;
        self
    }

    /// A number within these.
    pub const fn numbers(mut self, from: u64, to: u64) -> Self {
        self.range = Range::Numbers(from, to);
        self
    }

    /// A duration within these.
    pub const fn times(mut self, (from, to): (Duration, Duration)) -> Self {
        self.range = Range::Times(from, to);
        self
    }

    /// That a value is within its range.
    ///
    /// # Errors
    /// It is not.
    pub fn check<T: Value>(&self, given: &Given<T>) -> Result<(), ConfigError> {
        let is_in = match (self.range, given.value.size()) {
            (Range::Numbers(from, to), Size::Number(number)) => (from..=to).contains(&number),
            (Range::Times(from, to), Size::Time(time)) => (from..=to).contains(&time),
            _ => true,
        };
        let error = || given.bad("out of range", format!("{} are possible", self.bounds()));
        is_in.then_some(()).ok_or_else(error)
    }

    /// The ends of its range, in words.
    pub fn bounds(&self) -> String {
        match (self.kind, self.range) {
            (Kind::Bandwidth, Range::Numbers(from, to)) => {
                format!("{}KiB/s to {}GiB/s", from >> 10, to >> 30)
            }
            (_, range) => range.words(),
        }
    }

    /// What it looks like in a file, in one line.
    pub fn looks(&self) -> String {
        match self.kind {
            Kind::Table(table) | Kind::Tables(table) => table.heading.into(),
            kind => format!("{} = {}{}", self.key, self.like, kind.others(self.like)),
        }
    }
}

impl Range {
    /// FROM to TO.
    fn words(self) -> String {
        const MOST: u64 = u32::MAX as u64;
        match self {
            Self::Any => String::new(),
            Self::Numbers(from, MOST) => format!("{from} and more"),
            Self::Numbers(from, to) => format!("{from} to {to}"),
            Self::Times(from, to) => format!("{} to {}", format_duration(from), format_duration(to)),
        }
    }
}

impl Kind {
    /// What it may be as well, beside this one.
    fn others(self, one: &str) -> String {
        match self {
            Self::Patience => r#", or "never""#.into(),
            Self::Choice(all) => {
                let all = all.iter().map(|choice| format!("{choice:?}")).filter(|choice| choice != one);
                all.map(|choice| format!(", or {choice}")).collect()
            }
            _ => String::new(),
        }
    }
}

/// Declares a table: a struct with a field for each setting, which is read from a file by [`Value`], and the
/// [`Table`] that explains it. A field is `Option<Given<T>>`, `Given<T>` if it has to be there, or other tables.
///
/// Each struct has `place`, too, where it is; and after `named`, a `name`, which the user gives.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $heading:literal $struct:ident $($title:ident)? {
            $($(#[doc = $help:literal])+ $field:ident $(as $key:literal)?: $type:ty $([$($more:tt)+])?;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default)]
        pub struct $struct {
            /// Where it is: what messages about it begin with.
            pub place: String,
            $(
                /// What the user has named it.
                pub $title: Given<String>,
            )?
            $($(#[doc = $help])+ pub $field: $type,)+
        }

        impl Section for $struct {
            const TABLE: &'static Table = &Table {
                heading: $heading,
                about: concat!($($about, "\n"),+),
                settings: &[$(
                    Setting::new(
                        table!(@key $field $($key)?),
                        concat!($($help, "\n"),+),
                        <$type as Field>::KIND,
                        <$type as Field>::IS_REQUIRED,
                    )$($($more)+)?
                ),+],
                is_named: table!(@is_named $($title)?),
            };

            fn fill(fields: &Fields<'_>) -> Result<Self, ConfigError> {
                Ok(Self {
                    place: fields.place(),
                    $($title: fields.name(),)?
                    $($field: fields.read(table!(@key $field $($key)?))?,)+
                })
            }
        }

        impl Field for $struct {
            const KIND: Kind = Kind::Table(Self::TABLE);

            fn there(at: &At<'_>) -> Result<Self, ConfigError> {
                Self::read(at)
            }

            fn absent() -> Option<Self> {
                Some(Self::default())
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@is_named) => { false };
    (@is_named $title:ident) => { true };
}
pub(super) use table;
