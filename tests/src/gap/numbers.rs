//! Percentiles.

use std::fmt;
use std::time::Duration;

/// How values spread.
#[derive(Clone, Debug)]
pub struct Spread(
    /// All of them, the least first.
    Vec<Duration>,
);

impl Spread {
    /// Of values in any order.
    pub fn of(mut values: Vec<Duration>) -> Self {
        values.sort();
        Self(values)
    }

    /// Of the values of several spreads together.
    pub fn of_all(spreads: &[Self]) -> Self {
        Self::of(spreads.iter().flat_map(|spread| spread.0.clone()).collect())
    }

    /// The least value that is not exceeded by so many percent, by nearest rank. Zero if there is none.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        let (p50, p99, max) = (ms(50), ms(99), ms(100));
        write!(f, "p50 {p50:6.2} ms   p99 {p99:6.2} ms   max {max:6.2} ms   ({} values)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ms(values: &[u64]) -> Spread {
        Spread::of(values.iter().map(|ms| Duration::from_millis(*ms)).collect())
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let spread = of_ms(&[40, 10, 30, 20]);
        assert_eq!([0, 25, 50, 51, 100].map(|p| spread.percentile(p).as_millis()), [10, 10, 20, 30, 40]);
        assert_eq!(of_ms(&[7]).percentile(99).as_millis(), 7);
        assert_eq!(of_ms(&[]).percentile(50), Duration::ZERO);
    }

    #[test]
    fn all_are_counted_alike() {
        let all = Spread::of_all(&[of_ms(&[1, 2, 3]), of_ms(&[100])]);
        assert_eq!(all.percentile(50).as_millis(), 2);
    }
}
