//! What a storm has seen so far: counts, and failures with what is known about them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Failures that are printed; a broken proxy makes thousands.
const SHOWN: usize = 20;

/// Shared by everything in a storm.
pub struct Log {
    /// The seed of the run.
    pub seed: u64,
    began: Instant,
    /// No connection is to be begun any more.
    pub is_over: AtomicBool,
    /// Nobody is to wait for anything any more.
    pub give_up: AtomicBool,
    /// The number of the next connection.
    pub next: AtomicU64,
    /// Connections whose client has done all of its script.
    pub connections: AtomicU64,
    /// Bytes verified at either end.
    pub bytes: AtomicU64,
    /// UDP answers verified.
    pub answers: AtomicU64,
    /// Datagrams that were not answered.
    pub unanswered: AtomicU64,
    /// Faults done.
    pub faults: AtomicU64,
    last_fault: Mutex<(Instant, String)>,
    failures: Mutex<Vec<String>>,
}

impl Log {
    /// Nothing has happened yet.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            seed,
            began: now,
            is_over: AtomicBool::new(false),
            give_up: AtomicBool::new(false),
            next: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            last_fault: Mutex::new((now, "none".into())),
            failures: Mutex::default(),
        }
    }

    /// Notes a fault, before it is done.
    pub fn fault(&self, what: String) {
        self.faults.fetch_add(1, Relaxed);
        *lock(&self.last_fault) = (Instant::now(), what);
    }

    /// Notes and prints a failure.
    pub fn fail(&self, what: &str) {
        let (at, fault) = lock(&self.last_fault).clone();
        let mut failures = lock(&self.failures);
        let text = format!(
            "seed {} at {:.3?}: {what}; last fault {:.3?} ago: {fault}",
            self.seed,
            self.began.elapsed(),
            at.elapsed()
        );
        if failures.len() < SHOWN {
            eprintln!("FAILURE {text}");
        }
        failures.push(text);
    }

    /// How many failures there were.
    pub fn failures(&self) -> usize {
        lock(&self.failures).len()
    }

    /// One line about where it is.
    pub fn line(&self, takeovers: f64) -> String {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        format!(
            "{:.0?}: {takeovers} takeovers, {} faults, {} connections, {:.2} GB verified, {} datagrams answered, \
             {} not, {} failures",
            self.began.elapsed(),
            count(&self.faults),
            count(&self.connections),
            count(&self.bytes) as f64 / 1e9,
            count(&self.answers),
            count(&self.unanswered),
            self.failures()
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
