//! When a flow has had its time. Pure: times are milliseconds of the monotonic clock, and wrap.

use std::time::Duration;

use crate::{config::rules::ListenerRules, table::Ending};

/// The longest limit that can be seen to have passed before the clock wraps, and that settings can have. Longer ones
/// count as this.
const MOST_MS: u32 = 24 * 24 * 3600 * 1000;

/// Most datagrams of a client that are taken for a mere question: a resolver asks for IPv4 and IPv6 addresses by one port.
const QUESTIONS: u32 = 2;
/// Most datagrams that are taken for its answer.
const ANSWERS: u32 = 8;
/// Longest time from a question to the last of its answer. The few that take longer are kept as long as talk is.
const EXCHANGE: Duration = Duration::from_secs(2);
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

/// What has gone by a UDP flow.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Datagrams to the server.
    pub up: u32,
    /// Datagrams to the client.
    pub down: u32,
    /// Whether the client has sent more after an answer ([`crate::table::flag::WENT_ON`]).
    pub went_on: bool,
    /// When.
    pub times: Times,
}

/// How readily a UDP flow makes room for a new one: what it costs least to lose first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// It is to end anyway.
    Over,
    /// Nothing has ever come back. Before what was answered, so that a flood that nobody answers pushes out itself.
    Unanswered,
    /// A question that has had its answer.
    Answered,
    /// Both sides have talked.
    Talked,
}

/// Whether a UDP flow may be ended to make room for a new one. Nothing that is in use may, so that whoever sends from
/// many addresses pushes out no one else: what was a conversation has to be silent for half of the time after which
/// it would end anyway. So have all.
pub fn makes_room(rules: &ListenerRules, traffic: &Traffic, now_ms: u32) -> Option<Readiness> {
    let (readiness, silence) = readiness(traffic);
    let half = rules.udp_idle / 2;
    let silence = silence.map_or(half, |silence| silence.min(half));
    has_passed(traffic.times.active_ms, Some(silence), now_ms).then_some(readiness)
}

/// How readily, once it is silent, and for how long it has to be, if not for half of its time. What lacks any one thing
/// that questions have is none.
fn readiness(traffic: &Traffic) -> (Readiness, Option<Duration>) {
    let Traffic { up, down, went_on, times } = *traffic;
    let was_long = has_passed(times.began_ms, Some(EXCHANGE), times.active_ms);
    match down {
        _ if went_on => (Readiness::Talked, None),
        0 => (Readiness::Unanswered, Some(UNANSWERED)),
        1..=ANSWERS if up <= QUESTIONS && down >= up && !was_long => (Readiness::Answered, Some(ANSWERED)),
        _ => (Readiness::Talked, None),
    }
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

    /// Datagrams up and down, and how long it took until the last one.
    fn traffic((up, down): (u32, u32), active_ms: u32) -> Traffic {
        Traffic { up, down, went_on: false, times: Times { began_ms: 0, active_ms } }
    }

    #[test]
    fn what_is_not_in_use_makes_room() {
        let rules = ListenerRules { udp_idle: Duration::from_secs(60), ..ListenerRules::default() };
        for (counts, took_ms, least_ms, readiness) in [
            ((1, 1), 0, 1000, Readiness::Answered),
            ((2, 8), 1999, 1000, Readiness::Answered),
            ((1, 0), 0, 5000, Readiness::Unanswered),
            ((9, 0), 9000, 5000, Readiness::Unanswered),
            ((2, 1), 0, 30_000, Readiness::Talked),
            ((3, 3), 0, 30_000, Readiness::Talked),
        ] {
            let traffic = traffic(counts, took_ms);
            assert_eq!(makes_room(&rules, &traffic, took_ms + least_ms - 1), None, "{counts:?}");
            assert_eq!(makes_room(&rules, &traffic, took_ms + least_ms), Some(readiness), "{counts:?}");
        }
        let soon = ListenerRules { udp_idle: Duration::from_millis(600), ..rules };
        let readiness = makes_room(&soon, &traffic((1, 1), 0), 300);
        assert_eq!(readiness, Some(Readiness::Answered), "half of the idle time");
    }

    /// A subscriber that is sent much, or now and then; a registration, whose client sends it again as the server has
    /// told it to, and is called later; a handshake with a cookie.
    #[test]
    fn what_only_begins_like_a_question_is_none() {
        let went_on = |counts| Traffic { went_on: true, ..traffic(counts, 0) };
        let talks = [traffic((1, 9), 0), traffic((1, 100_000), 0), traffic((1, 2), 2000), went_on((2, 2))];
        for talk in talks.into_iter().chain([went_on((2, 0)), went_on((0, 0)), traffic((0, 9), 0)]) {
            assert_eq!(readiness(&talk).0, Readiness::Talked, "{talk:?}");
        }
    }

    #[test]
    fn a_flood_that_nobody_answers_pushes_out_itself() {
        let order = [Readiness::Over, Readiness::Unanswered, Readiness::Answered, Readiness::Talked];
        assert!(order.is_sorted());
    }
}
