//! New connections a second, counted by all workers in one word: the generic cell rate algorithm (ITU-T I.371).
//! The word is when the next one would be due if they came evenly; how far it is ahead is how many came at once.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

use crate::config::rules::Rate;

/// How late a worker may be that has looked at the clock. If the word is further ahead, it is by a slower rate, before
/// a reload, or by a wild write, and begins anew.
const LATE_NS: u64 = 1_000_000_000;

/// Whether one more may come at `now_ns`, nanoseconds of the monotonic clock; then it has come. Whoever stops or
/// dies in it is in nobody's way.
pub fn take(word: &AtomicU64, rate: Rate, now_ns: u64) -> bool {
    word.try_update(AcqRel, Acquire, |due_ns| after(due_ns, rate, now_ns)).is_ok()
}

/// The word when one more has come; `None` if it may not.
fn after(due_ns: u64, rate: Rate, now_ns: u64) -> Option<u64> {
    let period_ns = ((1e9 / rate.per_second) as u64).max(1);
    let ahead_ns = period_ns.saturating_mul(rate.burst.saturating_sub(1).into());
    let full_ns = now_ns.saturating_add(ahead_ns).saturating_add(period_ns);
    let is_foreign = due_ns > full_ns.saturating_add(LATE_NS);
    let due_ns = if is_foreign { now_ns } else { due_ns.max(now_ns) };
    (due_ns - now_ns <= ahead_ns).then(|| due_ns.saturating_add(period_ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;

    const TEN: Rate = Rate { per_second: 10.0, burst: 1 };
    const MS: u64 = 1_000_000;

    fn taken(word: &AtomicU64, rate: Rate, at_ns: u64, tries: usize) -> usize {
        (0..tries).filter(|_| take(word, rate, at_ns)).count()
    }

    #[test]
    fn they_come_evenly_without_a_burst() {
        let word = AtomicU64::new(0);
        let came: Vec<u64> = (1000..2000).filter(|ms| take(&word, TEN, ms * MS)).collect();
        assert_eq!(came, (1000..2000).step_by(100).collect::<Vec<_>>());
    }

    #[test]
    fn a_burst_comes_at_once_after_a_rest() {
        let (word, rate) = (AtomicU64::new(0), Rate { burst: 5, ..TEN });
        assert_eq!(taken(&word, rate, 1000 * MS, 9), 5);
        assert_eq!(taken(&word, rate, 1099 * MS, 9), 0);
        assert_eq!(taken(&word, rate, 1300 * MS, 9), 3);
        assert_eq!(taken(&word, rate, 9000 * MS, 9), 5);
    }

    #[test]
    fn a_word_from_elsewhere_is_not_in_the_way() {
        for due_ns in [u64::MAX, 1 << 40, 2100 * MS + 1] {
            let word = AtomicU64::new(due_ns);
            assert_eq!(taken(&word, TEN, 1000 * MS, 3), 1, "{due_ns}");
        }
        assert!(!take(&AtomicU64::new(2100 * MS), TEN, 1000 * MS), "another worker is ahead");
        let extreme = Rate { per_second: 1e-9, burst: u32::MAX };
        assert!(take(&AtomicU64::new(0), extreme, u64::MAX - 1));
        assert!(take(&AtomicU64::new(0), Rate { per_second: 1e18, burst: 1 }, 5));
    }

    #[test]
    fn all_workers_together_are_exact() {
        let (word, came) = (AtomicU64::new(0), AtomicUsize::new(0));
        let rate = Rate { per_second: 1000.0, burst: 50 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for ms in 1000..1200 {
                        came.fetch_add(taken(&word, rate, ms * MS, 3), AcqRel);
                    }
                });
            }
        });
        let came = came.into_inner();
        // Threads are at different times: a late one is refused what an earlier one has taken.
        assert!((50..=50 + 199).contains(&came), "{came}");
        assert_eq!(taken(&word, rate, 1199 * MS, 1000) + came, 50 + 199);
    }

    proptest! {
        /// In no stretch of time more than the burst and what the rate gives.
        #[test]
        fn never_more_than_rate_and_burst(
            steps in prop::collection::vec(0u64..300, 1..200),
            burst in 1u32..8,
        ) {
            let (word, rate) = (AtomicU64::new(0), Rate { per_second: 10.0, burst });
            let mut now = 5_000;
            let mut came = Vec::new();
            for step in steps {
                now += step;
                came.extend(take(&word, rate, now * MS).then_some(now));
            }
            for (first, from) in came.iter().enumerate() {
                for (last, to) in came.iter().enumerate().skip(first) {
                    prop_assert!((last - first) as u64 <= u64::from(burst) - 1 + (to - from) / 100);
                }
            }
        }
    }
}
