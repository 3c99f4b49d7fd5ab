//! How far the handover to another supervisor is: an upgrade to another binary, or a reload of the settings.
//!
//! One word decides whose the flows are, for the two supervisors and the old one's twin may each die at any
//! moment: it goes from [`Decision::Pending`] to [`Decision::Kept`] or to [`Decision::Taken`] once, by whoever
//! comes first. The successor relays nothing before it has taken, and the old pools nothing after.

use std::{
    io,
    sync::atomic::{
        AtomicU8, AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use zerocopy::{FromZeros, KnownLayout};

use super::{ChildCell, Counted, Counter, Gauge, Visit};
use crate::sys::{Fd, memory::SharedMemory};

/// Whose the flows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Decision {
    /// Nobody has asked.
    None = 0,
    /// The successor may take them.
    Pending = 1,
    /// The old supervisor keeps them.
    Kept = 2,
    /// They are the successor's.
    Taken = 3,
}

/// What is handed over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HandoverKind {
    /// The same binary, with the settings as they are now.
    Reload = 0,
    /// Another binary.
    Upgrade = 1,
}

impl HandoverKind {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Reload, "reload"), (Self::Upgrade, "upgrade")];

    /// The label value.
    pub fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// How far the last handover came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HandoverState {
    /// There was none.
    None = 0,
    /// The successor gets ready; nobody feels it.
    Preparing = 1,
    /// The pools stand still and the flows are on their way.
    Moving = 2,
    /// This supervisor is the successor.
    Done = 3,
    /// The old supervisor goes on; [`HandoverCell::reason`] says why.
    Failed = 4,
}

impl HandoverState {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::None, "none"),
        (Self::Preparing, "preparing"),
        (Self::Moving, "moving"),
        (Self::Done, "done"),
        (Self::Failed, "failed"),
    ];

    /// The label value.
    pub fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Longest reason that is kept, bytes.
pub const MAX_REASON: usize = 1024;

/// The word that decides, in memory of its own that both supervisors map.
#[repr(transparent)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct DecisionCell(AtomicU32);

impl DecisionCell {
    /// Makes one, in memory that is passed on by its descriptor.
    ///
    /// # Errors
    /// The memory or the descriptor limit is reached.
    pub fn create() -> io::Result<(Fd, &'static Self)> {
        let (fd, memory) = SharedMemory::create(c"proxy-decision", size_of::<Self>())?;
        Ok((fd, &memory.slice(0, 1)[0]))
    }

    /// Maps another supervisor's.
    ///
    /// # Errors
    /// It is not one.
    pub fn open(fd: Fd) -> io::Result<&'static Self> {
        Ok(&SharedMemory::open(fd, size_of::<Self>())?.slice(0, 1)[0])
    }

    /// Whose the flows are. A word that is none (a wild write) is nobody's request.
    pub fn get(&self) -> Decision {
        match self.0.load(Acquire) {
            1 => Decision::Pending,
            2 => Decision::Kept,
            3 => Decision::Taken,
            _ => Decision::None,
        }
    }

    /// Lets the successor take the flows.
    pub fn allow(&self) {
        self.0.store(Decision::Pending as u32, Release);
    }

    /// Decides, if it is not decided yet. Answers whether this decision holds.
    pub fn decide(&self, decision: Decision) -> bool {
        let (pending, wanted) = (Decision::Pending as u32, decision as u32);
        self.0.compare_exchange(pending, wanted, AcqRel, Acquire).is_ok()
    }
}

/// The last handover, and counts of all. Written by the supervisor.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct HandoverCell {
    /// The successor's process, until it has taken over.
    pub candidate: ChildCell,
    kind: AtomicU32,
    state: AtomicU32,
    reason_len: AtomicU32,
    reason: [AtomicU8; MAX_REASON],
    /// The number of the last one, counted from 1; goes on in the successor.
    pub number: Gauge,
    /// Done: from the moment that the old pools stood still until the new ones went on, microseconds.
    pub gap_us: Gauge,
    /// Done, by [`HandoverKind`].
    pub done: [Counter; HandoverKind::ALL.len()],
    /// Failed, by [`HandoverKind`].
    pub failed: [Counter; HandoverKind::ALL.len()],
    /// Sum of all gaps, microseconds.
    pub gaps_us: Counter,
}

impl Counted for HandoverCell {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self {
            candidate: _,
            kind: _,
            state: _,
            reason_len: _,
            reason: _,
            number: _,
            gap_us: _,
            done,
            failed,
            gaps_us,
        } = self;
        for (index, (_, kind)) in HandoverKind::ALL.iter().enumerate() {
            visit(&["handovers", kind, "done"], &done[index]);
            visit(&["handovers", kind, "failed"], &failed[index]);
        }
        visit(&["handover_gaps_us"], gaps_us);
    }
}

impl HandoverCell {
    /// What kind the last one is.
    pub fn kind(&self) -> HandoverKind {
        if self.kind.load(Relaxed) == 1 { HandoverKind::Upgrade } else { HandoverKind::Reload }
    }

    /// How far the last one came.
    pub fn state(&self) -> HandoverState {
        let number = self.state.load(Acquire) as usize;
        HandoverState::ALL.get(number).map_or(HandoverState::None, |(state, _)| *state)
    }

    /// Begins one.
    pub fn begin(&self, kind: HandoverKind) {
        self.kind.store(kind as u32, Relaxed);
        self.number.set(self.number.get() + 1);
        self.set_state(HandoverState::Preparing);
    }

    /// Sets the state, after everything that was written before.
    pub fn set_state(&self, state: HandoverState) {
        self.state.store(state as u32, Release);
    }

    /// It failed; at most [`MAX_REASON`] bytes of the reason are kept.
    pub fn fail(&self, reason: &str) {
        let bytes = &reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON)];
        self.reason.iter().zip(bytes).for_each(|(cell, byte)| cell.store(*byte, Relaxed));
        self.reason_len.store(bytes.len() as u32, Relaxed);
        self.failed[self.kind() as usize].add(1);
        self.set_state(HandoverState::Failed);
    }

    /// Why the last one failed; empty if it did not.
    pub fn reason(&self) -> String {
        if self.state() != HandoverState::Failed {
            return String::new();
        }
        let len = (self.reason_len.load(Relaxed) as usize).min(MAX_REASON);
        let bytes: Vec<u8> = self.reason[..len].iter().map(|byte| byte.load(Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// It is done, by this supervisor, which has taken over from another one the counts so far.
    pub fn succeed(&self, number: u64, kind: HandoverKind, gap_us: u64) {
        self.kind.store(kind as u32, Relaxed);
        self.number.set(number);
        self.gap_us.set(gap_us);
        self.gaps_us.add(gap_us);
        self.done[kind as usize].add(1);
        self.set_state(HandoverState::Done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_decides_and_the_others_learn_it() {
        let cell = DecisionCell::new_zeroed();
        assert!(!cell.decide(Decision::Taken));
        cell.allow();
        assert!(cell.decide(Decision::Kept));
        assert!(!cell.decide(Decision::Taken) && cell.get() == Decision::Kept);
        cell.allow();
        assert!(cell.decide(Decision::Taken));
        assert!(!cell.decide(Decision::Kept) && cell.get() == Decision::Taken);
    }

    #[test]
    fn a_failure_tells_its_reason_and_the_next_one_forgets_it() {
        let cell = HandoverCell::new_zeroed();
        cell.begin(HandoverKind::Upgrade);
        cell.fail(&"ä".repeat(MAX_REASON));
        assert_eq!(cell.reason(), "ä".repeat(MAX_REASON / 2));
        assert_eq!((cell.number.get(), cell.failed[HandoverKind::Upgrade as usize].get()), (1, 1));
        cell.begin(HandoverKind::Reload);
        assert_eq!((cell.reason().as_str(), cell.kind(), cell.number.get()), ("", HandoverKind::Reload, 2));
        cell.succeed(7, HandoverKind::Reload, 1500);
        assert_eq!((cell.state().label(), cell.gap_us.get(), cell.number.get()), ("done", 1500, 7));
    }
}
