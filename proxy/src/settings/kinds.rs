//! Each kind of value, as it is read from a settings file.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    ConfigError, Given,
    read::{At, Field, Fields, Section, Value},
    table::{Kind, Size},
    values::{
        self, Balance, Bandwidth, Bytes, CheckKind, Congestion, Frequency, OnDown, Patience, ProxyVersion,
    },
};
use crate::cli::LogFormat;

impl<T: Section> Value for T {
    const KIND: Kind = Kind::Table(T::TABLE);

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        T::fill(&Fields::of(at, T::TABLE)?)
    }
}

impl<T: Value> Field for Option<T> {
    const KIND: Kind = T::KIND;

    fn there(at: &At<'_>) -> Result<Self, ConfigError> {
        T::read(at).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Tables: by their names if they have any, else as a list.
impl<T: Section> Field for Vec<T> {
    const KIND: Kind = Kind::Tables(T::TABLE);

    fn there(at: &At<'_>) -> Result<Self, ConfigError> {
        match T::TABLE.is_named {
            true => at.named()?.map(|at| T::read(&at)).collect(),
            false => at.list()?.map(|at| T::read(&at)).collect(),
        }
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}

impl<T: Value> Field for Given<T> {
    const KIND: Kind = T::KIND;
    const IS_REQUIRED: bool = true;

    fn there(at: &At<'_>) -> Result<Self, ConfigError> {
        Self::read(at)
    }

    fn absent() -> Option<Self> {
        None
    }
}

/// Within its range.
impl<T: Value> Value for Given<T> {
    const KIND: Kind = T::KIND;

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let given = Self { value: T::read(at)?, place: at.place() };
        at.setting.check(&given)?;
        Ok(given)
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        at.list()?.map(|at| T::read(&at)).collect()
    }
}

impl Value for bool {
    const KIND: Kind = Kind::Bool;

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        at.value.get_ref().as_bool().ok_or_else(|| at.is_not("true or false"))
    }
}

impl Value for Bytes {
    const KIND: Kind = Kind::Bytes;

    fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        match at.value.get_ref() {
            DeValue::String(text) => Ok(Self(text.as_bytes().into())),
            DeValue::Array(_) => at.list()?.map(|at| at.number::<u8>()).collect::<Result<_, _>>().map(Self),
            _ => Err(at.is_not("text, or a list of bytes,")),
        }
    }
}

/// Whole numbers.
macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::Number;

            fn read(at: &At<'_>) -> Result<Self, ConfigError> {
                at.number()
            }

            fn size(&self) -> Size {
                Size::Number(*self as u64)
            }
        }
    )+};
}
numbers!(u16, u32, usize);

/// What is written as text.
macro_rules! texts {
    ($($type:ty: $kind:ident, $parse:expr, $size:expr;)+) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::$kind;

            fn read(at: &At<'_>) -> Result<Self, ConfigError> {
                at.parsed($parse)
            }

            fn size(&self) -> Size {
                let size: fn(&Self) -> Size = $size;
                size(self)
            }
        }
    )+};
}
texts! {
    String: Text, |text| Ok(text.into()), |_| Size::None;
    PathBuf: Text, |text| Ok(text.into()), |_| Size::None;
    SocketAddr: Address, values::ip_port, |_| Size::None;
    IpNet: Network, values::network, |_| Size::None;
    Duration: Duration, values::duration, |time| Size::Time(*time);
    Patience: Patience, values::duration_or_never, |patience| patience.0.map_or(Size::None, Size::Time);
    Frequency: Rate, values::frequency, |_| Size::None;
    Bandwidth: Bandwidth, values::bandwidth, |bandwidth| Size::Number(bandwidth.0);
}

/// One of a few words.
macro_rules! choices {
    ($($type:ty, $what:literal: $($word:literal $variant:ident),+;)+) => {$(
        impl Value for $type {
            const KIND: Kind = Kind::Choice(&[$($word),+]);

            fn read(at: &At<'_>) -> Result<Self, ConfigError> {
                match at.text()? {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(at.bad(concat!("is no ", $what))),
                }
            }
        }

        impl $type {
            /// As it is written.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }
    )+};
}
choices! {
    LogFormat, "format of logs": "text" Text, "json" Json;
    Balance, "way to choose a server": "random-two" RandomTwo, "round-robin" RoundRobin,
        "least-connections" LeastConnections, "source-hash" SourceHash;
    ProxyVersion, "version of the PROXY protocol": "v1" V1, "v2" V2;
    OnDown, "way to treat connections": "keep" Keep, "close" Close;
    Congestion, "way to choose": "auto" Auto, "system" System;
    CheckKind, "kind of check": "tcp" Tcp, "http" Http, "udp" Udp, "exec" Exec;
}
