//! What is believed of a name, by the answers to its look-ups. No I/O, no clock.

use std::{net::IpAddr, time::Duration};

/// Answers in a row that a name has no address, before that is believed: a moment's mistake of a name server must
/// not take all servers away.
const EMPTY_ANSWERS: u32 = 3;

/// The answer about one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These, for so long.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none: no such name, or none of this family.
    Nothing,
    /// There is no answer.
    Failed(String),
}

/// The answers about IPv4 and IPv6.
pub type Answers = [Answer; 2];

/// What a look-up comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The name has addresses.
    Answered,
    /// It has none.
    Empty,
    /// Nobody can tell, and why.
    Failed(String),
}

/// A name's addresses as they are believed to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// By family.
    known: [Vec<IpAddr>; 2],
    /// Answers in a row that were not [`Outcome::Answered`].
    bad: u32,
}

impl Course {
    /// Goes on with what was known.
    pub fn resume(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (v4, v6) = addresses.into_iter().partition(IpAddr::is_ipv4);
        Self { known: [v4, v6], bad: 0 }
    }

    /// What it is believed to be.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.known.iter().flatten().copied()
    }

    /// Whether what was known is still believed, though the last answer was not good.
    pub fn is_kept(&self) -> bool {
        self.bad > 0 && self.addresses().next().is_some()
    }

    /// Takes an answer in, and says how long it is to be until the next look-up: the lifetime of the addresses
    /// within these bounds; after a bad answer the lower bound, and twice as long each time, up to the upper one.
    ///
    /// A family that there is no answer about keeps its addresses, for as long as it takes. Addresses that are
    /// said to be no more are believed gone after [`EMPTY_ANSWERS`] if no other came in their place.
    pub fn note(&mut self, answers: Answers, (least, most): (Duration, Duration)) -> (Outcome, Duration) {
        let lifetimes = answers.iter().filter_map(|answer| match answer {
            Answer::Addresses(_, lifetime) => Some(*lifetime),
            _ => None,
        });
        if let Some(lifetime) = lifetimes.min() {
            self.bad = 0;
            for (known, answer) in self.known.iter_mut().zip(answers) {
                match answer {
                    Answer::Addresses(addresses, _) => *known = sorted(addresses),
                    Answer::Nothing => known.clear(),
                    Answer::Failed(_) => {}
                }
            }
            return (Outcome::Answered, lifetime.clamp(least, most.max(least)));
        }
        let failure = answers.into_iter().find_map(|answer| match answer {
            Answer::Failed(why) => Some(why),
            _ => None,
        });
        self.bad = self.bad.saturating_add(1);
        if failure.is_none() && self.bad >= EMPTY_ANSWERS {
            self.known = Default::default();
        }
        let wait = least.saturating_mul(1 << (self.bad - 1).min(16)).min(most.max(least));
        (failure.map_or(Outcome::Empty, Outcome::Failed), wait)
    }
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use Answer::Nothing;

    const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn some(seconds: u64, addresses: &[&str]) -> Answer {
        Answer::Addresses(addresses.iter().map(|text| ip(text)).collect(), Duration::from_secs(seconds))
    }

    fn failed() -> Answer {
        Answer::Failed("timeout".into())
    }

    fn known(course: &Course) -> Vec<String> {
        course.addresses().map(|address| address.to_string()).collect()
    }

    #[test]
    fn an_answer_holds_for_its_lifetime_within_bounds() {
        for (seconds, expected) in [(0, 1), (1, 1), (30, 30), (86_400, 60)] {
            let (outcome, wait) = Course::default().note([some(seconds, &["10.0.0.1"]), Nothing], BOUNDS);
            assert_eq!((outcome, wait), (Outcome::Answered, Duration::from_secs(expected)));
        }
        let both = [some(9, &["10.0.0.2", "10.0.0.1", "10.0.0.2"]), some(7, &["::1"])];
        let mut course = Course::default();
        assert_eq!(course.note(both, BOUNDS).1, Duration::from_secs(7), "the shorter one");
        assert_eq!(known(&course), ["10.0.0.1", "10.0.0.2", "::1"]);
    }

    #[test]
    fn a_family_without_an_answer_keeps_its_addresses() {
        let mut course = Course::resume([ip("10.0.0.1"), ip("::1")]);
        assert_eq!(course.note([some(5, &["10.0.0.2"]), failed()], BOUNDS).0, Outcome::Answered);
        assert_eq!(known(&course), ["10.0.0.2", "::1"]);
        course.note([some(5, &["10.0.0.2"]), Nothing], BOUNDS);
        assert_eq!(known(&course), ["10.0.0.2"]);
    }

    #[test]
    fn a_silent_name_server_is_asked_ever_more_seldom_and_nothing_is_forgotten() {
        let mut course = Course::resume([ip("10.0.0.1")]);
        let waits: Vec<u64> = (0..9)
            .map(|_| {
                let (outcome, wait) = course.note([failed(), failed()], BOUNDS);
                assert_eq!(outcome, Outcome::Failed("timeout".into()));
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(known(&course) == ["10.0.0.1"] && course.is_kept());
        course.note([some(5, &["10.0.0.1"]), Nothing], BOUNDS);
        assert!(!course.is_kept());
        assert_eq!(course.note([failed(), Nothing], BOUNDS).1, Duration::from_secs(1), "and anew");
    }

    #[test]
    fn no_such_name_is_believed_at_the_third_time() {
        let mut course = Course::resume([ip("10.0.0.1")]);
        for expected in [1, 1, 0, 0] {
            assert_eq!(course.note([Nothing, Nothing], BOUNDS).0, Outcome::Empty);
            assert_eq!(known(&course).len(), expected);
        }
    }
}
