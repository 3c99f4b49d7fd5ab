//! The kinds of work, and the units that they are counted in.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Where targets listen, TCP and UDP alike. Every run has its own network namespace, so all ports are free.
pub const LISTEN: SocketAddr = local(8080);
/// Where proxy serves its metrics.
pub const METRICS: SocketAddr = local(9100);
/// Where the server sends back what it gets, TCP and UDP alike.
pub const ECHO: SocketAddr = local(9000);
/// Where the server sends without end to whoever connects.
pub const SOURCE: SocketAddr = local(9001);

/// Bytes of a request and of its answer, and of a datagram.
pub const MESSAGE: usize = 64;

const fn local(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// 16 streams from server to client
    Bulk,
    /// Connect, 64 bytes there and back, close; 32 at a time
    Short,
    /// 64 bytes there and back on 64 open connections
    Ping,
    /// Datagrams of 64 bytes there and back, 16 flows with 16 each under way
    Udp,
    /// kill -9 of what serves, under 16 streams and 500 new connections a second
    Kill,
}

/// A unit of measure, and what makes it of the base one: units of work a second, or seconds for a unit of work.
#[derive(Clone, Copy)]
pub struct Unit {
    /// As it is written.
    pub name: &'static str,
    /// What to multiply by.
    pub factor: f64,
}

impl Case {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 5] = [Self::Bulk, Self::Short, Self::Ping, Self::Udp, Self::Kill];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Short => "short",
            Self::Ping => "ping",
            Self::Udp => "udp",
            Self::Kill => "kill",
        }
    }

    /// What is done, in a line: its description on the command line.
    pub fn describe(self) -> String {
        let value = self.to_possible_value();
        let help = value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default();
        let mut letters = help.chars();
        letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
    }

    /// Which of the server's addresses it is for.
    pub fn server(self) -> SocketAddr {
        if self == Self::Bulk { SOURCE } else { ECHO }
    }

    /// The unit of rates; the base is units of work a second, a byte being one in `bulk`.
    pub fn rate(self) -> Unit {
        let (name, factor) = match self {
            Self::Bulk => ("Gbit/s", 8e-9),
            Self::Short | Self::Kill => ("connections/s", 1.0),
            Self::Ping => ("requests/s", 1.0),
            Self::Udp => ("echoes/s", 1.0),
        };
        Unit { name, factor }
    }

    /// The unit of processor time for work; the base is seconds for a unit of work.
    pub fn cost(self) -> Unit {
        let (name, factor) = match self {
            Self::Bulk => ("s/GB", 1e9),
            Self::Short | Self::Kill => ("ms per 1,000", 1e6),
            Self::Ping => ("µs per request", 1e6),
            Self::Udp => ("µs per echo", 1e6),
        };
        Unit { name, factor }
    }
}
