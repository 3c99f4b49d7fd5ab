//! Settings, checked: what the rest of the program may rely on.

pub mod access;
mod listeners;
mod options;
mod own_listener;
pub mod rules;
#[cfg(test)]
mod tests;
mod unix;
mod upstreams;

use std::{
    fmt,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    cli::{LogFormat, RunArgs},
    settings::Settings,
    sys::{credentials::User, socket::Protocol},
};

pub use crate::settings::ConfigError;
pub use options::STANDARD_OUTPUT;
pub use own_listener::own_listener;
use rules::{AccessLog, ListenerRules, UpstreamRules};
pub use upstreams::{ADDRESSES_OF_A_NAME, MAX_SERVERS, Place, SPARE_SLOTS, ServerSettings};

/// A listener's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// TCP or UDP. Of a unix socket, TCP: what comes by it are connections.
    pub protocol: Protocol,
    /// Where. Of a unix socket, what stands for it.
    pub address: SocketAddr,
    /// The path of a unix socket.
    pub path: Option<&'static Path>,
}

impl ListenAddress {
    /// An IP address.
    pub fn internet(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, path: None }
    }

    /// A unix socket's.
    pub fn unix(path: &'static Path) -> Self {
        Self { protocol: Protocol::Tcp, address: unix::stand_in(path), path: Some(path) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path {
            return write!(formatter, "{}{}", unix::SCHEME, path.display());
        }
        let scheme = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(formatter, "{scheme}://{}", self.address)
    }
}

/// A listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// As it was given; one listener of the settings is as many here as it has addresses.
    pub name: String,
    /// Its address.
    pub address: ListenAddress,
    /// Where its traffic goes: a number of [`Config::upstreams`].
    pub upstream: u32,
    /// The addresses of one listener of the settings are a group, named by the number of the first of them.
    pub group: u32,
    /// Takes no IPv4 traffic, though it is a wildcard: another listener has it.
    pub v6_only: bool,
    /// How its traffic is treated.
    pub rules: Arc<ListenerRules>,
    /// The settings have it no more: nothing new comes in by it, and what is open goes on.
    pub is_retired: bool,
}

/// Servers of which one is as good as the other.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// As it was given.
    pub name: String,
    /// As given, at least one.
    pub servers: Vec<ServerSettings>,
    /// Its server slots: numbers in the flow table ([`crate::slots`]).
    pub slots: Range<usize>,
    /// How they are treated.
    pub rules: Arc<UpstreamRules>,
    /// The settings have it no more: it is there for connections that have come in for it already.
    pub is_retired: bool,
}

/// All settings of a running proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<Listener>,
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// Workers per pool, 1 to [`MAX_WORKERS`].
    pub workers: u32,
    /// A worker's term.
    pub lease: Duration,
    /// Silence after which a pool is fenced; at least the lease.
    pub fence_after: Duration,
    /// Readiness after which new traffic returns to the primary; `None`: only when asked.
    pub failback_after: Option<Duration>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The control socket.
    pub control: PathBuf,
    /// Who pools and control run as; `None`: stay who we are (not root).
    pub user: Option<User>,
    /// What holds for a listener of which the settings say nothing more.
    pub listener_defaults: Arc<ListenerRules>,
    /// The same for an upstream.
    pub upstream_defaults: Arc<UpstreamRules>,
    /// Limit on open connections; `None`: as many as descriptors allow.
    pub max_connections: Option<usize>,
    /// Limit on UDP flows; `None`: as many as descriptors allow.
    pub max_flows: Option<usize>,
    /// Limit on draining.
    pub drain_timeout: Duration,
    /// How to log; `None`: by what stderr is.
    pub log_format: Option<LogFormat>,
    /// Where connections are told of; `None`: nowhere.
    pub access_log: Option<AccessLog>,
}

impl Listener {
    /// Whether some of its traffic goes to the upstream of this number.
    pub fn leads_to(&self, upstream: u32) -> bool {
        let mut routes = self.rules.sni.iter().flat_map(|sni| &sni.routes);
        self.upstream == upstream || routes.any(|(_, number)| *number == upstream)
    }
}

impl Config {
    /// Reads and checks the settings of `run` and `check`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn from_args(args: &RunArgs) -> Result<Self, ConfigError> {
        Self::of(&Settings::of(args)?)
    }

    /// Checks settings.
    ///
    /// # Errors
    /// The first one that cannot be.
    pub fn of(settings: &Settings) -> Result<Self, ConfigError> {
        let Settings { defaults, standby, metrics, .. } = settings;
        let (fence_after, user) = (options::fence_after(standby)?, options::user(defaults)?);
        let access_log = settings.access_log.as_ref().map(options::access_log).transpose()?;
        let listeners = listeners::all(settings)?;
        let upstreams = upstreams::all(settings, &listeners)?;
        let mut config = Self {
            listeners,
            upstreams,
            workers: options::workers(defaults),
            lease: options::lease(standby),
            fence_after,
            failback_after: options::failback_after(standby),
            metrics: options::value(&metrics.listen),
            control: options::control(defaults),
            user,
            listener_defaults: Arc::new(rules::listener::common(defaults)),
            upstream_defaults: Arc::new(rules::upstream::common(defaults)),
            max_connections: options::value(&defaults.max_connections),
            max_flows: options::value(&defaults.max_flows),
            drain_timeout: options::drain_timeout(defaults),
            log_format: options::value(&defaults.log_format),
            access_log,
        };
        config.group_listeners();
        Ok(config)
    }

    /// Gives each listener its group. To be called again when listeners were added.
    pub fn group_listeners(&mut self) {
        for number in 0..self.listeners.len() {
            let name = &self.listeners[number].name;
            let first = self.listeners.iter().position(|listener| listener.name == *name);
            self.listeners[number].group = first.unwrap_or(number) as u32;
        }
    }

    /// The group of a listener; its own number if there is no such listener.
    pub fn group(&self, listener: u32) -> u32 {
        self.listeners.get(listener as usize).map_or(listener, |listener| listener.group)
    }

    /// Whether any listener limits what each client has open.
    pub fn counts_sources(&self) -> bool {
        self.listeners.iter().any(|listener| listener.rules.max_connections_per_source.is_some())
    }

    /// The rules of a listener; the defaults if there is no such listener.
    pub fn rules(&self, listener: u32) -> &ListenerRules {
        self.listeners.get(listener as usize).map_or(&self.listener_defaults, |listener| &listener.rules)
    }

    /// The rules of the upstream that a listener's traffic goes to; the defaults if there is none.
    pub fn upstream_rules(&self, listener: u32) -> &UpstreamRules {
        self.upstream_of(listener).map_or(&self.upstream_defaults, |(_, upstream)| &upstream.rules)
    }

    /// The number of the upstream that a listener's traffic goes to, and that; `None` if there is no such listener.
    pub fn upstream_of(&self, listener: u32) -> Option<(usize, &Upstream)> {
        let number = self.listeners.get(listener as usize)?.upstream as usize;
        self.upstreams.get(number).map(|upstream| (number, upstream))
    }

    /// The number of the upstream that a server slot belongs to, and that.
    pub fn upstream_of_slot(&self, slot: usize) -> Option<(usize, &Upstream)> {
        // Slots are laid out in the order of the upstreams.
        let number = self.upstreams.partition_point(|upstream| upstream.slots.end <= slot);
        let upstream = self.upstreams.get(number).filter(|upstream| upstream.slots.contains(&slot))?;
        Some((number, upstream))
    }

    /// Whether the access log is to be told of a listener's connections and flows.
    pub fn logs(&self, listener: u32) -> bool {
        let is_logged = |listener: &Listener| listener.rules.access_log;
        self.access_log.is_some() && self.listeners.get(listener as usize).is_some_and(is_logged)
    }

    /// Server slots of all upstreams.
    pub fn slots(&self) -> usize {
        self.upstreams.last().map_or(0, |upstream| upstream.slots.end)
    }

    /// Gives each upstream its slots. To be called again when servers or upstreams were added.
    pub fn lay_out_slots(&mut self) {
        upstreams::lay_out_slots(&mut self.upstreams);
    }

    /// Whether some upstream's servers are to see clients' own addresses.
    pub fn has_transparent(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.rules.transparent)
    }
}
