//! What is news to the service manager: a pure function of what it was told and what is now.

use std::time::Duration;

use proxy_common::lease::{PRIMARY, SEATS, other};
use sd_notify::NotifyState;

use crate::{supervisor::plan::name, table::PoolState};

/// Least time between two sentences about the pools, nanoseconds: a starved machine's leases come and go.
const SENTENCE: u64 = 250_000_000;
/// Time that the end takes after draining, at most.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// Whether and how the proxy is about to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is not.
    No,
    /// New connections are refused; the process stays.
    Draining,
    /// It ends when what is open has ended, or its patience.
    Stopping,
}

/// How the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// The seat that new traffic goes to; `None` while nobody serves.
    pub in_use: Option<u32>,
    /// The seats' states.
    pub states: [PoolState; SEATS],
    /// A successor is to take over.
    pub is_reloading: bool,
    /// Its end.
    pub end: End,
}

/// How long the manager, and who stops the proxy, wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// After so many nanoseconds without a sign of life the manager acts; `None`: it does not watch.
    pub watchdog: Option<u64>,
    /// How long connections may go on after a stop.
    pub drain: Duration,
}

/// What was told.
#[derive(Clone, Copy, Debug)]
pub struct News {
    waits: Waits,
    /// To be told: the process that took the dead supervisor's place.
    main_pid: Option<u32>,
    is_ready: bool,
    is_reloading: bool,
    is_stopping: bool,
    /// The last one that was told in a sentence, and when.
    situation: Option<(Situation, u64)>,
    alive_at: Option<u64>,
}

impl News {
    /// Nothing was told yet.
    pub fn new(waits: Waits) -> Self {
        let (is_ready, is_reloading, is_stopping) = (false, false, false);
        Self { waits, main_pid: None, is_ready, is_reloading, is_stopping, situation: None, alive_at: None }
    }

    /// Nothing was told yet by the process `pid`, which took the place of the one that was known.
    pub fn of_successor(&self, pid: u32) -> Self {
        Self { main_pid: Some(pid), ..Self::new(self.waits) }
    }

    /// Tells of the successor alone. [`Self::next`] tells of it again, in case that this was lost.
    pub fn main_pid(&self) -> Option<String> {
        self.main_pid.map(|pid| text(&[NotifyState::MainPid(pid)]))
    }

    /// The next message, and what was told once it has been sent; `None` if nothing is new.
    pub fn next(&self, now: u64, situation: Situation) -> Option<(String, Self)> {
        let mut told = *self;
        let mut states = Vec::new();
        states.extend(told.main_pid.take().map(NotifyState::MainPid));
        states.extend(told.progress(now, situation));
        let is_new = self.situation.is_none_or(|(told, at)| told != situation && now - at >= SENTENCE);
        let sentence = (is_new || !states.is_empty()).then(|| sentence(situation));
        if let Some(sentence) = &sentence {
            told.situation = Some((situation, now));
            states.push(NotifyState::Status(sentence));
        }
        let is_due = |limit| self.alive_at.is_none_or(|at| now - at >= limit / 2);
        if self.waits.watchdog.is_some_and(is_due) {
            told.alive_at = Some(now);
            states.push(NotifyState::Watchdog);
        }
        (!states.is_empty()).then(|| (text(&states), told))
    }

    /// What the manager has states of the unit for.
    fn progress(&mut self, now: u64, situation: Situation) -> Vec<NotifyState<'static>> {
        if situation.end == End::Stopping {
            if std::mem::replace(&mut self.is_stopping, true) {
                return Vec::new();
            }
            // Else the manager's own patience, which knows nothing of ours, would end the drain.
            let patience = self.waits.drain.saturating_add(CLEAN_UP).as_micros();
            let patience = patience.try_into().unwrap_or(u32::MAX);
            return vec![NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(patience)];
        }
        let is_whole = situation.states == [PoolState::Ready; SEATS];
        match (self.is_ready, self.is_reloading, situation.is_reloading) {
            (false, ..) if is_whole => self.is_ready = true,
            (true, false, true) => {
                self.is_reloading = true;
                return vec![NotifyState::Reloading, NotifyState::MonotonicUsec((now / 1000).into())];
            }
            // It came to nothing: a successor that took over would tell.
            (true, true, false) => self.is_reloading = false,
            _ => return Vec::new(),
        }
        vec![NotifyState::Ready]
    }
}

fn text(states: &[NotifyState]) -> String {
    states.iter().map(|state| format!("{state}\n")).collect()
}

/// How the proxy is, for people.
fn sentence(situation: Situation) -> String {
    let Situation { in_use, states, is_reloading, end } = situation;
    match end {
        End::Stopping => return "stopping: new connections are refused".into(),
        End::Draining => return "draining: new connections are refused".into(),
        End::No => {}
    }
    let is = |seat: u32| format!("the {} is {}", name(seat), states[seat as usize].label());
    let pools = match in_use {
        None => format!("not serving: {}, {}", is(PRIMARY), is(other(PRIMARY))),
        Some(seat) if states == [PoolState::Ready; SEATS] => {
            format!("the {} serves, {}", name(seat), is(other(seat)))
        }
        // Of the one that serves its silence is worth a word, too.
        Some(seat) if states[seat as usize] != PoolState::Ready => {
            format!("degraded: {}, {}", is(seat), is(other(seat)))
        }
        Some(seat) => format!("degraded: the {} serves, {}", name(seat), is(other(seat))),
    };
    if is_reloading { format!("{pools}; a successor gets ready") } else { pools }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PoolState::{Dead, Ready, Starting};
    use proxy_common::lease::STANDBY;

    const SECOND: u64 = 1_000_000_000;

    fn news(watchdog: Option<u64>) -> News {
        News::new(Waits { watchdog, drain: Duration::from_secs(30) })
    }

    fn situation(in_use: Option<u32>, states: [PoolState; SEATS]) -> Situation {
        Situation { in_use, states, is_reloading: false, end: End::No }
    }

    const WHOLE: Situation =
        Situation { in_use: Some(PRIMARY), states: [Ready; SEATS], is_reloading: false, end: End::No };

    #[test]
    fn ready_is_told_once_and_only_when_both_are() {
        let first = situation(Some(PRIMARY), [Ready, Starting]);
        let (message, news) = news(None).next(0, first).unwrap();
        assert_eq!(message, "STATUS=degraded: the primary serves, the standby is starting\n");
        let (message, news) = news.next(1, WHOLE).unwrap();
        assert_eq!(message, "READY=1\nSTATUS=the primary serves, the standby is ready\n");
        assert!(news.next(2 * SECOND, WHOLE).is_none());
        let nobody = situation(None, [Dead, Starting]);
        let (message, news) = news.next(3 * SECOND, nobody).unwrap();
        assert_eq!(message, "STATUS=not serving: the primary is dead, the standby is starting\n");
        let standby = situation(Some(STANDBY), [Ready; SEATS]);
        let (message, _) = news.next(4 * SECOND, standby).unwrap();
        assert_eq!(message, "STATUS=the standby serves, the primary is ready\n");
    }

    #[test]
    fn changes_in_haste_are_told_together() {
        let (_, news) = news(None).next(0, WHOLE).unwrap();
        let lame = situation(Some(STANDBY), [Dead, Ready]);
        assert!(news.next(SENTENCE - 1, lame).is_none());
        assert!(news.next(SENTENCE - 1, WHOLE).is_none());
        assert!(news.next(SENTENCE, lame).is_some());
    }

    #[test]
    fn signs_of_life_come_at_half_the_time() {
        let (message, news) = news(Some(2 * SECOND)).next(5 * SECOND, WHOLE).unwrap();
        assert!(message.ends_with("WATCHDOG=1\n"), "{message}");
        assert!(news.next(6 * SECOND - 1, WHOLE).is_none());
        let (message, news) = news.next(6 * SECOND, WHOLE).unwrap();
        assert_eq!(message, "WATCHDOG=1\n");
        assert!(news.next(7 * SECOND - 1, WHOLE).is_none());
    }

    #[test]
    fn stopping_asks_for_the_time_that_draining_may_take() {
        let (_, news) = news(None).next(0, WHOLE).unwrap();
        let (message, news) = news.next(1, Situation { end: End::Stopping, ..WHOLE }).unwrap();
        let lines =
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000\nSTATUS=stopping: new connections are refused\n";
        assert_eq!(message, lines);
        assert!(news.next(SECOND, Situation { end: End::Stopping, ..WHOLE }).is_none());
    }

    #[test]
    fn a_handover_is_told_when_it_begins_and_when_it_came_to_nothing() {
        let reloading = Situation { is_reloading: true, ..WHOLE };
        let (message, early) =
            news(None).next(0, Situation { states: [Ready, Starting], ..reloading }).unwrap();
        assert!(!message.contains("RELOADING"), "{message}");
        // One thing at a time.
        let (message, news) = early.next(SECOND, reloading).unwrap();
        assert!(message.starts_with("READY=1\n") && !message.contains("RELOADING"), "{message}");
        let (message, news) = news.next(2 * SECOND, reloading).unwrap();
        let lines = "RELOADING=1\nMONOTONIC_USEC=2000000\n\
                     STATUS=the primary serves, the standby is ready; a successor gets ready\n";
        assert_eq!(message, lines);
        assert!(news.next(3 * SECOND, reloading).is_none());
        // Also if a pool has died meanwhile.
        let lame = situation(Some(PRIMARY), [Ready, Dead]);
        let (message, told) = news.next(4 * SECOND, lame).unwrap();
        assert_eq!(message, "READY=1\nSTATUS=degraded: the primary serves, the standby is dead\n");
        assert!(told.next(5 * SECOND, lame).is_none());
        // A stop in the middle is no end of it.
        let (message, _) = news.next(4 * SECOND, Situation { end: End::Stopping, ..WHOLE }).unwrap();
        assert!(message.starts_with("STOPPING=1\n") && !message.contains("READY"), "{message}");
    }

    #[test]
    fn a_successor_tells_everything_again() {
        let (_, news) = news(Some(SECOND)).next(0, WHOLE).unwrap();
        let news = news.of_successor(7);
        assert_eq!(news.main_pid().as_deref(), Some("MAINPID=7\n"));
        let (message, news) = news.next(1, WHOLE).unwrap();
        let lines = "MAINPID=7\nREADY=1\nSTATUS=the primary serves, the standby is ready\nWATCHDOG=1\n";
        assert_eq!(message, lines);
        assert_eq!(news.main_pid(), None);
    }
}
