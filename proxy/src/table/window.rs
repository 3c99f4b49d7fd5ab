//! The opening window: a descriptor that is open but not yet recorded belongs to nobody, and the
//! sweep would close it. A worker opens descriptors only inside its window; the sweep closes the
//! gate and waits until every window is shut.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::sys::time;

/// Longest time that a sweep may keep the gate closed, milliseconds.
pub const GATE_LIMIT_MS: u64 = 20;

/// The word of a gate that is closed now: until when, in milliseconds of the monotonic clock,
/// wrapping; 0 is an open gate. It opens by itself after twice the limit, for the supervisor may be
/// dead or stopped, and pools must go on without it.
pub fn closed_gate(now_ms: u64) -> u32 {
    (now_ms + 2 * GATE_LIMIT_MS) as u32 | 1
}

fn is_closed(gate: u32, now_ms: u64) -> bool {
    gate != 0 && gate.wrapping_sub(now_ms as u32) as i32 > 0
}

/// An open window; dropping it shuts it.
pub struct Window<'a>(&'a AtomicU32);

impl<'a> Window<'a> {
    /// Opens a worker's window, unless the gate is closed; then try again in a moment.
    pub fn open(window: &'a AtomicU32, gate: &AtomicU32) -> Option<Self> {
        // Both sides store and then load (Dekker), so both must be sequentially consistent.
        window.store(1, SeqCst);
        let window = Self(window);
        let gate = gate.load(SeqCst);
        (gate == 0 || !is_closed(gate, time::monotonic_ms())).then_some(window)
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.0.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_keeps_the_window_shut() {
        let (window, gate) = (AtomicU32::new(0), AtomicU32::new(0));
        let open = Window::open(&window, &gate);
        assert!(open.is_some());
        assert_eq!(window.load(SeqCst), 1);
        drop(open);
        assert_eq!(window.load(SeqCst), 0);
        gate.store(closed_gate(time::monotonic_ms() + 60_000), SeqCst);
        assert!(Window::open(&window, &gate).is_none());
        assert_eq!(window.load(SeqCst), 0);
    }

    #[test]
    fn a_gate_opens_without_its_supervisor_and_when_the_clock_wraps() {
        for began in [7, u64::from(u32::MAX) - 10, (1 << 32) - 2 * GATE_LIMIT_MS] {
            let gate = closed_gate(began);
            assert!(gate != 0 && is_closed(gate, began) && is_closed(gate, began + GATE_LIMIT_MS));
            assert!(!is_closed(gate, began + 2 * GATE_LIMIT_MS + 1));
        }
        assert!(!is_closed(0, 5));
    }
}
