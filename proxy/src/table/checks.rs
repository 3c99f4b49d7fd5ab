//! What active checks have counted. Written by control, and once, before it runs, by the supervisor, which enters
//! what it has inherited.

use zerocopy::{FromZeros, KnownLayout};

use super::{Counted, Counter, Health, Histogram, Visit};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// It went well.
    Passed,
    /// It did not.
    Failed,
    /// It took too long.
    Timeout,
}

impl CheckResult {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Passed, "passed"), (Self::Failed, "failed"), (Self::Timeout, "timeout")];
}

/// Where a server's health goes, with label values.
pub const TRANSITIONS: [(Health, &str); 2] = [(Health::Up, "up"), (Health::Down, "down")];

/// The checks of one server.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct CheckCounters {
    /// By [`CheckResult`].
    pub results: [Counter; CheckResult::ALL.len()],
    /// Changes of its health, by [`TRANSITIONS`].
    pub transitions: [Counter; TRANSITIONS.len()],
    /// How long checks took.
    pub duration: Histogram,
}

impl CheckCounters {
    /// Counts a change of health.
    pub fn count_transition(&self, to: Health) {
        let found = TRANSITIONS.iter().zip(&self.transitions).find(|((health, _), _)| *health == to);
        found.into_iter().for_each(|(_, count)| count.add(1));
    }

    /// Begins anew, for another server.
    pub fn reset(&self) {
        self.each_counter(&mut |_, counter| counter.reset());
    }
}

impl Counted for CheckCounters {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { results, transitions, duration } = self;
        for ((_, result), count) in CheckResult::ALL.iter().zip(results) {
            visit(&["checks", result], count);
        }
        for ((_, health), count) in TRANSITIONS.iter().zip(transitions) {
            visit(&["transitions", health], count);
        }
        duration.each_counter(&mut |name, count| visit(&["check_duration", name[0]], count));
    }
}
