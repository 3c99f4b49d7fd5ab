//! The supervisor: owns the descriptor table, spawns the pools and control, watches their leases
//! and deaths, and moves no byte. One thread, no runtime: cloning it is safe, and there is little
//! in it that can fail.

mod access_log;
mod control_socket;
mod corpses;
mod drain;
mod end;
mod estates;
mod handover;
mod helper;
mod history;
mod import;
mod inherit;
mod listen;
mod names;
mod notify;
mod orders;
mod paths;
mod plan;
mod predecessors;
mod retired;
mod seats;
mod setup;
mod stored;
mod successor;
mod sweep;
mod twin;

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::Result;
use proxy_common::lease::{PRIMARY, SEATS, STANDBY, other};

use crate::{
    config::Config,
    fault::{self, Point},
    handover::line::Line,
    slots,
    sys::{
        Fd, poll,
        process::{self, Child},
        time,
    },
    table::{Ending, FailoverReason, LostReason, TakeoverStage},
};
use corpses::{Corpses, Who};
use drain::Drain;
use handover::Handover;
use helper::Control;
use history::{Death, History, Unswept};
use notify::Notify;
use plan::{Action, Plan, Policy, name};
use predecessors::Predecessors;
use retired::Retired;
use seats::Seats;
use setup::Setup;
use successor::Candidacy;
use twin::Twin;

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(10);

/// Runs the proxy until it is stopped, or handed over; as the successor of another one, if there is a line to it.
///
/// # Errors
/// It cannot start: what failed, on what, and what to do.
pub fn run(config: Config, line: Option<Line>) -> Result<()> {
    if let Some(line) = line {
        return successor::run(config, line);
    }
    let started = Instant::now();
    let setup = setup::open(config, None)?;
    fault::arm(setup.table)?;
    let mut supervisor = Supervisor::new(setup);
    supervisor.setup.table.supervisor().pid.set(std::process::id() as i32);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listeners = supervisor.setup.config.listeners.len(),
        servers = slots::all(supervisor.setup.config, &supervisor.setup.table).count(),
        workers = supervisor.setup.config.workers,
        connections = supervisor.setup.limits.connections,
        flows = supervisor.setup.limits.flows,
        took_ms = started.elapsed().as_millis() as u64,
        "listening"
    );
    supervisor.await_names();
    supervisor.serve()
}

struct Supervisor {
    setup: Setup,
    plan: Plan,
    seats: Seats,
    control: Control,
    twin: Twin,
    /// This process, whose death its twin waits for.
    own: Option<Child>,
    drain: Drain,
    handover: Handover,
    /// Until this supervisor has taken over from another one.
    candidacy: Option<Candidacy>,
    predecessors: Predecessors,
    retired: Retired,
    notify: Notify,
    history: History,
    /// By seat, until its next pool is ready.
    deaths: [Death; SEATS],
    fenced_at: [u64; SEATS],
    corpses: Corpses,
    /// Dead pools whose flows are being adopted.
    unswept: Vec<Unswept>,
    /// Epochs to be swept at the next look, once nobody has them to adopt: of pools that died under another
    /// supervisor, and of swept ones of whose flows some were in use.
    strays: Vec<u32>,
    /// Descriptors may be open that nobody owns.
    has_orphans: bool,
    /// Whether it is worth waiting for room in the access log's ring, with what is to be cut.
    log_room: access_log::Room,
}

impl Supervisor {
    fn new(setup: Setup) -> Self {
        Self {
            plan: Plan::new(Policy::of(setup.config)),
            seats: Seats::new(),
            control: Control::new(),
            twin: Twin::default(),
            own: None,
            drain: Drain::default(),
            handover: Handover::new(),
            candidacy: None,
            predecessors: Predecessors::default(),
            retired: Retired::default(),
            notify: Notify::from_environment(&setup),
            history: History::new(setup.table),
            deaths: [Death::default(); SEATS],
            fenced_at: [0; SEATS],
            corpses: Corpses::default(),
            unswept: Vec::new(),
            strays: Vec::new(),
            has_orphans: false,
            log_room: access_log::Room::default(),
            setup,
        }
    }

    /// Supervises until the end.
    fn serve(&mut self) -> Result<()> {
        let result = loop {
            match self.turn() {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error.context("the supervisor cannot go on")),
            }
        };
        // Whatever the reason: pools without a supervisor would go on for good.
        self.end();
        result
    }

    /// Looks at the pools, and answers what is to be done.
    fn look(&mut self, now: u64) -> Vec<Action> {
        let table = self.setup.table;
        table.supervisor().looked_at.store(now, Relaxed);
        let liveness = self.setup.steering.liveness();
        let actions =
            self.plan.tick(now, [PRIMARY, STANDBY].map(|seat| self.seats.look(&table, liveness, seat, now)));
        // First, so that nobody sees a pool ready that is known to be dead.
        for seat in [PRIMARY, STANDBY] {
            table.seat(seat).set_state(self.plan.state(seat));
        }
        actions
    }

    /// The processes that this one has started, but for a successor.
    fn processes(&self) -> impl Iterator<Item = &Child> {
        self.seats.children.iter().flatten().chain(self.control.child()).chain(self.twin.child())
    }

    /// One turn: wait for a tick or for news, look, act. Answers whether the proxy is to end.
    fn turn(&mut self) -> Result<bool> {
        let now = time::monotonic_ns();
        let actions = self.look(now);
        self.setup.table.supervisor().pinned.store(self.plan.is_pinned().into(), Relaxed);
        actions.into_iter().for_each(|action| self.act(now, action));
        self.note_queues(now);
        self.control.watch(&self.setup, &mut self.corpses, now);
        self.watch_twin(now);
        self.corpses.tell(now, &self.history);
        seats::give_pipes(&self.setup);
        self.sweep();
        self.watch_handover(now);
        self.predecessors.tick(self.setup.table.supervisor(), now);
        if !self.is_handing_over() {
            self.retired.tick(&mut self.setup, now);
        }
        let is_over = self.drain.tick(&self.setup, now);
        self.notify(now);
        if !is_over {
            self.wait(now)?;
        }
        Ok(is_over || self.drain.is_now())
    }

    fn wait(&mut self, now: u64) -> io::Result<()> {
        let mut fds = vec![self.setup.signals, self.setup.orders.0];
        fds.extend(self.processes().map(|child| child.pidfd));
        fds.extend(self.handover.descriptors());
        fds.extend(self.setup.log.as_ref().map(|log| Fd::from_raw(log.as_fd().as_raw_fd())));
        let ready = poll::readable(&fds, TICK)?;
        if ready[0] {
            self.take_signals(now);
        }
        if ready[1] {
            self.take_orders(now);
        }
        if let (Some(log), Some(true)) = (&mut self.setup.log, ready.last()) {
            log.flush();
        }
        Ok(())
    }

    fn act(&mut self, now: u64, action: Action) {
        let setup = &self.setup;
        let liveness = setup.steering.liveness();
        let block = setup.table.supervisor();
        match action {
            Action::Spawn(seat) => match self.seats.spawn(setup, seat) {
                Ok(child) => tracing::info!(pool = name(seat), pid = child.pid, "pool started"),
                // Seen as dead at the next tick, and tried again after a while.
                Err(error) => tracing::error!(pool = name(seat), %error, "pool cannot be started"),
            },
            Action::Welcome(seat) => {
                liveness.set_live(seat, true);
                let death = std::mem::take(&mut self.deaths[seat as usize]);
                self.history.stage(death.number, TakeoverStage::Reseat, death.at);
                tracing::info!(pool = name(seat), "pool ready");
            }
            Action::Bypass(seat) => liveness.set_live(seat, false),
            Action::Fence(seat) => self.fence(now, seat),
            Action::KillAgain { seat, is_first } => self.seats.kill_again(seat, is_first),
            Action::Bury { seat, reason, was_ready } => self.bury(now, seat, reason, was_ready),
            Action::Lend { seat, worker } => seats::lend(setup, seat, worker),
            Action::Return { seat, worker } => seats::take_back(setup, seat, worker),
            Action::Bequeath(seat) => self.bequeath(seat),
            Action::Prefer(seat) => {
                liveness.set_first(seat);
                tracing::info!(pool = name(seat), "new traffic goes to this pool");
            }
            Action::Count { from, reason } => {
                block.failovers[reason as usize].add(1);
                let reason = FailoverReason::ALL[reason as usize].1;
                tracing::warn!(from = name(from), to = name(other(from)), reason, "failover");
            }
        }
    }

    /// What waited in the queues of pools that were buried in this turn is being served.
    fn note_queues(&self, now: u64) {
        for (seat, death) in (0..).zip(&self.deaths) {
            if death.at == now && self.plan.serves(other(seat)) {
                self.history.stage(death.number, TakeoverStage::Queues, death.at);
            }
        }
    }

    fn fence(&mut self, now: u64, seat: u32) {
        tracing::warn!(pool = name(seat), "pool is silent for too long: killing it");
        self.fenced_at[seat as usize] = now;
        if let Some(child) = self.seats.children[seat as usize]
            && let Err(error) = process::kill(child)
        {
            tracing::error!(pool = name(seat), pid = child.pid, %error, "pool cannot be killed");
        }
    }

    fn bury(&mut self, now: u64, seat: u32, reason: FailoverReason, was_ready: bool) {
        let block = self.setup.table.seat(seat);
        let has_lived = self.seats.children[seat as usize].is_some();
        let has_left = has_lived && (was_ready || estates::has_any(&self.setup.table, seat));
        let number = has_left.then(|| self.history.begin(seat, block.epoch.load(Relaxed), reason, now));
        let fenced_at = std::mem::take(&mut self.fenced_at[seat as usize]);
        if fenced_at > 0 {
            self.history.stage(number, TakeoverStage::Fence, fenced_at);
        }
        self.deaths[seat as usize] = Death { at: now, number };
        self.setup.steering.liveness().expire(seat);
        if let Some(child) = self.seats.children[seat as usize].take() {
            self.corpses.add(Who::Pool(seat, number), child, now);
        }
    }

    /// Leaves what a dead pool carried to its heir.
    fn bequeath(&mut self, seat: u32) {
        let setup = &self.setup;
        sweep::clear_workers(&setup.table, seat);
        let epoch = setup.table.seat(seat).epoch.load(Relaxed);
        let other_serves = self.plan.can_adopt(other(seat));
        let reason = LostReason::PoolDied;
        let refused = estates::leave(setup, seat, epoch, other_serves);
        self.unswept.push(Unswept { epoch, death: self.deaths[seat as usize], reason });
        for refused in refused {
            // Not at once: other workers may be adopting what has the same epoch.
            tracing::error!(epoch = refused, "what a dead worker left has no heir: the sweep will cut it");
            let unswept = self.unswept.iter_mut().filter(|unswept| unswept.epoch == refused);
            unswept.for_each(|unswept| unswept.reason = LostReason::NoHeir);
        }
        // Last: until then a new supervisor takes it for a pool that is to be buried.
        setup.table.seat(seat).child.clear();
    }

    /// Closes what a dead pool left, once its heir has adopted all that it could.
    fn sweep(&mut self) {
        let table = self.setup.table;
        estates::close_moved(&table);
        for seat in [PRIMARY, STANDBY] {
            let is_empty = self.seats.children[seat as usize].is_none();
            if is_empty && self.plan.can_adopt(other(seat)) && estates::is_kept(&table, seat) {
                estates::hand_on(&self.setup, seat);
            }
        }
        for done in std::mem::take(&mut self.unswept) {
            if estates::is_waiting(&table, done.epoch) || !self.has_told(done.epoch, Ending::Lost) {
                self.unswept.push(done);
                continue;
            }
            let number = done.death.number;
            self.history.stage(number, TakeoverStage::Adopt, done.death.at);
            let began = time::monotonic_ns();
            self.cut(done.epoch, done.reason);
            self.has_orphans = true;
            self.history.stage(number, TakeoverStage::Sweep, began);
            fault::point(Point::SweepCut);
            self.history.put_down(number);
            number.into_iter().for_each(|number| self.history.log(number));
        }
        self.sweep_strays();
        self.history.put_down(self.unswept.iter().find_map(|unswept| unswept.death.number));
        // Strays too: what waits for an heir, or is in use, is tagged with an epoch that no pool has.
        if self.unswept.is_empty() && self.strays.is_empty() && self.has_orphans {
            self.find_orphans();
        }
    }

    fn sweep_strays(&mut self) {
        let table = self.setup.table;
        for epoch in std::mem::take(&mut self.strays) {
            match estates::is_waiting(&table, epoch) || !self.has_told(epoch, Ending::Lost) {
                true => self.strays.push(epoch),
                false => self.cut(epoch, LostReason::PoolDied),
            }
        }
    }

    /// Closes and counts what nobody has adopted; at the next look what is in use now.
    fn cut(&mut self, epoch: u32, reason: LostReason) {
        let swept = sweep::cut(&self.setup.table, epoch);
        sweep::count_lost(&self.setup.table, reason, swept);
        self.strays.extend((swept.in_use > 0).then_some(epoch));
    }

    fn find_orphans(&mut self) {
        let Some(heir) = [PRIMARY, STANDBY].into_iter().find(|seat| self.plan.serves(*seat)) else {
            return;
        };
        let epoch = seats::new_epoch(&self.setup.table);
        let own: Vec<Fd> = self.handover.descriptors().collect();
        let Some(found) = sweep::find_orphans(&self.setup.table, self.setup.config, (0, epoch), &own) else {
            return;
        };
        self.has_orphans = false;
        sweep::forget_places(&self.setup.table);
        if found > 0 {
            let left = estates::leave_found(&self.setup.table, heir, 0, epoch);
            tracing::info!(
                connections = found,
                left,
                "connections found that were accepted and not recorded"
            );
            self.unswept.push(Unswept { epoch, death: Death::default(), reason: LostReason::PoolDied });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().min(u128::from(u64::MAX / 4)) as u64
}
