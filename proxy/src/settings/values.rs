//! How values are written, on the command line and in the settings file alike.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A duration, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Option<Duration>);

/// A duration with its unit, longer than 0.
///
/// # Errors
/// What is wrong, and what it looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".into()),
        Ok(duration) => Ok(duration),
        Err(_) if text.parse::<f64>().is_ok() => Err(format!("needs a unit, such as {text}ms or {text}s")),
        Err(error) => Err(format!("{error}; a duration looks like 100ms, 5s or 1m30s")),
    }
}

/// A duration as in [`duration`], or `never`.
///
/// # Errors
/// As there.
pub fn duration_or_never(text: &str) -> Result<Patience, String> {
    match text {
        "never" => Ok(Patience(None)),
        _ => match duration(text) {
            Ok(duration) => Ok(Patience(Some(duration))),
            Err(error) => Err(format!("{error}, or never")),
        },
    }
}

/// An address and a port.
///
/// # Errors
/// What it looks like.
pub fn ip_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no IP:PORT; it looks like 127.0.0.1:9100".into())
}

/// Connections a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Frequency(pub f64);

/// A number a second, a minute or an hour, such as `100/s`.
///
/// # Errors
/// What it looks like.
pub fn frequency(text: &str) -> Result<Frequency, String> {
    const WRONG: &str = "is no rate; it looks like 100/s, 10/m or 5/h, the number from 1 to 4294967295";
    let (number, unit) = text.split_once('/').ok_or(WRONG)?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(WRONG.into()),
    };
    match number.trim().parse::<u32>() {
        Ok(number) if number > 0 => Ok(Frequency(f64::from(number) / seconds)),
        _ => Err(WRONG.into()),
    }
}

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth(pub u64);

/// Bytes a second, with a unit, such as `10MiB/s`.
///
/// # Errors
/// What it looks like.
pub fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    const WRONG: &str =
        "is no bandwidth; it looks like 500KB/s, 10MiB/s or 1GB/s (a KB is 1000 bytes, a KiB 1024)";
    const UNITS: [(&str, u64); 7] = [
        ("B", 1),
        ("KB", 1000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
    ];
    let amount = text.strip_suffix("/s").ok_or(WRONG)?.trim();
    let digits = amount.find(|char: char| !char.is_ascii_digit()).ok_or(WRONG)?;
    let (number, unit) = amount.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim())).ok_or(WRONG)?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit.1));
    bytes.map(Bandwidth).ok_or_else(|| WRONG.into())
}

/// An address, or a network as ADDRESS/BITS; bits of a host in it are not looked at.
///
/// # Errors
/// What it looks like.
pub fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    match network {
        None => Err("is no network; it looks like 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32".into()),
        Some(IpNet::V6(v6)) if v6.addr().to_ipv4_mapped().is_some() => {
            Err("is IPv4 in IPv6 form; write it as IPv4".into())
        }
        Some(network) => Ok(network.trunc()),
    }
}

/// Bytes that are sent, or looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// Kinds of health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection.
    Tcp,
    /// A request.
    Http,
    /// A datagram.
    Udp,
    /// A program.
    Exec,
}

/// Which of the fit servers a new connection goes to, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest open connections.
    LeastConnections,
    /// The same one for the same client address, as long as it is there.
    SourceHash,
    /// Of two random ones, the one with fewer open connections. (Of another version, also what
    /// this one does not know.)
    #[serde(other)]
    RandomTwo,
}

/// Versions of the PROXY protocol (HAProxy's doc/proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyVersion {
    /// A line of text; TCP only.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version of a number; `None` if there is no such version.
    pub fn of_number(number: u8) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|version| version.number() == number)
    }
}

/// What becomes of open connections to a server that is down by its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// They are reset.
    Close,
    /// They go on. (Of another version, also what this one does not know.)
    #[serde(other)]
    Keep,
}

/// Who chooses how TCP sockets send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// The kernel, for all of them.
    System,
    /// The kernel, but nothing is paced between programs of this machine. (Of another version, also what this one does
    /// not know.)
    #[serde(other)]
    Auto,
}

impl Congestion {
    /// Whether a socket of this address, its own or its peer's, is not to be paced.
    pub fn is_unpaced(self, address: SocketAddr) -> bool {
        self == Self::Auto && address.ip().to_canonical().is_loopback()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration_or_never("never"), Ok(Patience(None)));
        assert!(duration("100").unwrap_err().contains("needs a unit, such as 100ms"));
        assert!(duration("0s").unwrap_err().contains("more than 0"));
        assert!(duration("soon").unwrap_err().contains("looks like"));
        assert!(duration_or_never("nevr").unwrap_err().ends_with("1m30s, or never"));
    }

    #[test]
    fn an_address_has_ip_and_port() {
        assert_eq!(ip_port("[::1]:9100"), Ok("[::1]:9100".parse().unwrap()));
        assert!(ip_port("9100").unwrap_err().contains("looks like 127.0.0.1:9100"));
    }
}
