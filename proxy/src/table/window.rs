//! The opening window: a descriptor that is open but not yet recorded belongs to nobody, and the
//! sweep would close it. A worker opens descriptors only inside its window; the sweep closes the
//! gate and waits until every window is shut.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Longest time that a sweep may keep the gate closed, milliseconds.
pub const GATE_LIMIT_MS: u64 = 20;

/// An open window; dropping it shuts it.
pub struct Window<'a>(&'a AtomicU32);

impl<'a> Window<'a> {
    /// Opens a worker's window, unless the gate is closed; then try again in a moment.
    pub fn open(window: &'a AtomicU32, gate: &AtomicU32) -> Option<Self> {
        // Both sides store and then load (Dekker), so both must be sequentially consistent.
        window.store(1, SeqCst);
        let window = Self(window);
        (gate.load(SeqCst) == 0).then_some(window)
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
        gate.store(1, SeqCst);
        assert!(Window::open(&window, &gate).is_none());
        assert_eq!(window.load(SeqCst), 0);
    }
}
