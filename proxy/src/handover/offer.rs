//! The offer: what there is to be taken over, told before anything stands still.

use std::{
    iter,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use super::FORMAT;
use crate::{
    config::rules::{ListenerRules, ProxyVersion, UpstreamRules},
    slots::Slot,
    table::{HandoverKind, Health, Origin, ServerCell, Wanted},
};

/// The offer. Its descriptors come with it in the order of [`Offer::descriptors`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The rules of its listeners, each once: several have the same. Upstreams in them have its numbers.
    #[serde(default)]
    pub rules: Vec<Arc<ListenerRules>>,
    /// The names of its upstreams, by number.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// Their rules. (A version that does not tell them has none here.)
    #[serde(default)]
    pub upstream_rules: Vec<Arc<UpstreamRules>>,
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
    /// Where it is. Of a unix socket, what stands for it.
    pub address: SocketAddr,
    /// The path of a unix socket.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The name of its upstream.
    pub upstream: String,
    /// Whether a wildcard leaves IPv4 to another listener.
    pub v6_only: bool,
    /// Listening sockets; none if it is retired and done.
    pub sockets: usize,
    /// Connections and flows that are open now.
    pub open: u64,
    /// Which of the rules are its.
    #[serde(default)]
    pub rules: Option<usize>,
    /// Networks of peers that have to begin with a PROXY header, for versions that know no rules.
    #[serde(default)]
    pub accepts_proxy: Vec<String>,
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
    /// The version of the PROXY header that it gets, for versions that know no rules; 0: none.
    #[serde(default)]
    pub send_proxy: u8,
    /// Failures in a row.
    pub failures: u32,
    /// Until when it is passed over, milliseconds of the monotonic clock, wrapping.
    #[serde(default)]
    pub passed_over_until_ms: u32,
    /// Ejections in a row. (A version that does not tell ejects at each failure.)
    #[serde(default)]
    pub ejections: Option<u32>,
    /// Connections and flows that are open now.
    pub open: u64,
    /// Its slot, which flows name it by. (A version without slots names it by its place in the list.)
    #[serde(default)]
    pub slot: Option<u32>,
    /// As the settings give it; `None`: somebody has added it.
    #[serde(default)]
    pub given: Option<String>,
    /// Somebody has added it while the proxy ran.
    #[serde(default)]
    pub is_added: bool,
    /// Its weight.
    #[serde(default)]
    pub weight: u32,
    /// Whether an administrator has given it that.
    #[serde(default)]
    pub is_reweighed: bool,
    /// See [`crate::table::Identity::is_backup`].
    #[serde(default)]
    pub is_backup: bool,
    /// See [`crate::table::Identity::max_connections`].
    #[serde(default)]
    pub max_connections: u32,
    /// Whether an administrator wants it to take nothing new.
    #[serde(default)]
    pub is_drained: bool,
    /// What checks say: 0 unknown, 1 up, 2 down.
    #[serde(default)]
    pub health: u32,
    /// When that changed last, milliseconds of the monotonic clock.
    #[serde(default)]
    pub changed_ms: u64,
    /// Since when its slow start goes on, milliseconds, wrapping; 0: it does not.
    #[serde(default)]
    pub warming_since_ms: u32,
}

impl OfferedServer {
    /// What is told of a server slot.
    pub fn of(slot: &Slot<'_>, open: u64) -> Self {
        let (cell, identity) = (slot.cell, slot.identity);
        Self {
            name: slot.name(),
            upstream: slot.upstream.name.clone(),
            address: identity.address,
            is_retired: slot.is_retired(),
            send_proxy: slot.upstream.rules.send_proxy.map_or(0, ProxyVersion::number),
            failures: cell.state.failures.load(Relaxed),
            passed_over_until_ms: cell.state.passed_over_until_ms.load(Relaxed),
            ejections: Some(cell.state.ejections.load(Relaxed)),
            open,
            slot: Some(slot.number as u32),
            given: slot.settings().map(|settings| settings.given.clone()),
            is_added: identity.origin == Origin::Added,
            weight: cell.weight(),
            is_reweighed: cell.is_reweighed(),
            is_backup: identity.is_backup,
            max_connections: identity.max_connections,
            is_drained: cell.wanted() == Wanted::Drain,
            health: cell.health() as u32,
            changed_ms: cell.changed_ms(),
            warming_since_ms: cell.warming_since_ms().unwrap_or(0),
        }
    }

    /// Enters what was known of it into its slot; `weight` is the settings', if they have it.
    pub fn settle(&self, cell: &ServerCell, weight: Option<u32>) {
        cell.state.passed_over_until_ms.store(self.passed_over_until_ms, Relaxed);
        cell.state.failures.store(self.failures, Relaxed);
        cell.state.ejections.store(self.ejections.unwrap_or(self.failures), Relaxed);
        if self.is_reweighed {
            cell.reweigh(self.weight);
        } else if cell.is_reweighed() {
            // Undone since the offer.
            cell.weigh(weight.unwrap_or(self.weight));
        }
        cell.set_wanted(if self.is_drained { Wanted::Drain } else { Wanted::Ready });
        let known = [Health::Unknown, Health::Up, Health::Down];
        cell.set_health(known.get(self.health as usize).copied().unwrap_or(Health::Unknown), self.changed_ms);
        cell.set_warming(Some(self.warming_since_ms).filter(|since| *since != 0));
    }
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

    /// Upstreams that a listener's traffic goes to: its own, and those of server names. Some come several times.
    pub fn upstreams_of<'a>(&'a self, listener: &'a OfferedListener) -> impl Iterator<Item = &'a str> {
        let rules = listener.rules.and_then(|number| self.rules.get(number));
        let routes = rules.into_iter().flat_map(|rules| &rules.sni).flat_map(|sni| &sni.routes);
        let routed = routes.filter_map(|(_, number)| self.upstreams.get(*number as usize));
        iter::once(&listener.upstream).chain(routed).map(String::as_str)
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
    use std::time::Duration;

    use super::*;
    use crate::config::{
        access::Access,
        rules::{AcceptProxy, Balance, OnDown, ProxyVersion, Rate, SniRoutes},
    };

    fn offer() -> Offer {
        let listener = |is_udp, sockets| OfferedListener {
            name: "db".into(),
            is_udp,
            address: "0.0.0.0:1".parse().unwrap(),
            path: Some("/run/a.sock".into()),
            upstream: "default".into(),
            v6_only: false,
            sockets,
            open: 3,
            rules: Some(0),
            accepts_proxy: vec!["10.0.0.0/8".into()],
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
            rules: vec![Arc::new(rules())],
            upstreams: vec!["default".into(), "by name".into()],
            upstream_rules: vec![Arc::new(upstream_rules()), Arc::default()],
            servers: Vec::new(),
        }
    }

    fn rules() -> ListenerRules {
        let network = "10.0.0.0/8".parse().unwrap();
        ListenerRules {
            access: Access::new(&[network], &[]).unwrap(),
            accept_proxy: Some(AcceptProxy { from: vec![network], timeout: AcceptProxy::TIMEOUT }),
            max_connection_rate: Some(Rate { per_second: 2.5, burst: 3 }),
            idle_timeout: None,
            sni: Some(SniRoutes { routes: vec![("a.example".into(), 1)], timeout: Duration::from_millis(7) }),
            ..ListenerRules::default()
        }
    }

    fn upstream_rules() -> UpstreamRules {
        UpstreamRules {
            balance: Balance::SourceHash,
            send_proxy: Some(ProxyVersion::V2),
            on_down: OnDown::Close,
            queue_timeout: Some(Duration::from_secs(9)),
            ..UpstreamRules::default()
        }
    }

    #[test]
    fn an_offer_is_read_as_it_was_written() {
        let read = Offer::decode(&offer().encode()).unwrap();
        assert_eq!(read, offer());
        let upstreams: Vec<&str> = read.upstreams_of(&read.listeners[0]).collect();
        assert_eq!(upstreams, ["default", "by name"]);
        assert!(Offer::decode(b"{}").unwrap_err().contains("not understood"));
    }

    /// Versions that know no rules take these from their own places.
    #[test]
    fn peers_with_headers_are_told_to_versions_that_know_no_rules() {
        let document: serde_json::Value = serde_json::from_slice(&offer().encode()).unwrap();
        assert_eq!(document["listeners"][0]["accepts_proxy"], serde_json::json!(["10.0.0.0/8"]));
    }

    /// What a version does not know is left out, and what it does not tell is as by default.
    #[test]
    fn rules_of_other_versions_are_understood() {
        let listener = r#"{"max_connections": 5, "something_new": {"a": [1]}}"#;
        let expected = ListenerRules { max_connections: Some(5), ..ListenerRules::default() };
        assert_eq!(serde_json::from_str::<ListenerRules>(listener).unwrap(), expected);
        for (balance, expected) in [
            ("by-the-moon", Balance::RandomTwo),
            ("random-two", Balance::RandomTwo),
            ("source-hash", Balance::SourceHash),
        ] {
            let upstream = format!(r#"{{"balance": "{balance}", "retries": 7}}"#);
            let rules = serde_json::from_str::<UpstreamRules>(&upstream).unwrap();
            assert_eq!((rules.balance, rules.retries), (expected, 7));
        }
        let on_down = |word: &str| serde_json::from_str::<OnDown>(&format!("{word:?}")).unwrap();
        assert_eq!(
            [on_down("close"), on_down("keep"), on_down("ponder")],
            [OnDown::Close, OnDown::Keep, OnDown::Keep]
        );
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
