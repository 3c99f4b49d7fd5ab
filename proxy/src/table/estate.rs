//! Estates: what dead workers leave to live ones.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

use zerocopy::{FromZeros, KnownLayout};

use super::NumberCell;
use crate::sys::Fd;

/// How far a worker has come with an [`Estate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EstateStage {
    /// There is none.
    None = 0,
    /// Left to this worker, which has not adopted it yet.
    Left = 1,
    /// Its flows are this worker's; their events still come by the dead worker's epoll set.
    Adopted = 2,
    /// Nothing is registered with its epoll set any more: the supervisor closes that.
    Moved = 3,
    /// Offered by another supervisor's pools, which may take it back: to be claimed and not to be touched.
    Offered = 4,
    /// Claimed: the worker waits until it is [`EstateStage::Left`] to it for good.
    Claimed = 5,
}

/// What a dead worker has left to a live one: its flows, by epoch and worker number, and the epoll
/// set that they are registered with. The supervisor fills an empty one in, and the worker works it off.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct Estate {
    stage: AtomicU32,
    /// The dead pool's epoch.
    pub epoch: AtomicU32,
    /// The dead pool's seat, whose event buffers say what was to be done.
    pub seat: AtomicU32,
    /// The dead worker's epoll set; 0 for none.
    pub set: NumberCell,
    /// Workers that it has been left to so far.
    pub heirs: AtomicU32,
}

impl Estate {
    /// How far the worker has come.
    pub fn stage(&self) -> EstateStage {
        match self.stage.load(Acquire) {
            1 => EstateStage::Left,
            2 => EstateStage::Adopted,
            3 => EstateStage::Moved,
            4 => EstateStage::Offered,
            5 => EstateStage::Claimed,
            _ => EstateStage::None,
        }
    }

    /// Sets it, after everything that was written before.
    pub fn set_stage(&self, stage: EstateStage) {
        self.stage.store(stage as u32, Release);
    }

    /// Leaves an estate here, if there is none yet. Answers whether it was left.
    pub fn leave(&self, epoch: u32, seat: u32, set: Fd, heirs: u32) -> bool {
        self.fill(EstateStage::Left, epoch, seat, set, heirs)
    }

    /// Offers what no pool of this supervisor's has left, if there is nothing yet. Answers whether it was
    /// offered.
    pub fn offer(&self, epoch: u32) -> bool {
        self.fill(EstateStage::Offered, epoch, u32::MAX, Fd::from_raw(0), 1)
    }

    fn fill(&self, stage: EstateStage, epoch: u32, seat: u32, set: Fd, heirs: u32) -> bool {
        if self.stage() != EstateStage::None {
            return false;
        }
        self.epoch.store(epoch, Release);
        self.seat.store(seat, Release);
        self.set.set(set.raw());
        self.heirs.store(heirs, Release);
        self.set_stage(stage);
        true
    }
}
