//! The twin: a clone of the supervisor that waits for its death and goes on in its place.
//!
//! It shares the descriptor table, so it has every descriptor, and has the supervisor's memory as it
//! was at the clone. What has changed since is in the flow table: the pools' processes and states, what
//! they left, drain and order. The pools are not its children, but a pidfd tells of any process's
//! death, and the privileged may kill by it.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{
        Ordering::{Relaxed, SeqCst},
        fence,
    },
    time::Duration,
};

use proxy_common::lease::{PRIMARY, SEATS, STANDBY};

use crate::{
    log::KernelLog,
    steering::SteeringLog,
    sys::{
        Fd,
        fd::{self, close},
        process::{self, Child},
        signal, time,
    },
    table::{ChildCell, Estate, EstateStage, Kind, PoolState, Table, Tag},
};

use super::{
    Supervisor,
    corpses::{Corpses, Who},
    drain::Drain,
    helper::Control,
    history::{Death, History},
    plan::Plan,
    seats,
};

/// Wait before a twin is cloned again after it lived for less than this, nanoseconds.
const RESPAWN: u64 = 1_000_000_000;
/// How often the twin looks whether the supervisor has hung.
const LOOK: Duration = Duration::from_millis(100);
/// Looks in a row that find no sign of the supervisor before it is killed: 3 s. Its own looks are
/// counted, not the clock, so that a machine that was stopped as a whole does not count.
const SILENT_LOOKS: u32 = 30;
/// Time that a killed supervisor has to die.
const DEATH: Duration = Duration::from_secs(1);

/// The twin, as the supervisor sees it.
#[derive(Default)]
pub struct Twin {
    child: Option<Child>,
    started_at: u64,
}

impl Twin {
    /// The process, if it runs.
    pub fn child(&self) -> Option<&Child> {
        self.child.as_ref()
    }

    /// Kills it, before the supervisor ends in good order.
    pub fn end(&mut self) {
        self.child.take().map(super::end::put_down);
    }
}

impl Supervisor {
    /// Clones a twin if there is none.
    pub(super) fn watch_twin(&mut self, now: u64) {
        let cell = &self.setup.table.supervisor().twin;
        if let Some(twin) = self.twin.child
            && process::is_dead(twin, Duration::ZERO)
        {
            cell.clear();
            self.corpses.add(Who::Twin, twin, now);
            self.twin.child = None;
        }
        let may_start = self.twin.started_at == 0 || now - self.twin.started_at >= RESPAWN;
        if self.twin.child.is_some() || !may_start {
            return;
        }
        self.twin.started_at = now;
        match self.clone_twin() {
            Ok(twin) => {
                cell.set(twin);
                self.twin.child = Some(twin);
            }
            Err(error) => tracing::error!(%error, "the supervisor's twin cannot be started"),
        }
    }

    fn clone_twin(&mut self) -> io::Result<Child> {
        let principal = match self.own {
            Some(own) => own,
            None => *self.own.insert(process::open(std::process::id() as i32)?),
        };
        process::clone_sharing_files(|| self.stand_by(principal))
    }

    /// The twin's life. Answers its exit code.
    fn stand_by(&mut self, principal: Child) -> i32 {
        process::set_name(c"proxy-twin");
        let looked_at = || self.setup.table.supervisor().looked_at.load(Relaxed);
        let (mut last, mut silent) = (looked_at(), 0);
        while !process::is_dead(principal, LOOK) {
            let now = looked_at();
            silent = if now == last { silent + 1 } else { 0 };
            last = now;
            if silent >= SILENT_LOOKS {
                tracing::error!(pid = principal.pid, "the supervisor is silent for too long: killing it");
                if process::kill(principal).is_ok() && process::is_dead(principal, DEATH) {
                    break;
                }
                silent = 0;
            }
        }
        close(principal.pidfd);
        self.succeed();
        match self.serve() {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!("{error:#}");
                1
            }
        }
    }

    /// Takes the dead supervisor's place.
    fn succeed(&mut self) {
        process::set_name(c"proxy");
        self.leave_if_taken();
        self.leave_if_kept();
        let (table, now) = (self.setup.table, time::monotonic_ns());
        let block = table.supervisor();
        self.notify.succeed(now, &self.setup);
        block.pid.set(std::process::id() as i32);
        // A pool that its parent had just cloned announces itself or sees this (`seats::announce`).
        fence(SeqCst);
        block.looked_at.store(now, Relaxed);
        block.successions.add(1);
        // What the dead supervisor waited by for its twin is what the next twin waits by for this process.
        self.own = resume(&block.twin);
        block.twin.clear();
        self.twin = Twin::default();
        self.seats.children = [PRIMARY, STANDBY].map(|seat| resume(&table.seat(seat).child));
        self.control = Control::resume(resume(&block.control), now);
        self.drain = Drain::resume(&mut self.setup);
        if self.drain.is_stopping() {
            // A signal to the whole group came to the twin too. It is not the second one.
            while signal::next(self.setup.signals).is_some() {}
        }
        self.history = History::new(table);
        self.deaths = [Death::default(); SEATS];
        self.fenced_at = [0; SEATS];
        self.corpses = Corpses::default();
        self.unswept.clear();
        self.strays = strays(&table, &self.seats.children);
        self.has_orphans = true;
        self.resume_candidacy();
        self.resume_plan();
        self.resume_handover();
        self.close_strangers();
        self.resume_log();
        tracing::warn!(pid = block.pid.get(), "the supervisor died: its twin goes on in its place");
    }

    fn resume_plan(&mut self) {
        let table = self.setup.table;
        let liveness = self.setup.steering.liveness();
        let first = liveness.snapshot().first.min(STANDBY);
        let pinned = table.supervisor().pinned.load(Relaxed) != 0;
        let states = [PRIMARY, STANDBY].map(|seat| state(&table, seat, self.seats.children[seat as usize]));
        self.plan = Plan::resume(self.plan.policy(), states, first, pinned);
        for seat in [PRIMARY, STANDBY] {
            for worker in 0..self.setup.config.workers {
                seats::take_back(&self.setup, seat, worker);
            }
            // Between the two steps of welcoming a pool the supervisor may have died.
            if self.plan.serves(seat) {
                liveness.set_live(seat, true);
            }
        }
    }
}

impl Supervisor {
    /// Closes what the dead supervisor had opened and noted nowhere yet, or no more. Pools open nothing
    /// but sockets and pipes, which are the sweep's.
    fn close_strangers(&self) {
        let table = &self.setup.table;
        let Ok(open) = fd::open_numbers() else { return };
        let blocks: Vec<_> = (0..SEATS as u32).flat_map(|seat| table.workers(seat)).collect();
        let processes = self.seats.children.iter().chain([&self.own]).flatten().chain(self.control.child());
        let is_there = |estate: &&Estate| estate.stage() != EstateStage::None;
        let known: HashSet<Fd> = blocks
            .iter()
            .flat_map(|block| [block.epoll.fd(), block.bell.fd()])
            .chain(
                blocks.iter().flat_map(|block| &block.estates).filter(is_there).map(|estate| estate.set.fd()),
            )
            .chain(processes.map(|child| child.pidfd))
            .chain(self.setup.log.as_ref().map(number_of))
            .collect();
        let is_strange = |number: &Fd| {
            !known.contains(number)
                && table.tag(*number).is_some_and(|cell| cell.get() == Tag::FREE)
                && fd::kind(*number) == Some(fd::Kind::Other)
        };
        open.into_iter().filter(is_strange).for_each(close);
    }

    fn resume_log(&mut self) {
        let logger = KernelLog::new(&self.setup.config.listeners);
        let old = match self.setup.steering.resume_log(logger) {
            Ok(log) => self.setup.log.replace(log),
            Err(error) => {
                tracing::warn!(%error, "the kernel program's lines are logged no more");
                self.setup.log.take()
            }
        };
        // The first supervisor's has a low number; no flow may get it, for control keeps the low ones.
        let is_low = |log: &SteeringLog<_>| number_of(log) < self.setup.first_unneeded;
        if let Some(old) = old.filter(is_low) {
            std::mem::forget(old);
        }
    }
}

fn number_of(log: &SteeringLog<KernelLog>) -> Fd {
    Fd::from_raw(log.as_fd().as_raw_fd())
}

/// The state that a seat is found in. A pool that died unseen is buried at the first tick; so it needs
/// a state that it can die in.
fn state(table: &Table, seat: u32, child: Option<Child>) -> PoolState {
    match (table.seat(seat).state(), child) {
        (_, None) => PoolState::Dead,
        (PoolState::Dead, Some(_)) => PoolState::Starting,
        (state, Some(_)) => state,
    }
}

/// A process that another supervisor had cloned.
pub(super) fn resume(cell: &ChildCell) -> Option<Child> {
    let (pid, pidfd) = (cell.pid(), cell.pidfd());
    let child = match (pid > 0, pidfd.raw() > 0) {
        (false, _) => None,
        (true, true) => Some(Child { pid, pidfd }),
        // Its parent died before it could note it. It did so a moment ago, so the number is its still.
        (true, false) => process::open(pid).ok(),
    };
    match child {
        Some(child) => cell.set(child),
        None => cell.clear(),
    }
    child
}

/// Epochs that descriptors are tagged with and no process has: what the dead supervisor had not
/// swept yet. (Those of estates wait until they are adopted.)
fn strays(table: &Table, children: &[Option<Child>; SEATS]) -> Vec<u32> {
    let seated = (0..).zip(children).filter(|(_, child)| child.is_some());
    let seated: HashSet<u32> = seated.map(|(seat, _)| table.seat(seat).epoch.load(Relaxed)).collect();
    let tags = table.tags().iter().map(|cell| cell.get());
    let is_flow = |kind| !matches!(kind, Kind::Free | Kind::Supervisor);
    let epochs: HashSet<u32> = tags.filter(|tag| is_flow(tag.kind)).map(|tag| tag.epoch).collect();
    epochs.difference(&seated).copied().collect()
}
