use super::*;
use Action::*;

const MS: u64 = 1_000_000;

fn policy() -> Policy {
    Policy {
        fence_after: 1000 * MS,
        failback_after: Some(10_000 * MS),
        start_timeout: 5000 * MS,
        recovery: 100 * MS,
        respawn: 100 * MS,
        kill_again: 1000 * MS,
        longest_look: u64::MAX,
        workers: 2,
    }
}

const FINE: Seen = Seen { dead: false, may_start: false, running: true, lapsed: 0 };
const SILENT: Seen = Seen { lapsed: 0b11, ..FINE };
const HALF: Seen = Seen { lapsed: 0b10, ..FINE };
const DEAD: Seen = Seen { dead: true, may_start: true, running: false, lapsed: 0b11 };

const HUNG_DEATH: Action = Bury { seat: 0, reason: FailoverReason::Hung, was_ready: true };

/// Both pools ready since 100 ms.
fn running(policy: Policy) -> Plan {
    let mut plan = Plan::new(policy);
    assert_eq!(plan.tick(0, [DEAD, DEAD]), [Spawn(0), Spawn(1)]);
    assert_eq!(plan.tick(100 * MS, [FINE, FINE]), [Welcome(0), Welcome(1)]);
    plan
}

#[test]
fn a_dead_primary_is_replaced_and_fails_back_later() {
    let mut plan = running(policy());
    let at_death = plan.tick(200 * MS, [DEAD, FINE]);
    assert_eq!(
        at_death,
        [
            Count { from: 0, reason: FailoverReason::Killed },
            Bury { seat: 0, reason: FailoverReason::Killed, was_ready: true },
            Bypass(0),
            Bequeath(0),
            Prefer(1),
            Lend { seat: 0, worker: 0 },
            Lend { seat: 0, worker: 1 },
        ]
    );
    assert_eq!(plan.tick(210 * MS, [DEAD, FINE]), [Spawn(0)]);
    let back = plan.tick(300 * MS, [FINE, FINE]);
    assert_eq!(back, [Welcome(0), Return { seat: 0, worker: 0 }, Return { seat: 0, worker: 1 }]);
    assert_eq!(plan.tick(10_299 * MS, [FINE, FINE]), []);
    assert_eq!(plan.tick(10_300 * MS, [FINE, FINE]), [Prefer(0)]);
}

#[test]
fn silence_lends_queues_first_and_kills_only_after_fence_after() {
    let mut plan = running(policy());
    let lent = [Lend { seat: 0, worker: 0 }, Lend { seat: 0, worker: 1 }];
    let at_lapse = plan.tick(200 * MS, [SILENT, FINE]);
    assert_eq!(at_lapse[0], Count { from: 0, reason: FailoverReason::Hung });
    assert_eq!(at_lapse[1..], lent);
    assert_eq!(plan.state(0), PoolState::Suspect);
    assert_eq!(plan.tick(1199 * MS, [SILENT, FINE]), []);
    assert_eq!(plan.tick(1200 * MS, [SILENT, FINE]), [Bypass(0), Fence(0)]);
    // The failover was counted when the leases lapsed.
    assert_eq!(plan.tick(1210 * MS, [DEAD, FINE]), [HUNG_DEATH, Bypass(0), Bequeath(0), Prefer(1)]);
}

#[test]
fn a_pool_that_comes_back_gets_its_queues_back_after_a_while() {
    let mut plan = running(policy());
    plan.tick(200 * MS, [SILENT, FINE]);
    assert_eq!(plan.tick(500 * MS, [FINE, FINE]), []);
    assert_eq!(plan.state(0), PoolState::Ready);
    assert_eq!(plan.tick(599 * MS, [FINE, FINE]), []);
    let back = [Return { seat: 0, worker: 0 }, Return { seat: 0, worker: 1 }];
    assert_eq!(plan.tick(600 * MS, [FINE, FINE]), back);
}

#[test]
fn one_silent_worker_is_lent_alone_and_counts_no_failover() {
    let mut plan = running(policy());
    assert_eq!(plan.tick(200 * MS, [HALF, FINE]), [Lend { seat: 0, worker: 1 }]);
    assert_eq!(plan.tick(1200 * MS, [HALF, FINE]), [Bypass(0), Fence(0), Lend { seat: 0, worker: 0 }]);
}

#[test]
fn a_machine_that_was_stopped_as_a_whole_kills_nobody() {
    let mut plan = running(policy());
    // An hour passes unseen; leases are long gone, but were seen gone only now.
    let woken = plan.tick(3_600_000 * MS, [SILENT, SILENT]);
    assert!(!woken.iter().any(|action| matches!(action, Fence(_))), "{woken:?}");
    assert!(!plan.tick(3_600_010 * MS, [FINE, FINE]).iter().any(|action| matches!(action, Fence(_))));
}

#[test]
fn a_dead_standby_moves_no_traffic() {
    let mut plan = running(policy());
    let actions = plan.tick(200 * MS, [FINE, DEAD]);
    assert!(!actions.iter().any(|action| matches!(action, Prefer(_) | Count { .. })), "{actions:?}");
}

#[test]
fn a_pool_that_dies_at_once_is_started_again_ever_more_slowly() {
    let mut plan = running(policy());
    let mut starts = Vec::new();
    for ms in 200..2000 {
        let dead = plan.state(0) != PoolState::Dead;
        let seen = if dead { DEAD } else { Seen { dead: true, ..DEAD } };
        if plan.tick(ms * MS, [seen, FINE]).contains(&Spawn(0)) {
            starts.push(ms);
        }
    }
    let gaps: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.is_sorted() && gaps.len() < 8 && gaps.last() > Some(&300), "{gaps:?}");
}

#[test]
fn a_pool_that_hangs_now_and_then_is_started_again_at_once() {
    let mut plan = running(policy());
    for round in 1..9 {
        let hour = round * 3_600_000;
        plan.tick(hour * MS, [SILENT, FINE]);
        assert!(plan.tick((hour + 1000) * MS, [SILENT, FINE]).contains(&Fence(0)));
        plan.tick((hour + 1010) * MS, [DEAD, FINE]);
        assert_eq!(plan.tick((hour + 1020) * MS, [DEAD, FINE]), [Spawn(0)], "round {round}");
        assert!(plan.tick((hour + 1100) * MS, [FINE, FINE]).contains(&Welcome(0)));
    }
}

#[test]
fn a_manual_failover_stays_until_told() {
    let mut plan = running(policy());
    let moved = plan.prefer(1);
    assert_eq!(moved, Ok(vec![Prefer(1), Count { from: 0, reason: FailoverReason::Manual }]));
    assert_eq!(plan.tick(60_000 * MS, [FINE, FINE]), []);
    assert_eq!(plan.prefer(0), Ok(vec![Prefer(0)]));
    plan.tick(61_000 * MS, [FINE, DEAD]);
    assert!(plan.prefer(1).unwrap_err().contains("dead"));
}

#[test]
fn both_dead_are_both_started_again() {
    let mut plan = running(policy());
    plan.tick(5000 * MS, [DEAD, DEAD]);
    assert_eq!(plan.tick(5010 * MS, [DEAD, DEAD]), [Spawn(0), Spawn(1)]);
    assert_eq!(plan.tick(5100 * MS, [FINE, FINE])[..2], [Welcome(0), Welcome(1)]);
}

#[test]
fn a_pool_that_never_gets_ready_is_killed() {
    let mut plan = Plan::new(policy());
    plan.tick(0, [DEAD, DEAD]);
    let stuck = Seen { running: false, ..SILENT };
    assert_eq!(plan.tick(5000 * MS, [stuck, FINE])[..2], [Bypass(0), Fence(0)]);
}

#[test]
fn a_new_pool_waits_until_the_old_one_is_adopted_but_not_for_ever() {
    let mut plan = running(policy());
    plan.tick(200 * MS, [DEAD, FINE]);
    let unread = Seen { may_start: false, ..DEAD };
    assert_eq!(plan.tick(210 * MS, [unread, FINE]), []);
    assert_eq!(plan.clone().tick(220 * MS, [DEAD, FINE]), [Spawn(0)]);
    assert_eq!(plan.tick(1200 * MS, [unread, FINE]), [Spawn(0)]);
}

#[test]
fn a_pool_that_dies_while_starting_was_never_ready() {
    let mut plan = running(policy());
    plan.tick(200 * MS, [FINE, DEAD]);
    assert_eq!(plan.tick(210 * MS, [FINE, DEAD]), [Spawn(1)]);
    let death = plan.tick(220 * MS, [FINE, DEAD]);
    assert_eq!(death[0], Bury { seat: 1, reason: FailoverReason::Killed, was_ready: false });
}

/// As it is run: a look every 10 ms, and a gap between looks counts for 50 ms at most.
fn real() -> Policy {
    Policy { longest_look: 50 * MS, ..policy() }
}

/// Looks every `step` milliseconds up to and with `to`, and answers what was to be done, and when.
fn watch(plan: &mut Plan, (from, to): (u64, u64), step: u64, seen: [Seen; SEATS]) -> Vec<(u64, Action)> {
    let looks = (from..=to).step_by(step as usize);
    looks.flat_map(|ms| plan.tick(ms * MS, seen).into_iter().map(move |action| (ms, action))).collect()
}

#[test]
fn a_stopped_supervisor_has_seen_nothing() {
    let mut plan = running(real());
    // The pool has been silent for 900 ms when everything is stopped for an hour.
    watch(&mut plan, (200, 1100), 10, [SILENT, FINE]);
    let hour = 3_600_000;
    let woken = watch(&mut plan, (hour, hour + 40), 10, [SILENT, SILENT]);
    assert!(!woken.iter().any(|(_, action)| matches!(action, Fence(_))), "{woken:?}");
    let after = watch(&mut plan, (hour + 50, hour + 5000), 10, [FINE, FINE]);
    assert!(after.iter().all(|(_, action)| matches!(action, Return { .. })), "{after:?}");
}

#[test]
fn a_starved_supervisor_fences_a_hang_all_the_same() {
    for step in [10, 50, 200, 1000] {
        let mut plan = running(real());
        let actions = watch(&mut plan, (1000, 60_000), step, [SILENT, FINE]);
        let fenced = actions.iter().find(|(_, action)| *action == Fence(0)).map(|(ms, _)| *ms);
        // The first look begins the silence; each one after it counts for 50 ms at most.
        assert_eq!(fenced, Some(1000 + 1000 / step.min(50) * step), "a look every {step} ms");
    }
}

#[test]
fn of_two_silent_pools_the_idle_one_is_replaced_first() {
    let mut plan = running(policy());
    let at_first = plan.tick(200 * MS, [SILENT, SILENT]);
    assert!(!at_first.iter().any(|action| matches!(action, Count { .. })), "there is nobody to go to");
    assert_eq!(plan.tick(1200 * MS, [SILENT, SILENT])[..2], [Bypass(1), Fence(1)]);
    assert_eq!(plan.tick(1210 * MS, [SILENT, SILENT]), []);
    plan.tick(1220 * MS, [SILENT, DEAD]);
    assert_eq!(plan.tick(1230 * MS, [SILENT, DEAD]), [Spawn(1)]);
    assert_eq!(plan.tick(1300 * MS, [SILENT, SILENT]), []);
    let replaced = plan.tick(1310 * MS, [SILENT, FINE]);
    let count = Count { from: 0, reason: FailoverReason::Hung };
    assert_eq!(replaced[..4], [Welcome(1), count, Bypass(0), Fence(0)]);
}

#[test]
fn a_silent_pool_that_comes_back_meanwhile_is_spared() {
    let mut plan = running(policy());
    plan.tick(200 * MS, [SILENT, SILENT]);
    plan.tick(1200 * MS, [SILENT, SILENT]);
    let later = watch(&mut plan, (1210, 20_000), 10, [FINE, SILENT]);
    assert!(!later.iter().any(|(_, action)| matches!(action, Fence(0))), "{later:?}");
}

#[test]
fn a_silent_pool_waits_for_the_other_one_but_not_for_ever() {
    let mut plan = running(policy());
    plan.tick(200 * MS, [SILENT, DEAD]);
    plan.tick(210 * MS, [SILENT, DEAD]);
    // The new pool dies again and again.
    let actions = watch(&mut plan, (220, 10_000), 10, [SILENT, DEAD]);
    let fenced = actions.iter().find(|(_, action)| *action == Fence(0)).map(|(ms, _)| *ms);
    assert_eq!(fenced, Some(200 + 1000 + 5000));
}

#[test]
fn a_pool_that_does_not_die_is_killed_again_now_and_then() {
    let mut plan = running(policy());
    let actions = watch(&mut plan, (200, 4200), 10, [SILENT, FINE]);
    let kills = actions.into_iter().filter(|(_, action)| matches!(action, Fence(_) | KillAgain { .. }));
    let again = |is_first| KillAgain { seat: 0, is_first };
    let expected = [(1200, Fence(0)), (2200, again(true)), (3200, again(false)), (4200, again(false))];
    assert_eq!(kills.collect::<Vec<_>>(), expected);
}

#[test]
fn a_flapping_pool_is_one_failover_until_it_has_recovered() {
    let mut plan = running(policy());
    let mut counted = |from: u64, seen| {
        let actions = watch(&mut plan, (from, from), 1, seen);
        actions.iter().filter(|(_, action)| matches!(action, Count { .. })).count()
    };
    let flaps: usize = (0..20)
        .map(|flap| counted(200 + 20 * flap, [SILENT, FINE]) + counted(210 + 20 * flap, [FINE, FINE]))
        .sum();
    assert_eq!(flaps, 1);
    assert_eq!(counted(700, [FINE, FINE]) + counted(710, [SILENT, FINE]), 1);
}

/// A twin's plan goes on: pools that serve are left alone, one that died unseen is buried.
#[test]
fn a_resumed_plan_leaves_alone_what_lives() {
    let mut plan = Plan::resume(policy(), [PoolState::Ready, PoolState::Suspect], 1, true);
    assert_eq!(plan.tick(1_000 * MS, [FINE, FINE]), []);
    assert_eq!((plan.first, plan.is_pinned()), (1, true));
    let actions = plan.tick(1_001 * MS, [FINE, DEAD]);
    assert!(actions.contains(&Bequeath(1)) && actions.contains(&Prefer(0)), "{actions:?}");
    let mut plan = Plan::resume(policy(), [PoolState::Dead, PoolState::Ready], 1, false);
    assert!(plan.tick(1_000 * MS, [DEAD, FINE]).contains(&Spawn(0)));
}
