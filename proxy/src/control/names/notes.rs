//! What is known of each name, for those who ask.

use std::{cell::RefCell, time::Duration};

use tokio::time::Instant;

/// A name of an upstream's.
#[derive(Clone, Debug)]
pub struct NameNote {
    /// The upstream's number.
    pub upstream: usize,
    /// As given, with the port.
    pub given: String,
    /// How many addresses it has.
    pub addresses: usize,
    /// When it was answered last.
    pub answered_at: Option<Instant>,
    /// When it is looked up next, at the time of the note.
    pub next_in: Duration,
    /// What is wrong with the last look-up.
    pub error: Option<String>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Notes(RefCell<Vec<NameNote>>);

impl Notes {
    /// Begins.
    pub fn begin(&self, names: Vec<NameNote>) {
        *self.0.borrow_mut() = names;
    }

    /// Changes the one of this place.
    pub fn change(&self, place: usize, change: impl FnOnce(&mut NameNote)) {
        self.0.borrow_mut().get_mut(place).map(change);
    }

    /// Those of an upstream.
    pub fn of(&self, upstream: usize) -> Vec<NameNote> {
        self.0.borrow().iter().filter(|note| note.upstream == upstream).cloned().collect()
    }
}
