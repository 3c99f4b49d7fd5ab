//! The `LIVENESS` map in memory: bits and leases are plain stores, read by the kernel program.

use std::{
    io,
    mem::offset_of,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use proxy_common::lease::{Liveness, MAX_WORKERS, SEATS, SeatLiveness};

use crate::sys::bpf_map;

const WORD: usize = size_of::<u64>();
const WORDS: usize = size_of::<Liveness>() / WORD;
const SEAT_0: usize = offset_of!(Liveness, seats) / WORD;
const SEAT_WORDS: usize = size_of::<SeatLiveness>() / WORD;
const DEADLINES: usize = offset_of!(SeatLiveness, deadlines) / WORD;

// `first` is the low half of word 0 and `workers` the high half.
const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(offset_of!(Liveness, first) == 0 && offset_of!(Liveness, workers) == 4);
const _: () = assert!(offset_of!(SeatLiveness, live) == 0);

/// Writes and reads the liveness bits and leases that the kernel program steers by.
///
/// A copy names the same memory, in this process and in its clones. Writers are as
/// [`proxy_common::lease`] says: the supervisor all but the deadlines, a worker its own deadline.
/// All stores are atomic; one to a bit is seen after those made before it.
///
/// Seats are 0 and 1, workers 0 to 63; others panic.
#[derive(Clone, Copy, Debug)]
pub struct LivenessMap {
    words: &'static [AtomicU64; WORDS],
}

impl LivenessMap {
    /// Maps the value of the `LIVENESS` map.
    pub(super) fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let words = bpf_map::map_words(map, WORDS)?;
        Ok(Self { words: words.try_into().map_err(|_| io::ErrorKind::InvalidData)? })
    }

    /// Says which seat is tried first.
    pub fn set_first(&self, seat: u32) {
        self.set_head(seat, (self.head() >> 32) as u32);
    }

    /// Says how many workers a pool has, at least 1 and at most as many as were loaded for.
    pub fn set_workers(&self, workers: u32) {
        self.set_head(self.head() as u32, workers);
    }

    /// Sets or clears the seat's liveness bit.
    pub fn set_live(&self, seat: u32, live: bool) {
        self.live(seat).store(live.into(), Ordering::Release);
    }

    /// The seat's liveness bit.
    pub fn is_live(&self, seat: u32) -> bool {
        self.live(seat).load(Ordering::Acquire) != 0
    }

    /// The heartbeat: the worker's lease now ends at `deadline_ns` of `CLOCK_MONOTONIC`, `u64::MAX`
    /// being as good as never.
    pub fn renew(&self, seat: u32, worker: u32, deadline_ns: u64) {
        let deadline_ns = deadline_ns.min(i64::MAX as u64);
        self.deadline_word(seat, worker).store(deadline_ns, Ordering::Relaxed);
    }

    /// When the worker's lease ends, nanoseconds of `CLOCK_MONOTONIC`; 0 if it never had one.
    pub fn deadline(&self, seat: u32, worker: u32) -> u64 {
        self.deadline_word(seat, worker).load(Ordering::Relaxed)
    }

    /// Ends every lease of the seat, for a pool that is dead or has yet to come.
    pub fn expire(&self, seat: u32) {
        for worker in 0..MAX_WORKERS as u32 {
            self.renew(seat, worker, 0);
        }
    }

    /// What the kernel program sees now, for [`proxy_common::steer::choose`].
    pub fn snapshot(&self) -> Liveness {
        let head = self.head();
        let mut snapshot = Liveness { first: head as u32, workers: (head >> 32) as u32, ..Liveness::EMPTY };
        for (seat, liveness) in (0u32..).zip(&mut snapshot.seats) {
            liveness.live = self.live(seat).load(Ordering::Acquire);
            for (worker, deadline) in (0u32..).zip(&mut liveness.deadlines) {
                *deadline = self.deadline(seat, worker);
            }
        }
        snapshot
    }

    fn head(&self) -> u64 {
        self.words[0].load(Ordering::Relaxed)
    }

    fn set_head(&self, first: u32, workers: u32) {
        self.words[0].store(u64::from(first) | u64::from(workers) << 32, Ordering::Release);
    }

    fn live(&self, seat: u32) -> &AtomicU64 {
        &self.seat(seat)[0]
    }

    fn deadline_word(&self, seat: u32, worker: u32) -> &AtomicU64 {
        &self.seat(seat)[DEADLINES..][worker as usize]
    }

    fn seat(&self, seat: u32) -> &[AtomicU64] {
        assert!((seat as usize) < SEATS, "no seat {seat}");
        &self.words[SEAT_0 + seat as usize * SEAT_WORDS..][..SEAT_WORDS]
    }
}
