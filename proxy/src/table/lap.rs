//! When a flow began, beyond what 32 bits of milliseconds tell: they begin anew after 49 days, which is a lap.

use std::sync::atomic::Ordering::Relaxed;

use super::Record;

impl Record {
    /// The lap in which the flow began.
    pub fn lap(&self) -> u8 {
        self.lap.load(Relaxed)
    }

    /// Sets it.
    pub fn set_lap(&self, lap: u8) {
        self.lap.store(lap, Relaxed);
    }

    /// How long ago the flow began, milliseconds, right for 34 years: at `begun_ms` of the clock that wraps, by what
    /// else is known of it.
    pub fn age_ms(&self, begun_ms: u32, now_ms: u64) -> u64 {
        let laps = ((now_ms >> 32) as u8).wrapping_sub(self.lap());
        (u64::from(laps) << 32 | u64::from(now_ms as u32)).saturating_sub(begun_ms.into())
    }
}

/// The lap of a time that is less than 24 days from now, modulo 256.
pub fn lap_of(at_ms: u32, now_ms: u64) -> u8 {
    let since = (now_ms as u32).wrapping_sub(at_ms) as i32;
    (now_ms.wrapping_add_signed(-i64::from(since)) >> 32) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    #[test]
    fn ages_are_right_for_years() {
        const DAY: u64 = 86_400_000;
        let record = Record::new_zeroed();
        for begun in [5, 30 * DAY, (1 << 32) - 1, 1 << 32, 400 * DAY] {
            record.set_lap(lap_of(begun as u32, begun + 3));
            for age in [0, 1, 24 * DAY, 49 * DAY, 50 * DAY, 60 * DAY, 3650 * DAY] {
                assert_eq!(record.age_ms(begun as u32, begun + age), age, "{begun} and {age}");
            }
        }
        record.set_lap(lap_of(1003, 1000));
        assert_eq!(record.age_ms(1003, 1000), 0, "a moment that is yet to come");
    }
}
