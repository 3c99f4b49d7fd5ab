//! What is counted, from the end of a warm-up on, for as long as it was asked for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cpu::Reading;
use crate::report::statistics::percentile;
use crate::sample::Work;

/// Warm-up for each second that is measured: queues fill, pools of buffers grow.
const WARM_UP: f64 = 0.2;
/// How long one turn of a load's loop may wait, so that the end is seen in time.
pub const TURN: Duration = Duration::from_millis(5);

/// Where a run stands.
enum Stage {
    WarmUp,
    Counting { before: Reading, began: Instant },
}

/// Counts work.
pub struct Meter {
    stage: Stage,
    next: Instant,
    length: Duration,
    server: i32,
    units: u64,
    failed: u64,
    latencies: Vec<u32>,
}

impl Meter {
    /// Counts for so long. Processor time of the process `server` is told apart.
    pub fn new(length: Duration, server: i32) -> Self {
        let next = Instant::now() + length.mul_f64(WARM_UP);
        Self { stage: Stage::WarmUp, next, length, server, units: 0, failed: 0, latencies: Vec::new() }
    }

    /// Called once a turn: `None` while there is time, then what was counted.
    pub fn turn(&mut self) -> Result<Option<Work>> {
        let now = Instant::now();
        if now < self.next {
            return Ok(None);
        }
        let reading = Reading::take()?;
        let Stage::Counting { before, began } = &self.stage else {
            self.next = now + self.length;
            self.stage = Stage::Counting { before: reading, began: now };
            (self.units, self.failed) = (0, 0);
            self.latencies.clear();
            return Ok(None);
        };
        ensure!(self.units > 0, "nothing came back within {:?} ({} failed)", self.length, self.failed);
        let (load, server) = (std::process::id().cast_signed(), self.server);
        self.latencies.sort_unstable();
        Ok(Some(Work {
            seconds: (now - *began).as_secs_f64(),
            units: self.units,
            failed: self.failed,
            p50_us: f64::from(percentile(&self.latencies, 50).unwrap_or(0)) / 1e3,
            p99_us: f64::from(percentile(&self.latencies, 99).unwrap_or(0)) / 1e3,
            cpu: reading.since(before, load, server),
        }))
    }

    /// So many units are done.
    pub fn done(&mut self, units: u64) {
        self.units += units;
    }

    /// A unit is done that took so long.
    pub fn took(&mut self, time: Duration) {
        self.units += 1;
        self.latencies.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
    }

    /// So many have failed.
    pub fn failed(&mut self, units: u64) {
        self.failed += units;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_the_warm_up_is_not_counted() {
        let mut meter = Meter::new(Duration::from_millis(20), 0);
        meter.took(Duration::from_secs(1));
        meter.failed(3);
        let mut is_counting = false;
        let work = loop {
            if let Some(work) = meter.turn().unwrap() {
                break work;
            }
            if matches!(meter.stage, Stage::Counting { .. }) && !is_counting {
                is_counting = true;
                meter.took(Duration::from_micros(5));
                meter.done(9);
            }
        };
        assert_eq!((work.units, work.failed, work.p50_us, work.p99_us), (10, 0, 5.0, 5.0));
        assert!(work.seconds >= 0.02);
    }

    #[test]
    fn a_target_that_does_nothing_is_an_error() {
        let mut meter = Meter::new(Duration::from_millis(1), 0);
        let error = loop {
            match meter.turn() {
                Ok(None) => {}
                Ok(Some(work)) => panic!("{work:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("nothing came back"), "{error}");
    }
}
