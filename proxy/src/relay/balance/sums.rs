//! Open connections of servers, read often.

/// How many gauges may be read in a millisecond: some microseconds of it.
const READS_PER_MS: usize = 512;

/// What other workers have open to servers, as it was a moment ago. To sum the gauges of all workers for all
/// servers at each connection is cheap for ten of each and not for a hundred, so the sums are kept for so
/// long that reading them is a small part of the time.
#[derive(Debug, Default)]
pub struct Sums(Vec<Sum>);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    read_ms: u32,
    others: Option<u64>,
}

impl Sums {
    /// How old the sums of so many gauges may become, milliseconds; 0: they are read each time.
    pub fn max_age_ms(gauges: usize) -> u32 {
        (gauges / READS_PER_MS) as u32
    }

    /// What is open to a server: `own` of this worker's now, and what `all` says that all have, now or up to
    /// `max_age_ms` ago.
    pub fn open(
        &mut self,
        server: usize,
        own: u64,
        (now_ms, max_age_ms): (u32, u32),
        all: impl Fn() -> u64,
    ) -> u64 {
        if max_age_ms == 0 {
            return all();
        }
        if self.0.len() <= server {
            self.0.resize(server + 1, Sum::default());
        }
        let sum = &mut self.0[server];
        let kept = sum.others.filter(|_| now_ms.wrapping_sub(sum.read_ms) <= max_age_ms);
        let others = kept.unwrap_or_else(|| all().saturating_sub(own));
        if kept.is_none() {
            *sum = Sum { read_ms: now_ms, others: Some(others) };
        }
        others + own
    }

    /// What is kept of a server was found to be wrong.
    pub fn forget(&mut self, server: usize) {
        if let Some(sum) = self.0.get_mut(server) {
            sum.others = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_read_each_time_and_many_now_and_then() {
        let mut sums = Sums::default();
        assert_eq!((Sums::max_age_ms(511), Sums::max_age_ms(1024)), (0, 2));
        assert_eq!(sums.open(3, 1, (5, 0), || 9), 9);
        assert_eq!(sums.open(3, 1, (5, 2), || 10), 10);
        // Of the others 9 are believed in, and the own ones are counted.
        assert_eq!(sums.open(3, 4, (7, 2), || 100), 13);
        assert_eq!(sums.open(3, 4, (8, 2), || 100), 100);
        sums.forget(3);
        assert_eq!(sums.open(3, 4, (8, 2), || 50), 50);
    }

    #[test]
    fn sums_grow_old_when_the_clock_wraps() {
        let mut sums = Sums::default();
        assert_eq!(sums.open(0, 0, (u32::MAX, 2), || 1), 1);
        assert_eq!(sums.open(0, 0, (1, 2), || 7), 1);
        assert_eq!(sums.open(0, 0, (2, 2), || 7), 7);
    }
}
