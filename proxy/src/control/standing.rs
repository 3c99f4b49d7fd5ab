//! How an upstream server stands, in one word: for metrics, status and lists.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    relay::balance::ejection::is_passed_over,
    slots::Slot,
    table::{Health, Wanted},
};

/// The word. Of several that fit, the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes its share.
    Up,
    /// To be checked, and not checked yet: takes its share.
    Unknown,
    /// Passed over for a while, because connections to it failed.
    Ejected,
    /// Down, by its checks: nothing new.
    Down,
    /// Drained by order: nothing new.
    Draining,
    /// Neither the settings nor a name have it any more: nothing new, and gone when what is open has ended.
    Retired,
}

impl Standing {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Up, "up"),
        (Self::Unknown, "unknown"),
        (Self::Ejected, "ejected"),
        (Self::Down, "down"),
        (Self::Draining, "draining"),
        (Self::Retired, "retired"),
    ];

    /// A server's.
    pub fn of(slot: &Slot<'_>, now_ms: u64) -> Self {
        let is_checked = slot.upstream.rules.health.is_some();
        if slot.is_retired() {
            Self::Retired
        } else if slot.cell.wanted() == Wanted::Drain {
            Self::Draining
        } else if slot.cell.health() == Health::Down {
            Self::Down
        } else if is_passed_over(&slot.cell.state, &slot.upstream.rules.eject, now_ms as u32) {
            Self::Ejected
        } else if is_checked && slot.cell.health() == Health::Unknown {
            Self::Unknown
        } else {
            Self::Up
        }
    }

    /// The label value.
    pub fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Whether a server seems well: not down by its checks, and the last attempt to connect to it succeeded. One that is
/// drained by order may be well.
pub fn is_well(slot: &Slot<'_>) -> bool {
    slot.cell.health() != Health::Down && slot.cell.state.failures.load(Relaxed) == 0
}
