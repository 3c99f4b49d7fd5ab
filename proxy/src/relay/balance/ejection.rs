//! Passive ejection: servers that fail connections are passed over for a while, for longer each time in a row.
//! Times are milliseconds of the monotonic clock and wrap after 49 days.

use std::sync::atomic::Ordering::Relaxed;

use crate::{config::rules::Ejection, relay::millis, table::ServerState};

/// How long the ejection of this number in a row lasts, counted from 1.
fn duration_ms(rules: &Ejection, ejections: u32) -> u32 {
    let doublings = ejections.saturating_sub(1).min(31);
    (u64::from(millis(rules.time)) << doublings).min(millis(rules.max_time).into()) as u32
}

/// How long a server goes on being passed over, milliseconds; 0 if it is not.
pub fn passed_over_ms(server: &ServerState, rules: &Ejection, now_ms: u32) -> u32 {
    if server.failures.load(Relaxed) > 0 { left_ms(server, rules, now_ms) } else { 0 }
}

/// Whether a server is passed over now.
pub fn is_passed_over(server: &ServerState, rules: &Ejection, now_ms: u32) -> bool {
    passed_over_ms(server, rules, now_ms) > 0
}

/// For how long a server is up again after an ejection; `None` if it was never ejected.
pub fn back_for_ms(server: &ServerState, rules: &Ejection, now_ms: u32) -> Option<u32> {
    let since = || match left_ms(server, rules, now_ms) {
        0 => now_ms.wrapping_sub(server.passed_over_until_ms.load(Relaxed)),
        _ => 0,
    };
    has_been_ejected(server).then(since)
}

/// What is left of an ejection. An end further away than one may last is one long past.
fn left_ms(server: &ServerState, rules: &Ejection, now_ms: u32) -> u32 {
    let left = server.passed_over_until_ms.load(Relaxed).wrapping_sub(now_ms);
    if has_been_ejected(server) && left <= millis(rules.max_time) { left } else { 0 }
}

fn has_been_ejected(server: &ServerState) -> bool {
    server.ejections.load(Relaxed) > 0
}

/// Notes that a server failed, and answers whether it is ejected for that. Failures while it is passed over anyway
/// are not counted: many flows notice one and the same crash.
pub fn note_failure(server: &ServerState, rules: &Ejection, now_ms: u32) -> bool {
    if is_passed_over(server, rules, now_ms) {
        return false;
    }
    let failures = server.failures.load(Relaxed).saturating_add(1);
    server.failures.store(failures, Relaxed);
    if rules.failures == 0 || failures < rules.failures {
        return false;
    }
    let mut before = server.ejections.load(Relaxed);
    if failures == rules.failures {
        // It has answered since the last one: for each such time that it was up, that is one less in a row.
        let up_for = back_for_ms(server, rules, now_ms).unwrap_or(0);
        before = before.saturating_sub(up_for / millis(rules.time).max(1));
    }
    let ejections = before.saturating_add(1);
    server.passed_over_until_ms.store(now_ms.wrapping_add(duration_ms(rules, ejections)), Relaxed);
    server.ejections.store(ejections, Relaxed);
    true
}

/// Notes that a server answered: it is up.
pub fn note_success(server: &ServerState, rules: &Ejection, now_ms: u32) {
    // Read first: the state is shared by all workers, and a store takes its cache line from them.
    if server.failures.load(Relaxed) == 0 {
        return;
    }
    if left_ms(server, rules, now_ms) > 0 {
        server.passed_over_until_ms.store(now_ms, Relaxed);
    }
    server.failures.store(0, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use zerocopy::FromZeros;

    const RULES: Ejection =
        Ejection { failures: 1, time: Duration::from_secs(1), max_time: Duration::from_secs(60) };
    const AFTER_THREE: Ejection = Ejection { failures: 3, ..RULES };

    fn state(failures: u32, ejections: u32, until_ms: u32) -> ServerState {
        let server = ServerState::new_zeroed();
        server.failures.store(failures, Relaxed);
        server.ejections.store(ejections, Relaxed);
        server.passed_over_until_ms.store(until_ms, Relaxed);
        server
    }

    #[test]
    fn ejections_in_a_row_double_the_time_up_to_the_limit() {
        let times: Vec<u32> = [1, 2, 3, 6, 7, 8, u32::MAX].map(|row| duration_ms(&RULES, row)).to_vec();
        assert_eq!(times, [1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn passing_over_ends_even_when_the_clock_wraps() {
        let at = |until_ms, now_ms| is_passed_over(&state(1, 1, until_ms), &RULES, now_ms);
        assert!(at(500, 499) && !at(500, 500));
        assert!(at(100, u32::MAX - 100) && !at(u32::MAX - 100, 100));
        // Long past, more than half the clock's range ago.
        assert!(!at(1000, 3_000_000_000));
        assert!(!is_passed_over(&state(0, 1, 500), &RULES, 499), "it has answered");
        assert!(!is_passed_over(&state(1, 0, 500), &RULES, 499), "it was never ejected");
    }

    #[test]
    fn one_crash_seen_by_many_flows_is_one_ejection() {
        let server = ServerState::new_zeroed();
        let ejected = [0, 1, 999].map(|now_ms| note_failure(&server, &RULES, now_ms));
        assert_eq!(ejected, [true, false, false]);
        let is_out = |now_ms| is_passed_over(&server, &RULES, now_ms);
        assert!(is_out(999) && !is_out(1000));
        assert!(note_failure(&server, &RULES, 1000));
        assert!(is_out(2999) && !is_out(3000));
        note_success(&server, &RULES, 1500);
        assert!(!is_out(1500));
        let back = |now_ms| back_for_ms(&server, &RULES, now_ms);
        assert_eq!([back(1400), back(1500), back(1700)], [0, 0, 200].map(Some));
        assert_eq!(back(3_000_000_000), Some(3_000_000_000 - 1500), "long past");
        assert_eq!(back_for_ms(&ServerState::new_zeroed(), &RULES, 7), None);
    }

    #[test]
    fn so_many_failures_in_a_row_eject_and_then_each_one() {
        let server = ServerState::new_zeroed();
        let fail = |now_ms| note_failure(&server, &AFTER_THREE, now_ms);
        assert_eq!([fail(1), fail(2)], [false; 2]);
        note_success(&server, &AFTER_THREE, 3);
        assert_eq!([fail(4), fail(5), fail(6)], [false, false, true]);
        // It is on trial after that.
        assert!(fail(1007) && is_passed_over(&server, &AFTER_THREE, 3006));
        let never = Ejection { failures: 0, ..RULES };
        assert!(!note_failure(&ServerState::new_zeroed(), &never, 1));
    }

    #[test]
    fn time_that_it_was_up_makes_the_next_ejection_shorter() {
        let length = |up_ms| {
            let server = state(0, 4, 10_000);
            assert!(note_failure(&server, &RULES, 10_000 + up_ms));
            server.passed_over_until_ms.load(Relaxed) - 10_000 - up_ms
        };
        assert_eq!([999, 1000, 3500, 100_000].map(length), [16_000, 8000, 2000, 1000]);
    }
}
