//! Halves that wait for a turn, each at most once. Pure.

use std::collections::{HashSet, VecDeque};

use crate::{sys::Fd, table::Direction};

/// A half that waits for its next turn. The generation tells whether the number still names the
/// connection that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    pub client: Fd,
    pub generation: u32,
    pub direction: Direction,
}

/// A queue that holds a half once, however often its connection's events find it with work left:
/// else a fast connection would have ever more turns, and ever more of each worker's time.
#[derive(Default)]
pub struct Turns {
    queue: VecDeque<Turn>,
    members: HashSet<Turn>,
}

impl Turns {
    /// Puts a half at the end, unless it is waiting already.
    pub fn push(&mut self, turn: Turn) {
        if self.members.insert(turn) {
            self.queue.push_back(turn);
        }
    }

    /// Takes the half that has waited longest.
    pub fn pop(&mut self) -> Option<Turn> {
        let turn = self.queue.pop_front()?;
        self.members.remove(&turn);
        Some(turn)
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_waits_once_and_in_order() {
        let turn =
            |client, generation, direction| Turn { client: Fd::from_raw(client), generation, direction };
        let (up, down) = (turn(5, 1, Direction::Up), turn(5, 1, Direction::Down));
        let later = turn(5, 2, Direction::Up);
        let mut turns = Turns::default();
        for turn in [up, down, up, later, down, up] {
            turns.push(turn);
        }
        assert_eq!(turns.len(), 3);
        assert_eq!(turns.pop(), Some(up));
        turns.push(up);
        assert_eq!([turns.pop(), turns.pop(), turns.pop()], [Some(down), Some(later), Some(up)]);
        assert_eq!((turns.pop(), turns.members.len()), (None, 0));
    }
}
