//! The blocks of supervisor, seats and workers.

use std::sync::atomic::{
    AtomicI32, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use zerocopy::{FromZeros, KnownLayout};

use super::{
    BUFFERS, BufferCell, CloseOrder, Counted, Counter, Estate, Gauge, HandoverCell, Histogram, LogCounters,
    Lost, MovingPlaces, RECENT_TAKEOVERS, TakeoverCell, Visit, WorkerCounters,
};
use crate::sys::{Fd, process::Child};

/// A pool's state, as the supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PoolState {
    /// No process.
    Dead = 0,
    /// Cloned; not all of its workers have stamped their lease yet.
    Starting = 1,
    /// Serving, or ready to.
    Ready = 2,
    /// The lease of one or more workers has run out.
    Suspect = 3,
    /// Killed; its death is not seen yet.
    Fenced = 4,
}

impl PoolState {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Dead, "dead"),
        (Self::Starting, "starting"),
        (Self::Ready, "ready"),
        (Self::Suspect, "suspect"),
        (Self::Fenced, "fenced"),
    ];

    /// The label value.
    pub fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Why new traffic moved to the other pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverReason {
    /// The pool died.
    Killed,
    /// Its leases ran out.
    Hung,
    /// Somebody asked for it.
    Manual,
}

impl FailoverReason {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Killed, "killed"), (Self::Hung, "hung"), (Self::Manual, "manual")];
}

/// The steps of a takeover, timed each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverStage {
    /// From noticing to the pool's death.
    Fence,
    /// Handing its listening sockets to the other pool.
    Queues,
    /// From its death until the other pool has adopted its flows.
    Adopt,
    /// Closing what nobody adopted.
    Sweep,
    /// From death to a new pool that is ready.
    Reseat,
}

impl TakeoverStage {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Fence, "fence"),
        (Self::Queues, "queues"),
        (Self::Adopt, "adopt"),
        (Self::Sweep, "sweep"),
        (Self::Reseat, "reseat"),
    ];
}

/// How far draining has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DrainState {
    /// Not asked for.
    No = 0,
    /// New connections are refused; old ones go on.
    Draining = 1,
    /// No flow is left.
    Drained = 2,
}

/// An integer cell that names a descriptor or a process; 0 for none.
#[repr(transparent)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct NumberCell(AtomicI32);

impl NumberCell {
    /// The number.
    pub fn get(&self) -> i32 {
        self.0.load(Acquire)
    }

    /// Sets it.
    pub fn set(&self, number: i32) {
        self.0.store(number, Release);
    }

    /// The number as a descriptor.
    pub fn fd(&self) -> Fd {
        Fd::from_raw(self.get())
    }
}

/// A child process of the supervisor, for whoever has to go on in its place.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ChildCell {
    pid: NumberCell,
    pidfd: NumberCell,
}

impl ChildCell {
    /// Its process number; 0 if there is none.
    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// The descriptor of the process; 0 if it is not known yet.
    pub fn pidfd(&self) -> Fd {
        self.pidfd.fd()
    }

    /// Notes a child.
    pub fn set(&self, child: Child) {
        self.pidfd.set(child.pidfd.raw());
        self.pid.set(child.pid);
    }

    /// Notes the number alone, which is what a newborn knows of itself. Answers false if another child is
    /// noted.
    pub fn claim(&self, pid: i32) -> bool {
        match self.pid.0.compare_exchange(0, pid, AcqRel, Acquire) {
            Ok(_) => true,
            Err(noted) => noted == pid,
        }
    }

    /// Forgets it.
    pub fn clear(&self) {
        self.pid.set(0);
        self.pidfd.set(0);
    }
}

/// For how long descriptors count as copied since that was last said, nanoseconds. Whoever has copies is killed sooner,
/// were it by the twin of a supervisor that hangs; counting for longer costs a system call per connection.
const COPIED: u64 = 10_000_000_000;

/// Written by the supervisor.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct SupervisorBlock {
    /// Its process number.
    pub pid: NumberCell,
    /// The gate of the opening windows ([`super::Window`]): 0, or [`super::closed_gate`] while a sweep is looking.
    pub gate: AtomicU32,
    /// 1 if it serves, and not another supervisor that it is to take over from.
    pub serving: AtomicU32,
    /// A [`DrainState`].
    drain: AtomicU32,
    /// While all workers are to stand still ([`WorkerBlock::parked`]): for how long at most, milliseconds; their
    /// bells tell of it. Else 0.
    pub parking: AtomicU32,
    /// When it last looked at the pools, nanoseconds of the monotonic clock.
    pub looked_at: AtomicU64,
    /// Until when it counts on copies of flows' descriptors; 0 if there were none yet.
    copied_until: AtomicU64,
    /// Supervisors that took the place of a dead one.
    pub successions: Counter,
    /// Its twin, which takes its place when it dies.
    pub twin: ChildCell,
    /// The control process.
    pub control: ChildCell,
    /// The epoch of the next pool, less one.
    pub epochs: AtomicU32,
    /// 1 while an administrator wants new traffic to stay at the standby.
    pub pinned: AtomicU32,
    /// Stopping: when patience with old connections ends, nanoseconds of the monotonic clock; 0 if not.
    pub stop_at: AtomicU64,
    /// Control processes started after the first.
    pub control_restarts: Counter,
    /// By [`FailoverReason`].
    pub failovers: [Counter; FailoverReason::ALL.len()],
    /// Deaths of pools that had been ready, or had been left something to adopt: what they carried was
    /// taken over, were it nothing.
    pub takeovers: Counter,
    /// By [`TakeoverStage`].
    pub takeover_duration: [Histogram; TakeoverStage::ALL.len()],
    /// Flows that the sweep cut.
    pub lost: Lost,
    /// Of what dead workers have open to servers.
    pub moving_places: MovingPlaces,
    /// Of its ring of the access log.
    pub log: LogCounters,
    /// Lines that the access log's file did not take; control counts them.
    pub log_failed: Counter,
    /// By number modulo their count.
    pub recent_takeovers: [TakeoverCell; RECENT_TAKEOVERS],
    /// Upgrades and reloads.
    pub handover: HandoverCell,
    /// Processor time of the supervisors that handed over to this one, and of their processes, clock ticks.
    pub ticks_inherited: Counter,
    /// Most processor time that was ever shown, clock ticks; raised by control too.
    pub ticks_shown: AtomicU64,
}

impl Counted for SupervisorBlock {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self {
            pid: _,
            gate: _,
            serving: _,
            drain: _,
            parking: _,
            looked_at: _,
            copied_until: _,
            successions,
            twin: _,
            control: _,
            epochs: _,
            pinned: _,
            stop_at: _,
            control_restarts,
            failovers,
            takeovers,
            takeover_duration,
            lost,
            moving_places: _,
            log,
            log_failed,
            recent_takeovers: _,
            handover,
            // Carried on by the one who knows the time up to now: see `crate::usage`.
            ticks_inherited: _,
            ticks_shown: _,
        } = self;
        visit(&["successions"], successions);
        visit(&["control_restarts"], control_restarts);
        for ((_, reason), count) in FailoverReason::ALL.iter().zip(failovers) {
            visit(&["failovers", reason], count);
        }
        visit(&["takeovers"], takeovers);
        for ((_, stage), durations) in TakeoverStage::ALL.iter().zip(takeover_duration) {
            durations.each_counter(&mut |name, count| visit(&["takeover_duration", stage, name[0]], count));
        }
        lost.each_counter(visit);
        log.each_counter(visit);
        visit(&["log_failed"], log_failed);
        handover.each_counter(visit);
    }
}

impl SupervisorBlock {
    /// To be called before another process gets copies of flows' descriptors, or has them still: it was forked and has
    /// not begun its program, or flows are handed over. It is forgotten by itself, whoever dies.
    pub fn expect_copies(&self, now_ns: u64) {
        self.copied_until.store(now_ns + COPIED, Relaxed);
    }

    /// Whether another process may have copies of flows' descriptors. If so, no close is real: the kernel tells the
    /// peer of it when the last copy is closed.
    pub fn has_copies(&self, now_ns: impl FnOnce() -> u64) -> bool {
        let until = self.copied_until.load(Relaxed);
        until > 0 && now_ns() < until
    }

    /// How far draining has come.
    pub fn drain(&self) -> DrainState {
        match self.drain.load(Acquire) {
            0 => DrainState::No,
            1 => DrainState::Draining,
            _ => DrainState::Drained,
        }
    }

    /// Sets it.
    pub fn set_drain(&self, state: DrainState) {
        self.drain.store(state as u32, Release);
    }
}

/// Written by control.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ControlBlock {
    /// What the workers are to close.
    pub close: CloseOrder,
}

/// Written by the supervisor, one a seat.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct SeatBlock {
    /// The pool's process. A newborn pool writes its number itself.
    pub child: ChildCell,
    /// The pool's epoch.
    pub epoch: AtomicU32,
    state: AtomicU32,
    /// Pools started in this seat after the first.
    pub restarts: Counter,
}

impl Counted for SeatBlock {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { child: _, epoch: _, state: _, restarts } = self;
        visit(&["restarts"], restarts);
    }
}

impl SeatBlock {
    /// The pool's state.
    pub fn state(&self) -> PoolState {
        let number = self.state.load(Acquire) as usize;
        PoolState::ALL.get(number).map_or(PoolState::Dead, |(state, _)| *state)
    }

    /// Sets it.
    pub fn set_state(&self, state: PoolState) {
        self.state.store(state as u32, Release);
    }
}

/// Written by the worker, but for `epoll` and `bell`, which the supervisor sets before it clones the pool;
/// `pipe_gifts` and `pipes_wanted`, by which the two pass pipes on; and `estates`, which the supervisor fills
/// in and the worker works off. Of a dead pool, the supervisor clears it.
#[repr(C, align(128))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct WorkerBlock {
    /// Its epoll set.
    pub epoll: NumberCell,
    /// Its bell: readable when an order in the supervisor's block has changed.
    pub bell: NumberCell,
    /// Its opening window ([`super::Window`]).
    pub opening: AtomicU32,
    /// The socket of another worker's flow that it is using ([`super::Using`]).
    pub using: AtomicU32,
    /// 1 once its loop runs; the supervisor clears it before it clones a pool.
    pub running: AtomicU32,
    /// 1 while it stands still between two turns, because [`SupervisorBlock::parking`] says so.
    pub parked: AtomicU32,
    /// The number of the last order to close that it has carried out.
    pub close_done: AtomicU64,
    /// TCP connections that it has open.
    pub connections: Gauge,
    /// UDP flows that it has open.
    pub udp_flows: Gauge,
    /// 1 while the worker wants pipes.
    pub pipes_wanted: Gauge,
    /// Pipes that the supervisor has made for it; the worker takes one by storing 0.
    pub pipe_gifts: [NumberCell; 16],
    /// Pipes at rest.
    pub pipes_free: Gauge,
    /// Pipes lent to flows.
    pub pipes_lent: Gauge,
    /// What is in its buffers.
    pub buffers: [BufferCell; BUFFERS],
    /// What it has counted.
    pub counters: WorkerCounters,
    /// What dead workers have left to this one.
    pub estates: [Estate; 16],
}
