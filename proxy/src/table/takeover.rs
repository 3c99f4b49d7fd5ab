//! The last takeovers, for people: a ring that the supervisor writes and control reads.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use zerocopy::{FromZeros, KnownLayout};

use super::{AdoptedState, Counter, Gauge, Lost, LostReason, TakeoverStage};

/// Takeovers that are remembered.
pub const RECENT_TAKEOVERS: usize = 8;

/// Protocol, what of it, and how many.
pub type Kind = (&'static str, &'static str, u64);

/// One takeover. Gauges of what is not known yet are 0.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct TakeoverCell {
    /// Counted from 1; 0: there is none, or it is being written.
    number: AtomicU64,
    /// The dead pool's seat.
    pub seat: Gauge,
    /// The dead pool's epoch.
    pub epoch: Gauge,
    /// Why it died, a [`super::FailoverReason`].
    pub reason: Gauge,
    /// How it ended: the signal; or 256 and the exit code.
    pub ending: Gauge,
    /// When it was seen dead, monotonic nanoseconds.
    pub died_at_ns: Gauge,
    /// The same, milliseconds since 1970.
    pub time_ms: Gauge,
    /// By [`TakeoverStage`]: 1 more than microseconds.
    stages: [Gauge; TakeoverStage::ALL.len()],
    /// By [`AdoptedState`].
    pub adopted: [Counter; AdoptedState::ALL.len()],
    /// By protocol and reason.
    pub lost: Lost,
}

impl TakeoverCell {
    /// Its number, or 0 if there is nothing to be read. Who reads the rest asks for the number before
    /// and after: another one means that the rest may be of two takeovers.
    pub fn number(&self) -> u64 {
        self.number.load(Acquire)
    }

    /// Forgets the last takeover and begins another, which `fill` writes.
    pub fn begin(&self, number: u64, fill: impl FnOnce(&Self)) {
        self.number.store(0, Release);
        let Lost { tcp, udp } = &self.lost;
        self.adopted.iter().chain(tcp).chain(udp).for_each(Counter::reset);
        self.stages.iter().chain([&self.ending]).for_each(|gauge| gauge.set(0));
        fill(self);
        self.number.store(number, Release);
    }

    /// How long a stage took, microseconds; `None` while it is not over, or if there was none.
    pub fn stage_us(&self, stage: TakeoverStage) -> Option<u64> {
        self.stages[stage as usize].get().checked_sub(1)
    }

    /// Flows adopted: protocol, state and how many, of what there were any.
    pub fn adopted_by_kind(&self) -> impl Iterator<Item = Kind> {
        let all = AdoptedState::ALL.into_iter().zip(&self.adopted);
        all.map(|((_, protocol, state), count)| (protocol, state, count.get())).filter(|kind| kind.2 > 0)
    }

    /// Flows lost: protocol, reason and how many, of what there were any.
    pub fn lost_by_kind(&self) -> impl Iterator<Item = Kind> {
        let of = |protocol, counts| {
            let all = LostReason::ALL.into_iter().zip::<&[Counter]>(counts);
            all.map(move |((_, reason), count)| (protocol, reason, count.get()))
        };
        of("tcp", &self.lost.tcp).chain(of("udp", &self.lost.udp)).filter(|kind| kind.2 > 0)
    }

    /// Sets it.
    pub fn set_stage_us(&self, stage: TakeoverStage, microseconds: u64) {
        self.stages[stage as usize].set(microseconds.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_takeover_forgets_the_last_one() {
        let cell = TakeoverCell::new_zeroed();
        assert_eq!(cell.number(), 0);
        cell.begin(1, |cell| cell.epoch.set(7));
        cell.set_stage_us(TakeoverStage::Fence, 0);
        cell.adopted[0].add(3);
        cell.lost.udp[0].add(4);
        cell.ending.set(9);
        assert_eq!((cell.number(), cell.epoch.get(), cell.stage_us(TakeoverStage::Fence)), (1, 7, Some(0)));
        cell.begin(9, |cell| assert_eq!(cell.number(), 0));
        assert_eq!((cell.number(), cell.stage_us(TakeoverStage::Fence), cell.ending.get()), (9, None, 0));
        assert_eq!((cell.adopted[0].get(), cell.lost.udp[0].get()), (0, 0));
    }
}
