//! The steering policy against a slow and obvious model of it, over its whole input space, and what
//! the model alone cannot show: that the load is even.

use proptest::{array::uniform, collection::vec, prelude::*};
use proxy_common::{
    lease::{Liveness, MAX_WORKERS, PRIMARY, SEATS, STANDBY, SeatLiveness},
    steer::{Reason, Verdict, choose, choose_among},
};

/// The policy in the plainest words.
fn model(liveness: &Liveness, now: u64, hash: u32, last: u32) -> Verdict {
    let first = liveness.first % 2;
    let second = (first + 1) % 2;
    let workers = liveness.workers.min(64);
    let all: Vec<u32> = (0..workers).collect();
    let bit = |seat: u32| liveness.seats[seat as usize].live != 0;
    let live = |seat: u32| -> Vec<u32> {
        let deadlines = liveness.seats[seat as usize].deadlines;
        all.iter().copied().filter(|&worker| bit(seat) && is_after(deadlines[worker as usize], now)).collect()
    };
    let pick = |among: &[u32]| among[(u64::from(hash) * among.len() as u64 / (1 << 32)) as usize];

    if workers == 0 {
        return Verdict { seat: first, worker: 0, reason: Reason::Dropped };
    }
    if live(first) == all {
        return Verdict { seat: first, worker: pick(&all), reason: Reason::Preferred };
    }
    if !live(first).is_empty() {
        return Verdict { seat: first, worker: pick(&live(first)), reason: Reason::WorkerExpired };
    }
    if !live(second).is_empty() {
        let reason = if bit(first) { Reason::LeaseExpired } else { Reason::BitClear };
        return Verdict { seat: second, worker: pick(&live(second)), reason };
    }
    let seat = if bit(first) == bit(second) {
        last % 2
    } else if bit(first) {
        first
    } else {
        second
    };
    Verdict { seat, worker: pick(&all), reason: Reason::FailOpen }
}

fn is_after(deadline: u64, now: u64) -> bool {
    let distance = i128::from(deadline) - i128::from(now);
    match distance {
        // Too far off to be a time: it counts as one on the other side.
        _ if distance.abs() > 1 << 63 => distance < 0,
        _ => distance > 0 || distance == -(1 << 63),
    }
}

/// Any numbers at all.
fn garbage() -> impl Strategy<Value = (Liveness, u64, u32, u32)> {
    let seat = (any::<u64>(), uniform::<_, MAX_WORKERS>(any::<u64>()));
    let seat = seat.prop_map(|(live, deadlines)| SeatLiveness { live, deadlines });
    let liveness = (any::<u32>(), any::<u32>(), uniform::<_, SEATS>(seat));
    let liveness = liveness.prop_map(|(first, workers, seats)| Liveness { first, workers, seats });
    (liveness, any::<u64>(), any::<u32>(), any::<u32>())
}

/// What really occurs: a few workers, deadlines about now, whole seats cleared or expired.
fn realistic() -> impl Strategy<Value = (Liveness, u64, u32, u32)> {
    let deadline = prop_oneof![Just(0), Just(999), Just(1000), Just(1001), 900..1100u64, Just(u64::MAX >> 1)];
    let deadlines = prop_oneof![
        vec(deadline, MAX_WORKERS),
        Just(vec![0; MAX_WORKERS]),
        Just(vec![1000; MAX_WORKERS]),
        Just(vec![1001; MAX_WORKERS]),
    ];
    let seat = (0..2u64, deadlines).prop_map(|(live, deadlines)| {
        let deadlines = deadlines.try_into().expect("as many deadlines as workers");
        SeatLiveness { live, deadlines }
    });
    let liveness = (0..3u32, 0..=66u32, uniform::<_, SEATS>(seat));
    let liveness = liveness.prop_map(|(first, workers, seats)| Liveness { first, workers, seats });
    (liveness, Just(1000u64), any::<u32>(), 0..4u32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn garbage_is_as_the_model((liveness, now, hash, last) in garbage()) {
        prop_assert_eq!(choose(&liveness, now, hash, last), model(&liveness, now, hash, last));
    }

    #[test]
    fn real_states_are_as_the_model((liveness, now, hash, last) in realistic()) {
        prop_assert_eq!(choose(&liveness, now, hash, last), model(&liveness, now, hash, last));
    }

    #[test]
    fn workers_above_the_most_do_not_exist((liveness, now, hash, last) in realistic(), most in 0..=66u32) {
        let fewer = Liveness { workers: liveness.workers.min(most), ..liveness };
        prop_assert_eq!(choose_among(&liveness, most, now, hash, last), model(&fewer, now, hash, last));
    }

    #[test]
    fn any_set_of_workers_is_as_the_model(live in any::<u64>(), workers in 1..=64u32, hash in any::<u32>()) {
        let liveness = state(workers, [(1, live), (0, 0)]);
        prop_assert_eq!(choose(&liveness, 1000, hash, 0), model(&liveness, 1000, hash, 0));
    }
}

/// Seats with their liveness bit and a mask of the workers whose leases hold at time 1000.
fn state(workers: u32, seats: [(u64, u64); SEATS]) -> Liveness {
    let deadline = |mask: u64, worker: usize| if mask >> worker & 1 == 1 { 1001 } else { 1000 };
    let seats = seats.map(|(live, mask)| {
        let deadlines = std::array::from_fn(|worker| deadline(mask, worker));
        SeatLiveness { live, deadlines }
    });
    Liveness { first: PRIMARY, workers, seats }
}

#[test]
fn table() {
    const ALL: u64 = 0b1111;
    let cases = [
        // Four workers; per seat the bit and the live workers; the seat used last; expected.
        ([(1, ALL), (1, ALL)], PRIMARY, PRIMARY, Reason::Preferred),
        ([(1, ALL), (1, ALL)], STANDBY, PRIMARY, Reason::Preferred),
        ([(1, ALL), (0, 0)], PRIMARY, PRIMARY, Reason::Preferred),
        ([(1, 0b0100), (1, ALL)], PRIMARY, PRIMARY, Reason::WorkerExpired),
        ([(0, ALL), (1, ALL)], PRIMARY, STANDBY, Reason::BitClear),
        ([(0, 0), (1, 0b0001)], PRIMARY, STANDBY, Reason::BitClear),
        ([(1, 0), (1, ALL)], PRIMARY, STANDBY, Reason::LeaseExpired),
        ([(1, 0), (1, 0)], PRIMARY, PRIMARY, Reason::FailOpen),
        ([(1, 0), (1, 0)], STANDBY, STANDBY, Reason::FailOpen),
        ([(0, ALL), (0, ALL)], STANDBY, STANDBY, Reason::FailOpen),
        ([(0, ALL), (1, 0)], PRIMARY, STANDBY, Reason::FailOpen),
        ([(1, 0), (0, ALL)], STANDBY, PRIMARY, Reason::FailOpen),
    ];
    for (case, (seats, last, seat, reason)) in cases.into_iter().enumerate() {
        let verdict = choose(&state(4, seats), 1000, 0x9000_0000, last);
        assert_eq!((verdict.seat, verdict.reason), (seat, reason), "case {case}");
    }
}

#[test]
fn the_standby_can_be_first() {
    let first_standby = |seats| Liveness { first: STANDBY, ..state(4, seats) };
    let verdict = choose(&first_standby([(1, 0b1111), (1, 0b1111)]), 1000, 0, PRIMARY);
    assert_eq!(verdict, Verdict { seat: STANDBY, worker: 0, reason: Reason::Preferred });
    let verdict = choose(&first_standby([(1, 0b1111), (0, 0b1111)]), 1000, u32::MAX, STANDBY);
    assert_eq!(verdict, Verdict { seat: PRIMARY, worker: 3, reason: Reason::BitClear });
}

#[test]
fn a_new_map_drops() {
    let verdict = choose(&Liveness::EMPTY, 1000, 7, STANDBY);
    assert_eq!(verdict, Verdict { seat: PRIMARY, worker: 0, reason: Reason::Dropped });
}

#[test]
fn forever_is_in_the_future() {
    let mut liveness = state(1, [(1, 0), (0, 0)]);
    liveness.seats[0].deadlines[0] = i64::MAX as u64;
    for now in [0, 1, 1 << 40, i64::MAX as u64 - 1] {
        assert_eq!(choose(&liveness, now, 0, 0).reason, Reason::Preferred, "at {now}");
    }
}

/// Walks the hashes in equal steps: each live worker gets its share, give or take one step.
#[test]
fn hashes_spread_evenly() {
    const STEPS: u64 = 1 << 16;
    for live in
        [1, 0b11, 0b101, 0b1011, 0x8000_0000_0000_0001, 0x5555_5555_5555_5555, u64::MAX, u64::MAX << 1]
    {
        let liveness = state(64, [(1, live), (0, 0)]);
        let mut served = [0u64; MAX_WORKERS];
        for step in 0..STEPS {
            served[choose(&liveness, 1000, (step << 16) as u32, 0).worker as usize] += 1;
        }
        let share = STEPS / u64::from(live.count_ones());
        for (worker, served) in served.into_iter().enumerate() {
            let expected = if live >> worker & 1 == 1 { share } else { 0 };
            assert!(served.abs_diff(expected) <= 1, "worker {worker} of {live:#x}: {served}, not {expected}");
        }
    }
}

#[test]
fn reasons_fit_their_counters() {
    for (number, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, number);
        assert!(number < proxy_common::steer::REASONS);
    }
}
