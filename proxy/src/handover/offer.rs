//! The offer: what there is to be taken over, told before anything stands still.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::FORMAT;
use crate::table::HandoverKind;

/// The offer. Its descriptors come with it in the order of [`Offer::descriptors`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`FORMAT`] of the old supervisor.
    pub format: u32,
    /// Its version.
    pub version: String,
    /// The handover's number, counted from 1.
    pub number: u64,
    /// Whether it is an upgrade, else a reload.
    pub is_upgrade: bool,
    /// The binary that the next upgrade starts, unless it is told another one.
    pub binary: PathBuf,
    /// Epochs that pools have had so far.
    pub epochs: u32,
    /// Its control socket.
    pub control: PathBuf,
    /// Where its metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Its listeners, by number.
    pub listeners: Vec<OfferedListener>,
    /// Its upstream servers, by number.
    pub servers: Vec<OfferedServer>,
}

/// A listener of the old supervisor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedListener {
    /// As in the settings.
    pub name: String,
    /// Whether it is UDP, else TCP.
    pub is_udp: bool,
    /// Where it is.
    pub address: SocketAddr,
    /// The name of its upstream.
    pub upstream: String,
    /// Whether a wildcard leaves IPv4 to another listener.
    pub v6_only: bool,
    /// Listening sockets; none if it is retired and done.
    pub sockets: usize,
    /// Connections and flows that are open now.
    pub open: u64,
}

/// A server of the old supervisor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedServer {
    /// As in metrics and status.
    pub name: String,
    /// The upstream that it belongs to.
    pub upstream: String,
    /// Where it is.
    pub address: SocketAddr,
    /// The settings have it no more.
    pub is_retired: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Until when it is passed over, milliseconds of the monotonic clock, wrapping.
    #[serde(default)]
    pub passed_over_until_ms: u32,
    /// Connections and flows that are open now.
    pub open: u64,
}

/// Descriptors of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered<T> {
    /// The memory of the word that decides.
    pub decision: T,
    /// The control socket and what locks its place.
    pub control: [T; 2],
    /// The metrics listener.
    pub metrics: Option<T>,
    /// Listening sockets, by listener.
    pub sockets: Vec<Vec<T>>,
}

impl Offer {
    /// What kind of handover it is.
    pub fn kind(&self) -> HandoverKind {
        if self.is_upgrade { HandoverKind::Upgrade } else { HandoverKind::Reload }
    }

    /// As a document.
    pub fn encode(&self) -> Vec<u8> {
        // Maps with keys that are not text, the one thing that cannot be written, are nowhere in it.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Why it is not understood, for people.
    pub fn decode(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            version: String,
        }
        let garbled = |error| format!("the running proxy's offer is not understood: {error}");
        let head: Head = serde_json::from_slice(document).map_err(garbled)?;
        if head.format != FORMAT {
            return Err(format!(
                "the running proxy (version {}) hands over in format {}, and this binary (version {}) understands \
                 format {FORMAT}; use a binary between the two, or drain, stop and start",
                head.version,
                head.format,
                env!("CARGO_PKG_VERSION"),
            ));
        }
        serde_json::from_slice(document).map_err(garbled)
    }

    /// Puts descriptors that came with it in their places.
    ///
    /// # Errors
    /// There are fewer or more than it tells.
    pub fn descriptors<T: Copy>(&self, all: &[T]) -> Result<Offered<T>, String> {
        let mut rest = all.iter().copied();
        let mut next = || rest.next().ok_or("the running proxy's offer lacks descriptors");
        let (decision, control) = (next()?, [next()?, next()?]);
        let metrics = if self.metrics.is_some() { Some(next()?) } else { None };
        let mut of = |listener: &OfferedListener| (0..listener.sockets).map(|_| next()).collect();
        let sockets = self.listeners.iter().map(&mut of).collect::<Result<_, _>>()?;
        Ok(Offered { decision, control, metrics, sockets })
    }
}

impl<T: Copy> Offered<T> {
    /// All, in the order that [`Offer::descriptors`] reads them in.
    pub fn in_order(&self) -> Vec<T> {
        let first = [self.decision, self.control[0], self.control[1]];
        first.into_iter().chain(self.metrics).chain(self.sockets.iter().flatten().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        let listener = |is_udp, sockets| OfferedListener {
            name: "db".into(),
            is_udp,
            address: "0.0.0.0:1".parse().unwrap(),
            upstream: "default".into(),
            v6_only: false,
            sockets,
            open: 3,
        };
        Offer {
            format: FORMAT,
            version: "0.1.0".into(),
            number: 1,
            is_upgrade: true,
            binary: "/usr/bin/proxy".into(),
            epochs: 2,
            control: "/run/proxy/proxy.sock".into(),
            metrics: Some("127.0.0.1:9100".parse().unwrap()),
            listeners: vec![listener(false, 4), listener(true, 2)],
            servers: Vec::new(),
        }
    }

    #[test]
    fn an_offer_is_read_as_it_was_written() {
        assert_eq!(Offer::decode(&offer().encode()).unwrap(), offer());
        assert!(Offer::decode(b"{}").unwrap_err().contains("not understood"));
    }

    #[test]
    fn another_format_is_refused_whatever_else_it_says() {
        let error = Offer::decode(br#"{"format": 9, "version": "7.0", "what": [1]}"#).unwrap_err();
        assert!(error.contains("version 7.0") && error.contains("format 9"), "{error}");
    }

    #[test]
    fn descriptors_have_their_places() {
        let offered = Offered {
            decision: 1,
            control: [2, 3],
            metrics: Some(4),
            sockets: vec![vec![5, 6, 7, 8], vec![9, 10]],
        };
        let all = offered.in_order();
        assert_eq!(all, (1..=10).collect::<Vec<_>>());
        assert_eq!(offer().descriptors(&all).unwrap(), offered);
        assert!(offer().descriptors(&all[1..]).unwrap_err().contains("lacks"));
    }
}
