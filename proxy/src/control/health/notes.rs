//! What the last check of each server said, for those who ask. Kept by this process alone: another one knows it
//! again after the next checks.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::Failure;

/// Longest error that is kept, bytes.
const MAX_ERROR: usize = 300;

/// The last check of a server.
#[derive(Clone, Debug)]
pub struct LastCheck {
    /// Why it failed; `None` if it went well.
    pub error: Option<String>,
    /// When it was done.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
}

impl LastCheck {
    /// Of a check that is done now.
    pub fn of(result: Result<(), Failure>, took: Duration) -> Self {
        let shorten = |text: String| text[..text.floor_char_boundary(MAX_ERROR)].to_owned();
        Self { error: result.err().map(|why| shorten(why.to_string())), at: Instant::now(), took }
    }
}

/// Those of all servers, by slot.
#[derive(Debug, Default)]
pub struct Notes(RefCell<BTreeMap<usize, LastCheck>>);

impl Notes {
    /// Notes one.
    pub fn note(&self, slot: usize, last: LastCheck) {
        self.0.borrow_mut().insert(slot, last);
    }

    /// Forgets a server's.
    pub fn forget(&self, slot: usize) {
        self.0.borrow_mut().remove(&slot);
    }

    /// A server's.
    pub fn of(&self, slot: usize) -> Option<LastCheck> {
        self.0.borrow().get(&slot).cloned()
    }
}
