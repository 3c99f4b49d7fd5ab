//! The supervisor's decisions, as a pure state machine: time and what was seen go in, actions come
//! out. `act` carries them out.
//!
//! Two stages by design. A lease that has run out only moves NEW traffic, which the kernel does by
//! itself and which heals by itself: the supervisor adds that the other pool serves the silent
//! workers' queues. Only silence for `fence_after` gets a pool killed, by these rules:
//!
//! * Time is time that the supervisor watched: a gap between two looks counts for at most
//!   `longest_look`. Whoever was stopped has seen nothing, and a machine that was stopped as a whole
//!   must not kill its pools when it wakes.
//! * One at a time: while a seat is being filled again, the other seat's pool is not killed for
//!   silence, for at most `start_timeout`: it may come back, and its heir is not there yet. If both are
//!   silent for long enough at once, the one that new traffic does not go to is the first.

mod policy;
mod silence;

use proxy_common::lease::{PRIMARY, SEATS, STANDBY, other};

use crate::table::{FailoverReason, PoolState};
pub use policy::Policy;

/// What was seen of a seat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// There is no process, or it is dead.
    pub dead: bool,
    /// If dead: nobody needs what a new pool would overwrite.
    pub may_start: bool,
    /// All workers have begun to run.
    pub running: bool,
    /// Workers whose lease has run out, a bit each.
    pub lapsed: u64,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Clone a pool into the seat.
    Spawn(u32),
    /// The seat's pool is ready: set its liveness bit.
    Welcome(u32),
    /// Clear the seat's liveness bit.
    Bypass(u32),
    /// Kill the seat's pool: it has been silent for too long, or does not get ready.
    Fence(u32),
    /// It did not die of that, so long: kill it again.
    KillAgain { seat: u32, is_first: bool },
    /// The seat's pool is dead: collect it. `was_ready`: it has served, or could have.
    Bury { seat: u32, reason: FailoverReason, was_ready: bool },
    /// Leave what the seat's dead pool carried to its heir, which adopts it before it does
    /// anything else.
    Bequeath(u32),
    /// The other seat's worker of the same number serves this worker's listening sockets too.
    Lend { seat: u32, worker: u32 },
    /// It no longer does.
    Return { seat: u32, worker: u32 },
    /// This seat is tried first from now on.
    Prefer(u32),
    /// Count a failover from this seat to the other.
    Count { from: u32, reason: FailoverReason },
}

#[derive(Clone, Debug)]
struct Seat {
    state: PoolState,
    /// When the state was entered.
    since: u64,
    /// When its pool got ready, if it ever did.
    ready_since: Option<u64>,
    /// By worker: since when its lease has been seen run out.
    lapsed_since: Vec<Option<u64>>,
    /// By worker: since when its lease has been seen valid, after it had run out.
    valid_since: Vec<Option<u64>>,
    /// Workers whose queues are lent, a bit each.
    lent: u64,
    /// Deaths in a row within a short life.
    young_deaths: u32,
    /// Not started again before.
    respawn_at: u64,
    /// It was silent as a whole, a failover was counted for that, and it has not recovered since.
    counted: bool,
    /// When it was killed last, while it is fenced, and whether that was again.
    killed_at: u64,
    killed_again: bool,
    /// It was killed for silence.
    hung: bool,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Plan {
    policy: Policy,
    /// Time that was watched, and when the last look was.
    clock: u64,
    looked_at: Option<u64>,
    seats: [Seat; SEATS],
    first: u32,
    /// An administrator moved traffic to the standby: it stays there until told.
    pinned: bool,
}

impl Plan {
    /// Nobody is there yet.
    pub fn new(policy: Policy) -> Self {
        let none = vec![None; policy.workers as usize];
        let seat = Seat {
            state: PoolState::Dead,
            since: 0,
            ready_since: None,
            lapsed_since: none.clone(),
            valid_since: none,
            lent: 0,
            young_deaths: 0,
            respawn_at: 0,
            counted: false,
            killed_at: 0,
            killed_again: false,
            hung: false,
        };
        Self { policy, clock: 0, looked_at: None, seats: [seat.clone(), seat], first: PRIMARY, pinned: false }
    }

    /// Goes on where another plan stopped: with the states it had last, the seat it tried first, and
    /// whether an administrator wanted that. Nothing is lent, and every silence begins now.
    pub fn resume(policy: Policy, states: [PoolState; SEATS], first: u32, pinned: bool) -> Self {
        let mut plan = Self { first, pinned, ..Self::new(policy) };
        for (seat, state) in (0..).zip(states) {
            plan.seat_mut(seat).state = state;
            plan.seat_mut(seat).ready_since = plan.serves(seat).then_some(plan.clock);
        }
        plan
    }

    /// The settings that it decides by.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether an administrator wants new traffic to stay at the standby.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// A seat's state.
    pub fn state(&self, seat: u32) -> PoolState {
        self.seats[seat as usize].state
    }

    /// What is to be done now, in this order.
    pub fn tick(&mut self, now: u64, seen: [Seen; SEATS]) -> Vec<Action> {
        let mut actions = Vec::new();
        let now = self.watched(now);
        for seat in [PRIMARY, STANDBY] {
            self.tick_seat(now, seat, seen[seat as usize], &mut actions);
        }
        for seat in [PRIMARY, STANDBY] {
            self.count_silence(now, seat, &mut actions);
        }
        self.fence_silent(now, &mut actions);
        for seat in [PRIMARY, STANDBY] {
            self.lend(now, seat, &mut actions);
        }
        self.fail_back(now, &mut actions);
        actions
    }

    /// An administrator wants new traffic at `seat`.
    ///
    /// # Errors
    /// Its pool cannot serve; a sentence for people.
    pub fn prefer(&mut self, seat: u32) -> Result<Vec<Action>, String> {
        if self.state(seat) != PoolState::Ready {
            return Err(format!("the {} is {}, not ready", name(seat), self.state(seat).label()));
        }
        self.pinned = seat == STANDBY;
        if self.first == seat {
            return Ok(Vec::new());
        }
        self.first = seat;
        let mut actions = vec![Action::Prefer(seat)];
        if seat == STANDBY {
            actions.push(Action::Count { from: PRIMARY, reason: FailoverReason::Manual });
        }
        Ok(actions)
    }

    /// An administrator wanted new traffic at `seat`, and still does: nothing is counted.
    pub fn pin(&mut self, seat: u32) {
        self.pinned = seat == STANDBY;
        self.first = seat;
    }

    /// The plan's own clock, which stands still while nobody looks at it.
    fn watched(&mut self, now: u64) -> u64 {
        let gap = now.saturating_sub(self.looked_at.replace(now).unwrap_or(now));
        self.clock += gap.min(self.policy.longest_look);
        self.clock
    }

    fn tick_seat(&mut self, now: u64, seat: u32, seen: Seen, actions: &mut Vec<Action>) {
        let state = self.state(seat);
        if seen.dead && state != PoolState::Dead {
            self.bury(now, seat, actions);
            return;
        }
        match state {
            PoolState::Dead if self.may_start(now, seat, seen) => {
                self.enter(now, seat, PoolState::Starting);
                actions.push(Action::Spawn(seat));
            }
            PoolState::Starting if seen.running && seen.lapsed == 0 => {
                self.enter(now, seat, PoolState::Ready);
                self.seat_mut(seat).ready_since = Some(now);
                actions.push(Action::Welcome(seat));
            }
            PoolState::Starting if now - self.seat(seat).since >= self.policy.start_timeout => {
                self.fence(now, seat, actions);
            }
            PoolState::Ready | PoolState::Suspect => self.watch(now, seat, seen.lapsed),
            PoolState::Fenced => self.kill_again(now, seat, actions),
            PoolState::Dead | PoolState::Starting => {}
        }
    }

    /// Whether a pool may be started again. A pool that does not come to adopt must not keep the
    /// seat empty for long, and neither may patience with one that dies young while nobody serves.
    fn may_start(&self, now: u64, seat: u32, seen: Seen) -> bool {
        let this = self.seat(seat);
        let dead_for = now - this.since;
        let is_needed = !self.serves(other(seat)) && dead_for >= self.policy.respawn;
        let is_unread = !seen.may_start && dead_for < self.policy.fence_after;
        (now >= this.respawn_at || is_needed) && !is_unread
    }

    /// Kills a pool again that was killed and lives on.
    fn kill_again(&mut self, now: u64, seat: u32, actions: &mut Vec<Action>) {
        let patience = self.policy.kill_again;
        let this = self.seat_mut(seat);
        if now - this.killed_at >= patience {
            this.killed_at = now;
            let is_first = !std::mem::replace(&mut this.killed_again, true);
            actions.push(Action::KillAgain { seat, is_first });
        }
    }

    fn fence(&mut self, now: u64, seat: u32, actions: &mut Vec<Action>) {
        self.enter(now, seat, PoolState::Fenced);
        let this = self.seat_mut(seat);
        (this.killed_at, this.killed_again) = (now, false);
        actions.extend([Action::Bypass(seat), Action::Fence(seat)]);
    }

    fn bury(&mut self, now: u64, seat: u32, actions: &mut Vec<Action>) {
        let reason = if self.seat(seat).hung { FailoverReason::Hung } else { FailoverReason::Killed };
        self.count(seat, reason, actions);
        let policy = self.policy;
        let this = self.seat_mut(seat);
        // A pool that has served for a while did not die of being started.
        let ready_since = this.ready_since.take();
        let is_young = ready_since.is_none_or(|since| now - since < policy.respawn * 8);
        this.young_deaths = if is_young { this.young_deaths + 1 } else { 0 };
        let wait = match this.young_deaths {
            0 | 1 => 0,
            more => policy.respawn << (more - 2).min(6),
        };
        this.respawn_at = now + wait;
        this.counted = false;
        this.hung = false;
        this.lapsed_since.fill(None);
        this.valid_since.fill(None);
        self.enter(now, seat, PoolState::Dead);
        let was_ready = ready_since.is_some();
        actions.extend([
            Action::Bury { seat, reason, was_ready },
            Action::Bypass(seat),
            Action::Bequeath(seat),
        ]);
        if self.first == seat && self.serves(other(seat)) {
            self.first = other(seat);
            self.pinned = false;
            actions.push(Action::Prefer(self.first));
        }
        // What the dead pool had been lent went with its epoll sets.
        self.seat_mut(other(seat)).lent = 0;
    }

    /// Counts a failover, once for each time that the seat in use fails.
    fn count(&mut self, seat: u32, reason: FailoverReason, actions: &mut Vec<Action>) {
        let was_in_use = self.first == seat && self.seat(seat).state != PoolState::Starting;
        if was_in_use && !self.seat(seat).counted && self.serves(other(seat)) {
            self.seat_mut(seat).counted = true;
            actions.push(Action::Count { from: seat, reason });
        }
    }

    /// Sees to it that the other pool serves the queues of this seat's silent workers, and only theirs.
    fn lend(&mut self, now: u64, seat: u32, actions: &mut Vec<Action>) {
        let wanted = if self.serves(other(seat)) { self.silent(now, seat) } else { 0 };
        let this = self.seat_mut(seat);
        for worker in 0..this.lapsed_since.len() as u32 {
            match (wanted >> worker & 1, this.lent >> worker & 1) {
                (1, 0) => actions.push(Action::Lend { seat, worker }),
                (0, 1) => actions.push(Action::Return { seat, worker }),
                _ => {}
            }
        }
        this.lent = wanted;
    }

    /// The workers of a seat that serve nobody, or did not until a moment ago.
    fn silent(&self, now: u64, seat: u32) -> u64 {
        let this = self.seat(seat);
        if !self.serves(seat) {
            return u64::MAX >> (64 - self.policy.workers);
        }
        let is_silent = |worker: usize| {
            let valid = this.valid_since[worker].is_none_or(|since| now - since >= self.policy.recovery);
            this.lapsed_since[worker].is_some() || (this.lent >> worker & 1 == 1 && !valid)
        };
        (0..this.lapsed_since.len())
            .filter(|worker| is_silent(*worker))
            .fold(0, |mask, worker| mask | 1 << worker)
    }

    fn fail_back(&mut self, now: u64, actions: &mut Vec<Action>) {
        let (Some(patience), primary) = (self.policy.failback_after, self.seat(PRIMARY)) else {
            return;
        };
        let is_due = primary.state == PoolState::Ready && now - primary.since >= patience;
        if self.first == STANDBY && !self.pinned && is_due {
            self.first = PRIMARY;
            actions.push(Action::Prefer(PRIMARY));
        }
    }

    /// The seat that new traffic goes to, as far as it is known without the kernel's clock.
    pub fn in_use(&self) -> Option<u32> {
        [self.first, other(self.first)].into_iter().find(|seat| self.serves(*seat))
    }

    /// Whether a seat's pool is there to serve.
    pub fn serves(&self, seat: u32) -> bool {
        matches!(self.state(seat), PoolState::Ready | PoolState::Suspect)
    }

    fn enter(&mut self, now: u64, seat: u32, state: PoolState) {
        let this = self.seat_mut(seat);
        this.state = state;
        this.since = now;
    }

    fn seat(&self, seat: u32) -> &Seat {
        &self.seats[seat as usize]
    }

    fn seat_mut(&mut self, seat: u32) -> &mut Seat {
        &mut self.seats[seat as usize]
    }
}

/// A seat's name.
pub fn name(seat: u32) -> &'static str {
    if seat == PRIMARY { "primary" } else { "standby" }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan/rules_tests.rs"]
mod rules_tests;
