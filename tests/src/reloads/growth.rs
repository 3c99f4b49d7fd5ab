//! What all processes of a proxy use, and whether it grows.

use std::fmt;

use crate::handover;
use crate::process;
use crate::proxy::Proxy;

/// Samples that are compared: so many at the end with as many after the first ones. Fewer in a short run.
const WINDOW: usize = 10;
/// What the median may have grown by: caches and pipes in stock are not the same at every moment.
const MEMORY: f64 = 1.05;
/// The same, descriptors without pipes.
const DESCRIPTORS: usize = 4;

/// What is used after a reload.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Proportional set sizes together, without files, bytes: what several processes share is counted once.
    memory: u64,
    /// See [`handover::descriptors`].
    descriptors: usize,
    /// Processes, zombies left out.
    processes: usize,
}

impl Use {
    /// Now.
    #[track_caller]
    pub fn of(proxy: &Proxy) -> Self {
        let processes = proxy.processes();
        let sizes = processes.iter().filter_map(|p| process::proportional_set_size_without_files(p.pid));
        let memory = sizes.sum();
        Self { memory, descriptors: handover::descriptors(proxy), processes: processes.len() }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, descriptors, processes } = self;
        let megabytes = *memory as f64 / 1e6;
        write!(f, "{megabytes:.2} MB, {descriptors} descriptors, {processes} processes")
    }
}

/// Fails if the last samples are more than those after the first ones.
#[track_caller]
pub fn judge(uses: &[Use]) {
    let window = WINDOW.min(uses.len() / 3).max(1);
    let (early, late) = (uses.get(window..2 * window), &uses[uses.len() - window..]);
    let early = median(early.expect("three reloads at least"));
    let late = median(late);
    println!("median of {window} after the first {window}: {early}; of the last {window}: {late}");
    assert!(late.memory as f64 <= early.memory as f64 * MEMORY, "memory grew: {uses:#?}");
    assert!(late.descriptors <= early.descriptors + DESCRIPTORS, "descriptors grew: {uses:#?}");
    assert_eq!(late.processes, early.processes);
}

/// Of each number by itself.
fn median(uses: &[Use]) -> Use {
    fn middle<T: Ord + Copy>(of: impl Iterator<Item = T>) -> T {
        let mut all: Vec<T> = of.collect();
        all.sort();
        all[all.len() / 2]
    }
    Use {
        memory: middle(uses.iter().map(|one| one.memory)),
        descriptors: middle(uses.iter().map(|one| one.descriptors)),
        processes: middle(uses.iter().map(|one| one.processes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: impl Fn(usize) -> u64, descriptors: impl Fn(usize) -> usize) -> Vec<Use> {
        let one = |n| Use { memory: memory(n), descriptors: descriptors(n), processes: 5 };
        (0..136).map(one).collect()
    }

    #[test]
    fn what_goes_up_and_down_does_not_grow() {
        judge(&of(|n| 20_000_000 + 100_000 * (n as u64 % 7), |n| 60 + n % 3));
        judge(&of(|n| if n < 10 { 0 } else { 20_000_000 }, |_| 60));
    }

    #[test]
    #[should_panic(expected = "memory grew")]
    fn a_leak_of_10_kb_a_reload_shows() {
        judge(&of(|n| 20_000_000 + 10_000 * n as u64, |_| 60));
    }

    #[test]
    #[should_panic(expected = "descriptors grew")]
    fn a_descriptor_in_20_reloads_shows() {
        judge(&of(|_| 20_000_000, |n| 60 + n / 20));
    }
}
