//! The rules of the plan, whatever happens in whatever order: against a model that only remembers.

use proptest::{collection::vec, prelude::*, strategy::ValueTree};

use super::*;

const MS: u64 = 1_000_000;
const WORKERS: u32 = 2;
const POLICY: Policy = Policy {
    fence_after: 300 * MS,
    failback_after: Some(2000 * MS),
    start_timeout: 1000 * MS,
    recovery: 100 * MS,
    respawn: 100 * MS,
    kill_again: 400 * MS,
    longest_look: 50 * MS,
    workers: WORKERS,
};

/// What happens before a look: time passes, and something becomes of each pool.
#[derive(Clone, Debug)]
struct Step {
    gap_ms: u64,
    fates: [Fate; SEATS],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    GoesOn,
    FallsSilent(u64),
    Speaks,
    Dies,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        60 => Just(Fate::GoesOn),
        6 => (1u64..4).prop_map(Fate::FallsSilent),
        4 => Just(Fate::Speaks),
        1 => Just(Fate::Dies),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let gap = prop_oneof![20 => Just(10u64), 3 => 11u64..60, 1 => 60u64..5000];
    (gap, [fate(), fate()]).prop_map(|(gap_ms, fates)| Step { gap_ms, fates })
}

/// What a seat's pool is like, and what was seen of it: times are watched time.
#[derive(Clone, Debug, Default)]
struct Pool {
    is_there: bool,
    is_ready: bool,
    /// Killed; it dies by [`Fate::Dies`] or of the third look after that.
    fenced_for: Option<u32>,
    began: u64,
    lapsed: u64,
    silent_since: [Option<u64>; WORKERS as usize],
    well_since: [Option<u64>; WORKERS as usize],
    last_count: Option<u64>,
    last_kill: u64,
}

impl Pool {
    fn live(&mut self, fate: Fate) {
        self.fenced_for = self.fenced_for.map(|looks| looks + 1);
        let is_over = self.fenced_for.is_some_and(|looks| looks > 90);
        match fate {
            Fate::Dies => self.is_there = false,
            _ if is_over => self.is_there = false,
            Fate::FallsSilent(workers) => self.lapsed = workers,
            Fate::Speaks => self.lapsed = 0,
            Fate::GoesOn => {}
        }
    }

    fn seen(&self) -> Seen {
        let lapsed = if self.is_there { self.lapsed } else { 0b11 };
        Seen { dead: !self.is_there, may_start: true, running: self.is_there, lapsed }
    }

    fn remember(&mut self, clock: u64) {
        for worker in 0..WORKERS as usize {
            let is_silent = self.lapsed >> worker & 1 == 1;
            let [silent, well] = [&mut self.silent_since[worker], &mut self.well_since[worker]];
            *silent = is_silent.then(|| silent.unwrap_or(clock));
            *well = (!is_silent).then(|| well.unwrap_or(clock));
        }
    }

    fn silence(&self, clock: u64) -> u64 {
        self.silent_since.iter().flatten().map(|since| clock - since).max().unwrap_or(0)
    }

    fn serves(&self) -> bool {
        self.is_there && self.is_ready && self.fenced_for.is_none()
    }
}

/// Plays the steps and holds each action against the rules. Answers how many pools were fenced for silence.
fn play(steps: &[Step]) -> usize {
    let mut plan = Plan::new(POLICY);
    let mut pools = [Pool::default(), Pool::default()];
    let (mut now, mut clock, mut fenced) = (0, 0, 0);
    for (index, step) in steps.iter().enumerate() {
        now += step.gap_ms * MS;
        clock += if index == 0 { 0 } else { step.gap_ms.min(50) * MS };
        for (pool, fate) in pools.iter_mut().zip(step.fates) {
            pool.live(fate);
            if pool.serves() {
                pool.remember(clock);
            }
        }
        let actions = plan.tick(now, [pools[0].seen(), pools[1].seen()]);
        fenced += judge(&mut pools, clock, &actions);
    }
    fenced
}

fn judge(pools: &mut [Pool; SEATS], clock: u64, actions: &[Action]) -> usize {
    let mut fenced = 0;
    for action in actions {
        match *action {
            Action::Spawn(seat) => {
                pools[seat as usize] = Pool { is_there: true, began: clock, ..Pool::default() };
            }
            Action::Welcome(seat) => {
                assert!(pools[seat as usize].is_there, "a dead pool is welcome");
                pools[seat as usize].is_ready = true;
            }
            Action::Fence(seat) if !pools[seat as usize].is_ready => {
                let started_for = clock - pools[seat as usize].began;
                assert!(started_for >= POLICY.start_timeout, "fenced while starting, after {started_for}");
                pools[seat as usize].fenced_for = Some(0);
                pools[seat as usize].last_kill = clock;
            }
            Action::Fence(seat) => {
                let silence = pools[seat as usize].silence(clock);
                assert!(silence >= POLICY.fence_after, "fenced after {silence} of watched silence");
                let waited = silence >= POLICY.fence_after + POLICY.start_timeout;
                let other_serves = pools[other(seat) as usize].serves();
                assert!(other_serves || waited, "fenced while the other seat is being filled");
                fenced += 1;
                pools[seat as usize].fenced_for = Some(0);
                pools[seat as usize].last_kill = clock;
            }
            Action::KillAgain { seat, .. } => {
                let pool = &mut pools[seat as usize];
                let since = clock - std::mem::replace(&mut pool.last_kill, clock);
                assert!(
                    pool.fenced_for.is_some() && since >= POLICY.kill_again,
                    "killed again after {since}"
                );
            }
            Action::Return { seat, worker } if pools[seat as usize].serves() => {
                let [pool, other] = [&pools[seat as usize], &pools[other(seat) as usize]];
                let well = pool.well_since[worker as usize].map_or(0, |since| clock - since);
                let has_recovered = well >= POLICY.recovery || pool.well_since[worker as usize].is_none();
                assert!(has_recovered || !other.serves(), "queue taken back after {well}");
            }
            Action::Count { from, reason: FailoverReason::Hung } if pools[from as usize].serves() => {
                let pool = &mut pools[from as usize];
                let since = pool.last_count.replace(clock).map_or(u64::MAX, |last| clock - last);
                assert!(since >= POLICY.recovery, "two failovers from one pool within {since}");
            }
            _ => {}
        }
    }
    assert!(fenced <= 1, "two pools fenced at once");
    fenced
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_rules_hold_whatever_happens(steps in vec(step(), 1..1500)) {
        play(&steps);
    }
}

/// The property above is not empty: such lives do get pools fenced.
#[test]
fn the_steps_lead_to_fences() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = vec(step(), 1500).new_tree(&mut runner).unwrap().current();
    assert!(play(&steps) > 0);
}
