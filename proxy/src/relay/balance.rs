//! Which upstream server a new connection or flow goes to, and which ones are passed over.

use std::sync::atomic::Ordering::Relaxed;

use crate::table::ServerState;

/// Longest time for which a server is passed over, milliseconds.
pub const MAX_PASS_OVER_MS: u32 = 60_000;

/// How a server stands to a connection that looks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May be chosen.
    Fit,
    /// Failed of late: chosen only if no other is left.
    PassedOver,
    /// This connection has tried it in vain.
    Tried,
    /// Takes nothing new: vacant, drained, down.
    Out,
}

/// Chooses among `count` servers: of two random fit ones, the one with fewer open connections
/// ("power of two random choices", Mitzenmacher 2001). If none is fit, among the passed-over ones
/// likewise (fail open: a server that seems down is better than none). `None` if all were tried.
///
/// `standing` is asked for two servers as a rule, for all of them if one of the two is not fit;
/// `open` for two.
pub fn choose(
    count: usize,
    standing: impl Fn(usize) -> Standing,
    open: impl Fn(usize) -> u64,
    random: u64,
) -> Option<usize> {
    let less_open = |(first, second)| if open(second) < open(first) { second } else { first };
    let probes = two_of(count, random)?;
    if standing(probes.0) == Standing::Fit && standing(probes.1) == Standing::Fit {
        return Some(less_open(probes));
    }
    let among = |wanted: Standing| {
        let members = || (0..count).filter(|server| standing(*server) == wanted);
        let (first, second) = two_of(members().count(), mixed(random))?;
        Some(less_open((members().nth(first)?, members().nth(second)?)))
    };
    among(Standing::Fit).or_else(|| among(Standing::PassedOver))
}

/// Two different numbers below `count`, every pair as likely; the same twice if `count` is 1.
fn two_of(count: usize, random: u64) -> Option<(usize, usize)> {
    let below = |half: u64, count: usize| (((half & 0xffff_ffff) * count as u64) >> 32) as usize;
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let first = below(random, count);
            let step = 1 + below(random >> 32, count - 1);
            Some((first, (first + step) % count))
        }
    }
}

/// Other random bits: that the first choice failed says something about the first bits, and a
/// second choice by the same bits would be uneven (the finalizer of SplitMix64).
fn mixed(random: u64) -> u64 {
    let bits = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// How long a server is passed over after so many failures in a row: 1 s, and twice as long each
/// time, at most [`MAX_PASS_OVER_MS`].
pub fn pass_over_ms(failures_in_a_row: u32) -> u32 {
    let doublings = failures_in_a_row.saturating_sub(1).min(6);
    (1000 << doublings).min(MAX_PASS_OVER_MS)
}

/// Whether a server that failed last so and so is passed over at `now_ms`. Times are milliseconds
/// and wrap after 49 days; a time more than [`MAX_PASS_OVER_MS`] ahead is one long past.
pub fn is_passed_over(failures_in_a_row: u32, until_ms: u32, now_ms: u32) -> bool {
    failures_in_a_row > 0 && (1..=MAX_PASS_OVER_MS).contains(&until_ms.wrapping_sub(now_ms))
}

/// [`is_passed_over`] of a server's shared state.
pub fn passed_over(server: &ServerState, now_ms: u32) -> bool {
    is_passed_over(server.failures.load(Relaxed), server.passed_over_until_ms.load(Relaxed), now_ms)
}

/// Notes that a server failed. Failures while it is passed over anyway are not counted: many flows
/// notice one and the same crash.
pub fn note_failure(server: &ServerState, now_ms: u32) {
    if passed_over(server, now_ms) {
        return;
    }
    let failures = server.failures.load(Relaxed).saturating_add(1);
    server.passed_over_until_ms.store(now_ms.wrapping_add(pass_over_ms(failures)), Relaxed);
    server.failures.store(failures, Relaxed);
}

/// Notes that a server answered: it is up.
pub fn note_success(server: &ServerState) {
    // Read first: the state is shared by all workers, and a store takes its cache line from them.
    if server.failures.load(Relaxed) != 0 {
        server.failures.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const ROUNDS: u64 = 40_000;

    /// How often each server is chosen in [`ROUNDS`] rounds.
    fn shares(standings: &[Standing], open: &[u64]) -> Vec<u64> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut shares = vec![0; standings.len()];
        for _ in 0..ROUNDS {
            let chosen = choose(standings.len(), |i| standings[i], |i| open[i], random.u64(..));
            shares[chosen.unwrap()] += 1;
        }
        shares
    }

    fn about(share: u64, expected: u64) -> bool {
        share.abs_diff(expected) < ROUNDS / 50
    }

    #[test]
    fn even_servers_get_even_shares_even_when_others_are_unfit() {
        use Standing::{Fit, PassedOver, Tried};
        assert!(shares(&[Fit; 4], &[7; 4]).iter().all(|share| about(*share, ROUNDS / 4)));
        let mixed = shares(&[Fit, Tried, Fit, PassedOver, Fit, Fit], &[7; 6]);
        assert_eq!((mixed[1], mixed[3]), (0, 0));
        assert!([0, 2, 4, 5].iter().all(|server| about(mixed[*server], ROUNDS / 4)), "{mixed:?}");
    }

    #[test]
    fn the_busiest_is_never_chosen_and_the_idlest_most() {
        let shares = shares(&[Standing::Fit; 4], &[1, 2, 3, 9]);
        assert_eq!(shares[3], 0);
        // The idlest wins every pair it is in: half of all pairs.
        assert!(about(shares[0], ROUNDS / 2), "{shares:?}");
    }

    #[test]
    fn passed_over_servers_are_the_last_resort_and_tried_ones_none() {
        use Standing::{PassedOver, Tried};
        let last_resort = shares(&[PassedOver, Tried, PassedOver], &[0; 3]);
        assert_eq!(last_resort[1], 0);
        assert!(about(last_resort[0], ROUNDS / 2));
        for count in 0..4 {
            assert_eq!(choose(count, |_| Tried, |_| 0, 5), None);
        }
    }

    #[test]
    fn a_choice_is_in_range_for_every_count() {
        for count in [1, 2, 3, 1023, 1024] {
            for random in [0, u64::MAX, 1 << 32, u64::from(u32::MAX), 0x1234_5678_9abc_def0] {
                let chosen = choose(count, |_| Standing::Fit, |server| server as u64, random).unwrap();
                assert!(chosen < count);
            }
        }
    }

    #[test]
    fn failures_in_a_row_double_the_time_up_to_a_minute() {
        let times: Vec<u32> = [0, 1, 2, 3, 6, 7, 8, u32::MAX].map(pass_over_ms).to_vec();
        assert_eq!(times, [1000, 1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn passing_over_ends_even_when_the_clock_wraps() {
        assert!(is_passed_over(1, 500, 499));
        assert!(!is_passed_over(1, 500, 500));
        assert!(!is_passed_over(0, 500, 499));
        assert!(is_passed_over(1, 100, u32::MAX - 100));
        assert!(!is_passed_over(1, u32::MAX - 100, 100));
        // Long past, more than half the clock's range ago.
        assert!(!is_passed_over(1, 1000, 3_000_000_000));
    }

    #[test]
    fn one_crash_seen_by_many_flows_is_one_failure() {
        let server = ServerState::new_zeroed();
        for now_ms in [0, 1, 999] {
            note_failure(&server, now_ms);
        }
        assert!(passed_over(&server, 999) && !passed_over(&server, 1000));
        note_failure(&server, 1000);
        assert!(passed_over(&server, 2999) && !passed_over(&server, 3000));
        note_success(&server);
        assert!(!passed_over(&server, 1500));
    }
}
