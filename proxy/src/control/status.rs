//! The answer to `status`. Its keys are a contract (more may be added); a client of another version
//! reads what it knows and takes the default for what it misses.

mod servers;

use serde::{Deserialize, Serialize};

use super::{
    takeovers::{self, TakeoverStatus},
    view::{SEAT_NAMES, View, leases, supervisor_is_up},
};
use crate::{
    config::Listener,
    sys::{socket::Protocol, time},
    table::{Counter, DrainState, HandoverCell, LostReason, Table},
};

pub use servers::{CheckStatus, NameStatus, ServerStatus, UpstreamList, UpstreamStatus, upstream};

const NS_PER_MS: u64 = 1_000_000;

/// The whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The supervisor.
    pub supervisor: SupervisorStatus,
    /// The seat that the kernel would choose now.
    pub serving: Option<String>,
    /// Primary and standby.
    pub pools: Vec<PoolStatus>,
    /// Times that new traffic moved to the other pool.
    pub failovers: u64,
    /// Deaths of pools that had been ready or had something to adopt: another took over what they left.
    pub takeovers: u64,
    /// Established connections and flows that were lost, of all times.
    pub lost_flows: u64,
    /// The last eight of them, the newest first.
    pub recent_takeovers: Vec<TakeoverStatus>,
    /// Handing over to another supervisor.
    pub upgrade: UpgradeStatus,
    /// `no`, `draining`, `drained`.
    pub draining: String,
    /// Longest time that `stop` lets connections go on.
    pub drain_timeout_ms: u64,
    /// In the order of the settings.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of the settings.
    pub servers: Vec<ServerStatus>,
    /// Names that servers are given by.
    pub names: Vec<NameStatus>,
    /// The process that answers.
    pub control: ControlStatus,
}

/// The supervisor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupervisorStatus {
    /// Process number.
    pub pid: i32,
    /// Of the program.
    pub version: String,
    /// Whether it looks after the pools.
    pub up: bool,
    /// Process number of the twin that takes its place when it dies, while there is one.
    pub twin_pid: Option<i32>,
    /// Times that a twin has done so.
    pub successions: u64,
}

/// Upgrades and reloads: the last one, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeStatus {
    /// Of the last one, counted from 1; 0: there was none.
    pub number: u64,
    /// `upgrade` or `reload`.
    pub kind: String,
    /// `none`, `preparing`, `moving`, `done`, `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// How long no byte was moved in the last that was done, microseconds.
    pub gap_us: u64,
    /// How many were done, of all times.
    pub done: u64,
    /// How many failed, of all times.
    pub failed: u64,
}

/// The control process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlStatus {
    /// Process number.
    pub pid: i32,
    /// Control processes started after the first.
    pub restarts: u64,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// `primary` or `standby`.
    pub seat: String,
    /// Process number, while there is a process.
    pub pid: Option<i32>,
    /// The incarnation's number.
    pub epoch: u32,
    /// `starting`, `ready`, `suspect`, `fenced`, `dead`.
    pub state: String,
    /// Whether the kernel may choose it: its liveness bit is set and a worker's lease goes on.
    pub live: bool,
    /// The shortest of its workers' leases; 0 if one has run out.
    pub lease_remaining_ms: u64,
    /// Open TCP connections.
    pub connections: u64,
    /// Open UDP flows.
    pub udp_flows: u64,
    /// Pools started in this seat after the first.
    pub restarts: u64,
    /// By number.
    pub workers: Vec<WorkerStatus>,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// What is left of its lease.
    pub lease_remaining_ms: u64,
    /// Open TCP connections.
    pub connections: u64,
    /// Open UDP flows.
    pub udp_flows: u64,
    /// TCP connections accepted in this seat by this worker's number, of all times.
    pub accepted: u64,
}

/// A listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenerStatus {
    /// As given: the addresses of one listener have one name.
    pub name: String,
    /// As given.
    pub address: String,
    /// The name of the upstream that its traffic goes to.
    pub upstream: String,
    /// The settings have it no more: what is open goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// TCP: connections that wait to be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_queue_length: Option<u64>,
    /// UDP: bytes that wait to be received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_queue_bytes: Option<u64>,
    /// Open connections or flows.
    pub open: u64,
    /// Connections accepted or flows begun, of all times.
    pub total: u64,
    /// TCP: connections that wait for an upstream server.
    pub waiting: u64,
}

impl Status {
    /// Reads it.
    pub(super) fn of(view: &View<'_>) -> Self {
        let block = view.table.supervisor();
        let name_of = |seat: u32| SEAT_NAMES[seat as usize].1.to_owned();
        Self {
            supervisor: SupervisorStatus {
                pid: block.pid.get(),
                version: env!("CARGO_PKG_VERSION").into(),
                up: supervisor_is_up(view.table),
                twin_pid: Some(block.twin.pid()).filter(|pid| *pid > 0),
                successions: block.successions.get(),
            },
            serving: view.serving().map(name_of),
            pools: SEAT_NAMES.map(|(seat, name)| pool(view, seat, name)).into(),
            failovers: block.failovers.iter().map(|count| count.get()).sum(),
            takeovers: block.takeovers.get(),
            lost_flows: lost_flows(&view.table),
            recent_takeovers: takeovers::recent(block, time::monotonic_ns()),
            upgrade: upgrade(&block.handover),
            draining: drain_word(block.drain()).into(),
            drain_timeout_ms: view.config.drain_timeout.as_millis() as u64,
            listeners: view
                .config
                .listeners
                .iter()
                .enumerate()
                .map(|(number, given)| listener(view, number, given))
                .collect(),
            servers: servers::servers(view),
            names: servers::names(view),
            control: ControlStatus { pid: std::process::id() as i32, restarts: block.control_restarts.get() },
        }
    }
}

fn lost_flows(table: &Table) -> u64 {
    LostReason::ALL.iter().flat_map(|(reason, _)| table.lost(*reason)).sum()
}

fn upgrade(cell: &HandoverCell) -> UpgradeStatus {
    let sum = |counts: &[Counter]| counts.iter().map(Counter::get).sum();
    UpgradeStatus {
        number: cell.number.get(),
        kind: cell.kind().label().into(),
        state: cell.state().label().into(),
        error: Some(cell.reason()).filter(|why| !why.is_empty()),
        gap_us: cell.gap_us.get(),
        done: sum(&cell.done),
        failed: sum(&cell.failed),
    }
}

fn drain_word(state: DrainState) -> &'static str {
    match state {
        DrainState::No => "no",
        DrainState::Draining => "draining",
        DrainState::Drained => "drained",
    }
}

fn pool(view: &View<'_>, seat: u32, name: &str) -> PoolStatus {
    let (block, liveness) = (view.table.seat(seat), view.steering.liveness());
    let leases: Vec<u64> = leases(&liveness, seat, time::monotonic_ns()).collect();
    let lanes = (0..view.table.dimensions().workers as u32).zip(&leases);
    let workers: Vec<WorkerStatus> = lanes.map(|(number, &left)| worker(view, seat, number, left)).collect();
    PoolStatus {
        seat: name.into(),
        pid: Some(block.child.pid()).filter(|pid| *pid > 0),
        epoch: block.epoch.load(std::sync::atomic::Ordering::Relaxed),
        state: block.state().label().into(),
        live: liveness.seats[seat as usize].live != 0 && leases.iter().any(|left| *left > 0),
        lease_remaining_ms: leases.iter().copied().min().unwrap_or(0) / NS_PER_MS,
        connections: workers.iter().map(|worker| worker.connections).sum(),
        udp_flows: workers.iter().map(|worker| worker.udp_flows).sum(),
        restarts: block.restarts.get(),
        workers,
    }
}

fn worker(view: &View<'_>, seat: u32, worker: u32, lease_ns: u64) -> WorkerStatus {
    let block = view.table.worker(seat, worker);
    WorkerStatus {
        lease_remaining_ms: lease_ns / NS_PER_MS,
        connections: block.connections.get(),
        udp_flows: block.udp_flows.get(),
        accepted: block.counters.accepted.get() + view.table.inherited_worker(seat, worker).accepted.get(),
    }
}

fn listener(view: &View<'_>, number: usize, listener: &Listener) -> ListenerStatus {
    let is_tcp = listener.address.protocol == Protocol::Tcp;
    let upstream = view.config.upstreams.get(listener.upstream as usize);
    ListenerStatus {
        name: listener.name.clone(),
        address: listener.address.to_string(),
        upstream: upstream.map(|upstream| upstream.name.clone()).unwrap_or_default(),
        retired: listener.is_retired,
        accept_queue_length: (is_tcp && listener.address.path.is_none()).then(|| view.accept_queue(number)),
        receive_queue_bytes: (!is_tcp).then(|| view.receive_queue(number).0),
        open: view.sum_listener(number, |counters| counters.open.get()),
        total: view.sum_listener(number, |counters| counters.accepted.get()),
        waiting: view.sum_listener(number, |counters| counters.waiting.get()),
    }
}
