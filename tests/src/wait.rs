//! Waiting for a condition, with a deadline: the only thing that stands in for synchronisation.

use std::thread;
use std::time::{Duration, Instant};

/// Longest time that a test waits for something to become true. Generous: a passing test never
/// uses it up, and a shared machine with two cores may stall for a while.
pub const DEADLINE: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(5);

/// Polls until the condition gives a value. Panics after [`DEADLINE`], naming what was awaited.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, condition)
}

/// The same with another deadline, for what has limits of its own.
#[track_caller]
pub fn until_within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain until {what}");
        thread::sleep(POLL);
    }
}

/// Polls until the condition is true.
#[track_caller]
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Watches that a condition stays true for so long. For what must *not* happen, where there is
/// nothing to wait for.
#[track_caller]
pub fn stays_true(what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + during;
    while Instant::now() < end {
        assert!(condition(), "no longer true: {what}");
        thread::sleep(POLL);
    }
}
