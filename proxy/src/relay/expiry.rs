//! When a flow has had its time. Pure: times are milliseconds of the monotonic clock, and wrap.

use std::time::Duration;

use crate::{config::rules::ListenerRules, table::Ending};

/// The longest limit that can be seen to have passed before the clock wraps, and that settings can have. Longer ones
/// count as this.
const MOST_MS: u32 = 24 * 24 * 3600 * 1000;

/// Most questions of what is taken for an answered question: a resolver asks for IPv4 and IPv6 addresses from one port.
const QUESTIONS: u32 = 2;
/// Silence after which an answered question may make room: more than a round trip, after which the client of a handshake
/// goes on, from the port that its cookie is for (RFC 6298 takes as much for the first one), and than lies between
/// the parts of an answer.
const ANSWERED: Duration = Duration::from_secs(1);
/// Silence after which what was never answered may make room: a client gives up, or asks again, after 5 s
/// (resolv.conf(5), `RES_TIMEOUT`).
const UNANSWERED: Duration = Duration::from_secs(5);

/// What is known of a flow's time.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it began.
    pub began_ms: u32,
    /// When anything last came or went.
    pub active_ms: u32,
}

/// Whether a TCP connection is to end, and why. `is_half_closed`: one side has ended.
pub fn of_connection(
    rules: &ListenerRules,
    times: Times,
    is_half_closed: bool,
    now_ms: u32,
) -> Option<Ending> {
    if has_passed(times.began_ms, rules.max_lifetime, now_ms) {
        return Some(Ending::Lifetime);
    }
    if is_half_closed && has_passed(times.active_ms, rules.half_close_timeout, now_ms) {
        return Some(Ending::HalfClosed);
    }
    has_passed(times.active_ms, rules.idle_timeout, now_ms).then_some(Ending::Idle)
}

/// Whether a UDP flow is to end, and why. Nobody says when one has ended, so what drains waits for no longer than
/// `drain_idle`, if there is one.
pub fn of_flow(
    rules: &ListenerRules,
    times: Times,
    drain_idle: Option<Duration>,
    now_ms: u32,
) -> Option<Ending> {
    if has_passed(times.began_ms, rules.max_lifetime, now_ms) {
        return Some(Ending::Lifetime);
    }
    let limit = drain_idle.map_or(rules.udp_idle, |idle| idle.min(rules.udp_idle));
    has_passed(times.active_ms, Some(limit), now_ms).then_some(Ending::Idle)
}

/// How readily a UDP flow makes room for a new one: the least ready last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// A question that has had its answer.
    Answered,
    /// Nothing has ever come back.
    Unanswered,
    /// Both sides have talked.
    Silent,
}

/// Whether a UDP flow may be ended to make room for a new one, by how many datagrams have gone up and down and when
/// the last one did. Nothing that is in use may, so that whoever sends from many addresses pushes out no one else:
/// what was a conversation has to be silent for half of the time after which it would end anyway. So have all.
pub fn makes_room(
    rules: &ListenerRules,
    (up, down): (u32, u32),
    active_ms: u32,
    now_ms: u32,
) -> Option<Readiness> {
    let half = rules.udp_idle / 2;
    let (readiness, silence) = if down == 0 {
        (Readiness::Unanswered, UNANSWERED)
    } else if up <= QUESTIONS && down >= up {
        (Readiness::Answered, ANSWERED)
    } else {
        (Readiness::Silent, half)
    };
    has_passed(active_ms, Some(silence.min(half)), now_ms).then_some(readiness)
}

/// Whether so much time has passed since. What happened may be a little later than the caller's idea of now.
fn has_passed(since_ms: u32, limit: Option<Duration>, now_ms: u32) -> bool {
    let passed = now_ms.wrapping_sub(since_ms) as i32;
    let limit_ms = limit.map(|limit| limit.as_millis().min(u128::from(MOST_MS)));
    limit_ms.is_some_and(|limit_ms| passed >= 0 && passed as u128 >= limit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    fn rules(lifetime: u64, idle: u64, half_close: u64) -> ListenerRules {
        ListenerRules {
            max_lifetime: ms(lifetime),
            idle_timeout: ms(idle),
            half_close_timeout: ms(half_close),
            ..ListenerRules::default()
        }
    }

    #[test]
    fn times_wrap_and_may_be_a_little_apart() {
        assert!(has_passed(u32::MAX - 10, ms(60), 50));
        assert!(!has_passed(u32::MAX - 10, ms(60), 40));
        assert!(!has_passed(105, ms(60), 100), "a moment that is yet to come");
        assert!(!has_passed(0, None, i32::MAX as u32));
    }

    #[test]
    fn limits_beyond_the_clock_end_in_time() {
        let long = Some(Duration::from_secs(365 * 24 * 3600));
        assert!(has_passed(7, long, 7 + MOST_MS) && !has_passed(7, long, 6 + MOST_MS));
    }

    #[test]
    fn a_connection_ends_by_what_comes_first() {
        let rules = rules(1000, 300, 100);
        let at = |began_ms, active_ms, is_half_closed, now_ms| {
            of_connection(&rules, Times { began_ms, active_ms }, is_half_closed, now_ms)
        };
        assert_eq!(at(0, 0, false, 299), None);
        assert_eq!(at(0, 0, false, 300), Some(Ending::Idle));
        assert_eq!(at(0, 0, true, 99), None);
        assert_eq!(at(0, 0, true, 100), Some(Ending::HalfClosed));
        assert_eq!(at(0, 999, false, 1000), Some(Ending::Lifetime));
    }

    #[test]
    fn never_is_never() {
        let rules =
            ListenerRules { idle_timeout: None, half_close_timeout: None, ..ListenerRules::default() };
        let times = Times { began_ms: 0, active_ms: 0 };
        assert_eq!(of_connection(&rules, times, true, i32::MAX as u32), None);
    }

    #[test]
    fn a_half_closed_connection_is_idle_too() {
        let rules = ListenerRules { half_close_timeout: None, ..rules(1000, 300, 0) };
        let times = Times { began_ms: 0, active_ms: 0 };
        assert_eq!(of_connection(&rules, times, true, 300), Some(Ending::Idle));
    }

    #[test]
    fn a_flow_ends_sooner_while_it_drains() {
        let rules = ListenerRules {
            udp_idle: Duration::from_millis(500),
            max_lifetime: ms(900),
            ..ListenerRules::default()
        };
        let times = Times { began_ms: 0, active_ms: 0 };
        assert_eq!(of_flow(&rules, times, None, 499), None);
        assert_eq!(of_flow(&rules, times, None, 500), Some(Ending::Idle));
        assert_eq!(of_flow(&rules, times, ms(200), 200), Some(Ending::Idle));
        assert_eq!(of_flow(&rules, times, ms(700), 500), Some(Ending::Idle));
        let times = Times { active_ms: 899, ..times };
        assert_eq!(of_flow(&rules, times, None, 900), Some(Ending::Lifetime));
    }

    #[test]
    fn what_is_not_in_use_makes_room() {
        let rules = ListenerRules { udp_idle: Duration::from_secs(60), ..ListenerRules::default() };
        let since = |counts, silent_ms| makes_room(&rules, counts, 0, silent_ms);
        for (counts, least_ms, readiness) in [
            ((1, 1), 1000, Readiness::Answered),
            ((2, 5), 1000, Readiness::Answered),
            ((1, 0), 5000, Readiness::Unanswered),
            ((9, 0), 5000, Readiness::Unanswered),
            ((2, 1), 30_000, Readiness::Silent),
            ((3, 3), 30_000, Readiness::Silent),
        ] {
            assert_eq!(since(counts, least_ms - 1), None, "{counts:?}");
            assert_eq!(since(counts, least_ms), Some(readiness), "{counts:?}");
        }
        let soon = ListenerRules { udp_idle: Duration::from_millis(600), ..rules };
        assert_eq!(makes_room(&soon, (1, 1), 0, 300), Some(Readiness::Answered), "half of the idle time");
        assert!(Readiness::Answered < Readiness::Unanswered && Readiness::Unanswered < Readiness::Silent);
    }
}
