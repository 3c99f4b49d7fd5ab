//! The kernel program in the kernel: which socket traffic comes to, and which verdict is counted.
//! Needs root; each test has a network namespace of its own.

mod group;
mod refusals;
mod transitions;

use group::{Family, Machine, SECOND, in_namespace, now, wait_for};
use proxy::steering::Steering;
use proxy_common::{
    lease::{Liveness, PRIMARY, STANDBY},
    slot::verdict_index,
    steer::{Reason, choose},
};
use socket2::Type;
use std::os::fd::AsFd as _;

const EVERY_KIND: [(Type, Family); 6] = [
    (Type::STREAM, Family::V4),
    (Type::DGRAM, Family::V4),
    (Type::STREAM, Family::V6),
    (Type::DGRAM, Family::V6),
    (Type::STREAM, Family::Dual),
    (Type::DGRAM, Family::Dual),
];
const ROUNDS: u64 = 48;

/// Knocks at every address of every listener: all comes to `seat`, spread over `workers`.
fn assert_all_to(machine: &Machine, seat: u32, workers: &[u32]) -> Vec<u64> {
    let mut knocks = Vec::new();
    for listener in &machine.listeners {
        knocks.push(0);
        for address in listener.addresses() {
            let mut seen = Vec::new();
            for _ in 0..ROUNDS {
                let (to, worker) = listener.knock(address).expect("let in");
                assert_eq!(to, seat, "{address}");
                seen.push(worker);
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, workers, "workers that served {address}");
            knocks[listener.number as usize] += ROUNDS;
        }
    }
    knocks
}

/// One verdict for each listener, and nothing else counted since the machine started.
fn assert_only(machine: &Machine, seat: u32, reason: Reason, knocks: &[u64]) {
    let expected: Vec<_> =
        (0..).zip(knocks).map(|(listener, &count)| (listener, seat, reason, count)).collect();
    assert_eq!(machine.verdicts(), expected);
}

#[test]
fn every_kind_of_listener_goes_to_the_first_seat() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 3);
        let knocks = assert_all_to(&machine, PRIMARY, &[0, 1, 2]);
        assert_only(&machine, PRIMARY, Reason::Preferred, &knocks);
    });
}

#[test]
fn the_standby_may_be_the_first_seat() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        machine.liveness().set_first(STANDBY);
        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        assert_only(&machine, STANDBY, Reason::Preferred, &knocks);
    });
}

#[test]
fn an_expired_worker_is_passed_by() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 4);
        machine.liveness().renew(PRIMARY, 1, now());
        machine.liveness().renew(PRIMARY, 2, 0);
        let knocks = assert_all_to(&machine, PRIMARY, &[0, 3]);
        assert_only(&machine, PRIMARY, Reason::WorkerExpired, &knocks);
    });
}

#[test]
fn a_clear_bit_gives_all_to_the_other_seat() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        machine.liveness().set_live(PRIMARY, false);
        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        assert_only(&machine, STANDBY, Reason::BitClear, &knocks);
    });
}

#[test]
fn a_lease_that_runs_out_needs_nobody_in_user_space() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        let end = now() + SECOND / 2;
        for worker in 0..2 {
            machine.liveness().renew(PRIMARY, worker, end);
        }
        let before = machine.listeners[0].knock_first();
        assert!(now() < end, "too slow to see the lease hold");
        assert_eq!(before.map(|(seat, _)| seat), Some(PRIMARY));
        // Only the clock moves from here on.
        wait_for("the end of the lease", || (now() > end).then_some(()));

        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        let mut expected = vec![(0, PRIMARY, Reason::Preferred, 1)];
        expected.extend(
            (0..).zip(knocks).map(|(listener, count)| (listener, STANDBY, Reason::LeaseExpired, count)),
        );
        assert_eq!(machine.verdicts(), expected);

        // A heartbeat brings it back.
        machine.liveness().renew(PRIMARY, 1, now() + 60 * SECOND);
        assert_eq!(machine.listeners[0].knock_first(), Some((PRIMARY, 1)));
    });
}

#[test]
fn verdicts_go_on_from_what_was_counted_before() {
    in_namespace(|| {
        let mut machine = Machine::udp(2);
        let index = |listener, reason| verdict_index(listener, STANDBY, reason as u32) as usize;
        let mut before = vec![0; index(1, Reason::Dropped) + 1];
        before[index(0, Reason::BitClear)] = 1 << 40;
        before[index(1, Reason::Dropped)] = 7;
        machine.steering.set_verdicts(&before).expect("set");
        machine.liveness().set_live(PRIMARY, false);
        machine.listeners[0].knock_first().expect("let in");
        let counted = (0, STANDBY, Reason::BitClear, (1 << 40) + 1);
        assert_eq!(machine.verdicts(), [counted, (1, STANDBY, Reason::Dropped, 7)]);
    });
}

#[test]
fn with_nobody_live_the_seat_used_last_gets_all() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        machine.liveness().set_live(PRIMARY, false);
        for listener in &machine.listeners {
            listener.knock_first().expect("let in");
            assert_eq!(machine.steering.last(listener.number).expect("last"), STANDBY);
        }
        machine.liveness().set_live(STANDBY, false);
        let before = machine.verdicts();

        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        let fail_open =
            (0..).zip(knocks).map(|(listener, count)| (listener, STANDBY, Reason::FailOpen, count));
        let mut expected: Vec<_> = before.into_iter().chain(fail_open).collect();
        expected.sort_by_key(|&(listener, seat, reason, _)| (listener, seat, reason as u32));
        assert_eq!(machine.verdicts(), expected);
    });
}

#[test]
fn with_nobody_live_a_lone_bit_outweighs_the_seat_used_last() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        machine.liveness().set_live(PRIMARY, false);
        machine.liveness().expire(STANDBY);
        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        assert_only(&machine, STANDBY, Reason::FailOpen, &knocks);
    });
}

#[test]
fn without_workers_all_is_dropped() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 2);
        machine.liveness().set_workers(0);
        for listener in &machine.listeners {
            for address in listener.addresses() {
                assert_eq!(listener.knock(address), None, "{address} was let in");
            }
        }
        assert_only(&machine, PRIMARY, Reason::Dropped, &[1, 1, 1, 1, 2, 2]);
    });
}

#[test]
fn pools_may_have_fewer_workers_than_slots() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 3);
        machine.liveness().set_workers(2);
        machine.liveness().set_live(PRIMARY, false);
        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        assert_only(&machine, STANDBY, Reason::BitClear, &knocks);
    });
}

#[test]
fn an_unknown_socket_is_dropped_and_counted_apart() {
    in_namespace(|| {
        let machine = Machine::new(&EVERY_KIND, 1);
        let stranger = group::Listener::bind(100, Type::STREAM, Family::V4, 1);
        machine.steering.attach(stranger.any_socket().as_fd()).expect("attach");
        assert_eq!(stranger.knock_first(), None);
        assert_eq!(machine.verdicts(), [(EVERY_KIND.len() as u32, PRIMARY, Reason::Dropped, 1)]);
    });
}

#[test]
fn an_empty_slot_falls_to_the_same_worker_of_the_other_seat() {
    in_namespace(|| {
        let mut machine = Machine::tcp(2);
        machine.listeners[0].sockets[0] = vec![None, None];
        let knocks = assert_all_to(&machine, STANDBY, &[0, 1]);
        assert_only(&machine, STANDBY, Reason::SlotEmpty, &knocks);
        assert_eq!(machine.steering.last(0).expect("last"), PRIMARY, "an empty slot is no change of seat");
    });
}

#[test]
fn two_empty_slots_drop() {
    in_namespace(|| {
        let mut machine = Machine::tcp(2);
        machine.listeners[0].sockets[0][1] = None;
        machine.listeners[0].sockets[1][1] = None;
        let answers: Vec<_> = (0..ROUNDS).map(|_| machine.listeners[0].knock_first()).collect();
        let refused = answers.iter().filter(|answer| answer.is_none()).count() as u64;
        assert!(answers.iter().flatten().all(|&to| to == (PRIMARY, 0)), "{answers:?}");
        assert!(0 < refused && refused < ROUNDS, "{refused} refused");
        let expected =
            [(0, PRIMARY, Reason::Preferred, ROUNDS - refused), (0, PRIMARY, Reason::Dropped, refused)];
        assert_eq!(machine.verdicts(), expected);
    });
}

#[test]
fn a_removed_socket_is_unknown_and_can_be_placed_again() {
    in_namespace(|| {
        let mut machine = Machine::tcp(1);
        let Machine { steering, listeners, .. } = &mut machine;
        let socket = listeners[0].sockets[0][0].as_ref().expect("open").as_fd();
        let twice = steering.place(socket, 0, PRIMARY, 0).expect_err("placed twice").to_string();
        assert!(twice.contains("in a socket array already"), "{twice}");
        steering.remove(socket, 0, PRIMARY, 0).expect("remove");
        steering
            .remove(socket, 0, PRIMARY, 0)
            .expect("a supervisor that goes on in the place of another repeats it");
        steering.place(socket, 0, PRIMARY, 0).expect("place again");
        assert_eq!(machine.listeners[0].knock_first(), Some((PRIMARY, 0)));
    });
}

#[test]
fn connections_waiting_in_a_closed_listener_move_to_the_live_seat() {
    in_namespace(|| {
        let mut machine = Machine::tcp(1);
        let address = machine.listeners[0].addresses()[0];
        let clients: Vec<_> =
            (0..8).map(|_| machine.listeners[0].connect(address).expect("let in")).collect();
        machine.liveness().set_live(PRIMARY, false);
        machine.listeners[0].sockets[0][0] = None;
        for _ in &clients {
            assert_eq!(machine.listeners[0].arrived(), (STANDBY, 0));
        }
        let waiting = clients.len() as u64;
        let expected = [(0, PRIMARY, Reason::Preferred, waiting), (0, STANDBY, Reason::BitClear, waiting)];
        assert_eq!(machine.verdicts(), expected);
    });
}

/// The kernel's hash cannot be seen, so seat and reason are compared, and the worker must be one
/// that some hash gives.
#[test]
fn kernel_and_host_choose_alike() {
    in_namespace(|| {
        const STATES: usize = 3000;
        let workers = 5;
        let machine = Machine::udp(workers);
        let mut random = fastrand::Rng::with_seed(2);
        let mut reasons = std::collections::BTreeMap::new();
        for state in 0..STATES {
            scramble(&machine, &mut random);
            let last = machine.steering.last(0).expect("last");
            let snapshot = machine.liveness().snapshot();
            let verdicts = possible(&snapshot, last);
            let before = machine.verdicts();

            let (seat, worker) = machine.listeners[0].knock_first().expect("let in");
            let alike = verdicts.iter().find(|v| (v.seat, v.worker) == (seat, worker));
            let verdict = alike.unwrap_or_else(|| panic!("state {state}: {seat}/{worker}, not {verdicts:?}"));
            let mut expected = before;
            match expected.iter_mut().find(|(_, s, reason, _)| (*s, *reason) == (seat, verdict.reason)) {
                Some((.., count)) => *count += 1,
                None => expected.push((0, seat, verdict.reason, 1)),
            }
            expected.sort_by_key(|&(_, seat, reason, _)| (seat, reason as u32));
            assert_eq!(machine.verdicts(), expected, "state {state}");
            *reasons.entry((seat, verdict.reason as u32)).or_insert(0) += 1;
        }
        assert_eq!(
            reasons.len(),
            2 * 5,
            "reasons met, of the five that leases and bits lead to: {reasons:?}"
        );
    });
}

/// Random bits and leases, each well in the past or the future.
fn scramble(machine: &Machine, random: &mut fastrand::Rng) {
    let liveness = machine.liveness();
    liveness.set_first(random.u32(0..2));
    for seat in [PRIMARY, STANDBY] {
        liveness.set_live(seat, random.u32(0..4) > 0);
        // Often all workers alike, so that whole seats live or expire.
        let likelihood = [0, 1, 2, 4][random.usize(0..4)];
        for worker in 0..machine.workers {
            let live = random.u32(0..4) < likelihood;
            liveness.renew(seat, worker, if live { now() + 60 * SECOND } else { random.u64(0..now()) });
        }
    }
}

/// What `choose` answers over all hashes.
fn possible(liveness: &Liveness, last: u32) -> Vec<proxy_common::steer::Verdict> {
    let hashes = (0..64u32).map(|part| part << 26);
    hashes.map(|hash| choose(liveness, now(), hash, last)).collect()
}

/// Whoever starts the proxy waits for the kernel's verifier, a millisecond for some 3,000 instructions: it has to walk as
/// few paths as possible, and takes each branch on a number that it knows for another path.
#[test]
fn the_verifier_is_soon_done() {
    for workers in [1, 8, 64] {
        let steering = Steering::load(2, workers, 0).expect("load");
        let descriptors = steering.descriptors().expect("the program's descriptors");
        let walked = descriptors.into_iter().find_map(|fd| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines().find_map(|line| line.strip_prefix("verified_insns:")?.trim().parse::<u32>().ok())
        });
        let walked = walked.expect("Linux 5.16 or later tells the instructions that were verified");
        assert!(walked < 13_000, "{workers} workers: {walked} instructions");
    }
}

#[test]
fn the_most_that_can_be_asked_for_loads_and_steers() {
    in_namespace(|| {
        drop(Steering::load(1024, 64, 0).expect("load the largest maps"));
        let machine = Machine::udp(64);
        for worker in 0..63 {
            machine.liveness().renew(PRIMARY, worker, 0);
        }
        assert_eq!(machine.listeners[0].knock_first(), Some((PRIMARY, 63)));
        assert_eq!(machine.verdicts(), [(0, PRIMARY, Reason::WorkerExpired, 1)]);
    });
}
