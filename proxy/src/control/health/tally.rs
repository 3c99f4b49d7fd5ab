//! Whether a server is up, by the results of its checks.

use crate::table::Health;

/// A server's health, and how many results in a row speak against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    health: Health,
    against: u32,
}

impl Tally {
    /// Goes on with what was known.
    pub fn resume(health: Health) -> Self {
        Self { health, against: 0 }
    }

    /// What is known by the results so far.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes a result in. Answers the new health if that changes it: the first result of a server that nothing is
    /// known of does, then `fall` bad ones in a row, or `rise` good ones.
    pub fn note(&mut self, went_well: bool, rise: u32, fall: u32) -> Option<Health> {
        let (says, needed) = if went_well { (Health::Up, rise) } else { (Health::Down, fall) };
        self.against = if says == self.health { 0 } else { self.against.saturating_add(1) };
        let changes = self.health == Health::Unknown || self.against >= needed.max(1);
        (says != self.health && changes).then(|| {
            *self = Self::resume(says);
            says
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn course(from: Health, results: &str) -> Vec<Option<Health>> {
        let mut tally = Tally::resume(from);
        results.chars().map(|result| tally.note(result == '+', 2, 3)).collect()
    }

    #[test]
    fn the_first_result_decides() {
        assert_eq!(course(Health::Unknown, "+"), [Some(Health::Up)]);
        assert_eq!(course(Health::Unknown, "-"), [Some(Health::Down)]);
    }

    #[test]
    fn it_falls_and_rises_by_results_in_a_row() {
        assert_eq!(course(Health::Up, "--+---"), [None, None, None, None, None, Some(Health::Down)]);
        assert_eq!(course(Health::Down, "+-++"), [None, None, None, Some(Health::Up)]);
        assert_eq!(course(Health::Up, "---++"), [None, None, Some(Health::Down), None, Some(Health::Up)]);
    }

    proptest! {
        /// A change needs as many results in a row as are said, and each change is to the other state.
        #[test]
        fn changes_alternate(results in "[+-]{0,60}") {
            let mut last = Health::Up;
            for (place, change) in course(Health::Up, &results).into_iter().enumerate() {
                let Some(now) = change else { continue };
                prop_assert_ne!(now, last);
                let (sign, needed) = if now == Health::Up { ("+", 2) } else { ("-", 3) };
                prop_assert!(results[..=place].ends_with(&sign.repeat(needed)));
                last = now;
            }
        }
    }
}
