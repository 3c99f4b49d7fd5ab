//! Processes of both generations that die, or stop, at random moments of an upgrade: whoever goes on then, all
//! connections and flows do, and one generation is left.

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::signal::Signal;
use proxy_tests::handover::{self, Before, begin_order, upgrade};
use proxy_tests::process::Process;
use proxy_tests::proxy::Proxy;
use proxy_tests::wait::{DEADLINE, until_true};
use proxy_tests::{PRIMARY, STANDBY};

use crate::{Scene, proxy};

const SEED: u64 = 4;
/// Of each kind.
const ROUNDS: usize = 6;
/// What is stopped goes on after this time if nobody has killed it: longer than the flows may take to move.
const ASLEEP: Duration = Duration::from_secs(5);
/// The move is over this long after the successor's pools are ready, microseconds.
const MOVE_US: u64 = 15_000;

/// Whom it hits.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The old supervisor.
    Supervisor,
    /// Its twin.
    Twin,
    /// The pool in this seat.
    Pool(&'static str),
    /// Both supervisors.
    Both,
    /// The first process of the new ones.
    Candidate,
    /// Any of the new ones.
    AnyOfTheNew,
}

/// When it hits.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the order.
    Ordered(Duration),
    /// So long after the successor's pools are ready: when the flows move.
    Ready(Duration),
    /// As soon as the successor says that it has taken over: the old supervisor ends.
    Taken,
}

impl Moment {
    /// Every other one while the flows move, the others at any time of an upgrade that takes so long.
    fn any(round: usize, took: Duration, rng: &mut Rng) -> Self {
        match round % 4 {
            0 | 1 => Self::Ready(Duration::from_micros(rng.u64(..MOVE_US))),
            _ => Self::Ordered(took.mul_f64(rng.f64() * 1.2)),
        }
    }

    /// Waits for it.
    #[track_caller]
    fn wait(self, proxy: &Proxy, before: &Before, log: &str) -> Vec<Process> {
        let new = || {
            let mut new = before.new_ones(proxy);
            new.sort();
            new
        };
        match self {
            Self::Ordered(wait) => {
                thread::sleep(wait);
                new()
            }
            Self::Ready(wait) => {
                until_true("the successor's pools are started", || new().len() >= 3);
                let all = new();
                await_log(proxy, log, "\"pool ready\"", 2);
                thread::sleep(wait);
                all
            }
            Self::Taken => {
                until_true("the successor is started", || !new().is_empty());
                let all = new();
                await_log(proxy, log, "taken over from the supervisor before", 1);
                all
            }
        }
    }
}

/// Waits until so many lines more than in an earlier log hold this, and for nothing else.
#[track_caller]
fn await_log(proxy: &Proxy, before: &str, what: &str, more: usize) {
    let (goal, end) = (before.matches(what).count() + more, Instant::now() + DEADLINE);
    while proxy.log().matches(what).count() < goal {
        assert!(Instant::now() < end, "no {what} in the log");
        thread::yield_now();
    }
}

/// Nobody is left of the old ones to take its place.
#[test]
fn the_successor_dies_when_it_has_just_taken_over() {
    let scene = Scene::lossy(proxy());
    let mut rng = Rng::with_seed(SEED);
    for _ in 0..ROUNDS {
        let is_done = one(&scene, Victim::Candidate, Moment::Taken, Signal::SIGKILL, &mut rng);
        assert!(is_done, "it had taken over");
    }
    scene.finish();
}

#[test]
fn the_candidate_dies() {
    strike(&[Victim::Candidate, Victim::AnyOfTheNew], Signal::SIGKILL);
}

#[test]
fn the_candidate_stops() {
    strike(&[Victim::Candidate, Victim::AnyOfTheNew], Signal::SIGSTOP);
}

#[test]
fn the_old_supervisor_or_its_twin_dies() {
    strike(&[Victim::Supervisor, Victim::Twin], Signal::SIGKILL);
}

#[test]
fn both_supervisors_die() {
    strike(&[Victim::Both], Signal::SIGKILL);
}

#[test]
fn the_old_supervisor_stops() {
    strike(&[Victim::Supervisor], Signal::SIGSTOP);
}

#[test]
fn an_old_pool_dies() {
    strike(&[Victim::Pool(PRIMARY), Victim::Pool(STANDBY)], Signal::SIGKILL);
}

#[test]
fn an_old_pool_stops() {
    strike(&[Victim::Pool(PRIMARY), Victim::Pool(STANDBY)], Signal::SIGSTOP);
}

#[track_caller]
fn strike(victims: &[Victim], what: Signal) {
    let scene = Scene::lossy(proxy().flag("--lease", "200ms").flag("--fence-after", "1s"));
    let took = upgrade(&scene.proxy).took;
    scene.goes_on();
    let mut rng = Rng::with_seed(SEED);
    let mut ends = [0, 0];
    for round in 0..ROUNDS {
        let victim = victims[round % victims.len()];
        let moment = Moment::any(round, took, &mut rng);
        let is_done = one(&scene, victim, moment, what, &mut rng);
        ends[usize::from(is_done)] += 1;
    }
    println!("{what} for {victims:?}: {} failed, {} done", ends[0], ends[1]);
    upgrade(&scene.proxy);
    scene.goes_on();
    scene.finish();
}

/// Answers whether the upgrade was done.
#[track_caller]
fn one(scene: &Scene, victim: Victim, moment: Moment, what: Signal, rng: &mut Rng) -> bool {
    let (before, log) = (Before::of(&scene.proxy), scene.proxy.log());
    let order = begin_order(&scene.proxy, &["upgrade"]);
    let new = moment.wait(&scene.proxy, &before, &log);
    let hit = victim.among(&before, &new, rng);
    hit.iter().for_each(|process| process.signal(what));
    let struck = Instant::now();
    let awake = thread::spawn(move || {
        if what == Signal::SIGSTOP {
            let still_there = || hit.iter().any(|process| process.is_alive());
            while struck.elapsed() < ASLEEP && still_there() {
                thread::sleep(Duration::from_millis(5));
            }
            hit.iter().for_each(|process| process.signal(Signal::SIGCONT));
        }
    });
    handover::answer(order);
    let told = before.assert_ended(&scene.proxy).upgrade;
    awake.join().expect("it is awake");
    scene.goes_on();
    let after = before.assert_ended(&scene.proxy);
    if !matches!(victim, Victim::Supervisor | Victim::Both) {
        // What was counted is only known to the old supervisor until it has told the successor, at the very end.
        before.assert_counted_on(&scene.proxy);
    }
    let took = struck.elapsed();
    println!("{what} {victim:?} {moment:?}: {} {:?} {took:?}", told.state, told.error.unwrap_or_default());
    after.upgrade.state == "done"
}

impl Victim {
    fn among(self, before: &Before, new: &[Process], rng: &mut Rng) -> Vec<Process> {
        let old = |pid| before.process(pid);
        let supervisor = old(before.status.supervisor.pid);
        match self {
            Self::Supervisor => vec![supervisor],
            Self::Twin => vec![old(before.status.supervisor.twin_pid.expect("protected"))],
            Self::Pool(seat) => vec![old(before.status.pid(seat))],
            Self::Both => new.iter().take(1).copied().chain([supervisor]).collect(),
            Self::Candidate => new.iter().take(1).copied().collect(),
            Self::AnyOfTheNew => rng.choice(new).into_iter().copied().collect(),
        }
    }
}
