//! `proxy status --json`, typed. Keys that tests do not look at are left out.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// The parent process.
    pub supervisor: Supervisor,
    /// The seat that the kernel would choose now.
    pub serving: Option<String>,
    /// Primary and standby.
    pub pools: Vec<Pool>,
    /// Times that new traffic moved, for whatever reason.
    pub failovers: u64,
    /// Times that flows were adopted.
    pub takeovers: u64,
    /// The last of them, the newest first.
    pub recent_takeovers: Vec<Takeover>,
    /// `no`, `draining` or `drained`.
    pub draining: String,
    /// What is listened on.
    pub listeners: Vec<Listener>,
    /// Upstream servers; versions before names are looked up anew tell less of them.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Names of servers.
    #[serde(default)]
    pub names: Vec<Name>,
    /// The last upgrade or reload; versions that know none tell of none.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// The process that answers.
    pub control: Control,
}

/// Numbers by protocol and then by what they are about.
pub type ByProtocol = BTreeMap<String, BTreeMap<String, u64>>;

/// One takeover.
#[derive(Clone, Debug, Deserialize)]
pub struct Takeover {
    /// Counted from 1.
    pub number: u64,
    /// When the death was seen.
    pub seconds_ago: f64,
    /// The same, RFC 3339.
    pub time: String,
    /// The dead pool's.
    pub seat: String,
    /// The dead pool's.
    pub epoch: u64,
    /// `killed` or `hung`.
    pub reason: String,
    /// Such as `signal 9`, once it is known.
    pub ending: Option<String>,
    /// How long, by stage.
    pub stages_ms: BTreeMap<String, f64>,
    /// Flows carried on, by protocol and state.
    pub adopted: ByProtocol,
    /// Flows lost, by protocol and reason.
    pub lost: ByProtocol,
}

/// The parent process.
#[derive(Clone, Debug, Deserialize)]
pub struct Supervisor {
    /// Its number.
    pub pid: i32,
    /// Its version.
    pub version: String,
    /// Whether it looks after the pools.
    pub up: bool,
    /// The number of its twin, while there is one.
    pub twin_pid: Option<i32>,
    /// Times that a twin has taken its place.
    pub successions: u64,
}

/// The process that answers.
#[derive(Clone, Debug, Deserialize)]
pub struct Control {
    /// Its number.
    pub pid: i32,
}

/// One pool.
#[derive(Clone, Debug, Deserialize)]
pub struct Pool {
    /// `primary` or `standby`.
    pub seat: String,
    /// Its number, while there is a process.
    pub pid: Option<i32>,
    /// The incarnation.
    pub epoch: u64,
    /// starting, ready, suspect, fenced or dead.
    pub state: String,
    /// The liveness bit.
    pub live: bool,
    /// What is left of the lease, milliseconds.
    pub lease_remaining_ms: i64,
    /// Open TCP connections.
    pub connections: u64,
    /// UDP flows.
    pub udp_flows: u64,
}

/// One upstream server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    /// As given, with the address if that was a name.
    pub name: String,
    /// Where.
    pub address: String,
    /// The name of its upstream.
    pub upstream: String,
    /// up, unknown, ejected, down, draining or retired.
    pub state: String,
    /// Its share.
    pub weight: u32,
    /// Whether that is by order.
    pub reweighed: bool,
    /// Whether it is there by order.
    pub added: bool,
    /// Open connections and flows.
    pub open: u64,
    /// The last check.
    pub check: Option<Check>,
}

/// A check that was done.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Check {
    /// What is wrong.
    pub error: Option<String>,
}

/// A name of servers.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Name {
    /// As given.
    pub name: String,
    /// How many addresses it has.
    pub addresses: usize,
    /// How long ago it was answered.
    pub answered_ms: Option<u64>,
    /// What is wrong with the last look-up.
    pub error: Option<String>,
}

/// Upgrades and reloads.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Upgrade {
    /// The last one, counted from 1.
    pub number: u64,
    /// `upgrade` or `reload`.
    pub kind: String,
    /// `none`, `preparing`, `moving`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// How long nothing was relayed, microseconds.
    pub gap_us: u64,
    /// How many were done.
    pub done: u64,
    /// How many failed.
    pub failed: u64,
}

/// One listener.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    /// Of the settings file, or `default`.
    pub name: String,
    /// As given to `--listen`.
    pub address: String,
    /// Where it goes.
    pub upstream: String,
    /// Connections that wait for a server; versions that know none tell of none.
    #[serde(default)]
    pub waiting: u64,
}

impl Status {
    /// The pool in this seat.
    #[track_caller]
    pub fn pool(&self, seat: &str) -> &Pool {
        let found = self.pools.iter().find(|pool| pool.seat == seat);
        found.unwrap_or_else(|| panic!("no seat {seat} in {self:?}"))
    }

    /// The server at this address.
    #[track_caller]
    pub fn server(&self, address: &str) -> &Server {
        let found = self.servers.iter().find(|server| server.address == address);
        found.unwrap_or_else(|| panic!("no server {address} in {:?}", self.servers))
    }

    /// The state of the server at this address; `None` if there is none.
    pub fn state_of(&self, address: &str) -> Option<&str> {
        let found = self.servers.iter().find(|server| server.address == address);
        found.map(|server| server.state.as_str())
    }

    /// The pid of the pool in this seat.
    #[track_caller]
    pub fn pid(&self, seat: &str) -> i32 {
        self.pool(seat).pid.unwrap_or_else(|| panic!("no process in the seat {seat}: {self:?}"))
    }

    /// Whether this seat serves.
    pub fn serves(&self, seat: &str) -> bool {
        self.serving.as_deref() == Some(seat)
    }

    /// Whether the pool in this seat is ready.
    pub fn ready(&self, seat: &str) -> bool {
        self.pool(seat).state == "ready"
    }

    /// Whether both pools are ready and the supervisor has its twin.
    pub fn protected(&self) -> bool {
        self.whole() && self.supervisor.up && self.supervisor.twin_pid.is_some()
    }

    /// Whether both pools are ready.
    pub fn whole(&self) -> bool {
        self.pools.len() == 2 && self.pools.iter().all(|pool| pool.state == "ready")
    }
}
