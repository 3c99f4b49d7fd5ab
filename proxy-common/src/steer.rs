//! The steering policy: which seat and worker new traffic goes to. The kernel program runs this
//! very function, and so do the tests on the host.
//!
//! It is written for the kernel's verifier: nothing allocates, panics or recurses, every loop has a
//! constant bound, and what a loop finds out it computes without a branch, since the verifier would
//! walk both ways in every round.

use crate::lease::{Liveness, MAX_WORKERS, SeatLiveness, other};

/// Number of counters kept per listener and seat; at least the number of [`Reason`]s.
pub const REASONS: usize = 8;

/// Deadlines looked at in a row, a cache line's worth: each place where a loop may end is another
/// state for the verifier to go on from.
const BATCH: usize = 8;
const _: () = assert!(MAX_WORKERS.is_multiple_of(BATCH));

/// Why a verdict is what it is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first seat, all of its workers live.
    Preferred = 0,
    /// The first seat, but one or more of its workers are passed by: their leases have run out.
    WorkerExpired = 1,
    /// The other seat: the first one's liveness bit is clear.
    BitClear = 2,
    /// The other seat: every lease of the first one has run out.
    LeaseExpired = 3,
    /// Nobody is live: the seat used last gets it, to be served when somebody comes back. If the
    /// liveness bit of exactly one seat is set, then that seat instead: it alone may come back.
    FailOpen = 4,
    /// No socket could be selected: the packet is dropped (TCP answers RST, UDP an ICMP error).
    Dropped = 5,
    /// The seat opposite to the one chosen, because the slot chosen held no usable socket. Given by
    /// the kernel program, which alone sees the sockets; [`choose`] never returns it.
    SlotEmpty = 6,
}

impl Reason {
    /// Every reason, by number.
    pub const ALL: [Self; 7] = [
        Self::Preferred,
        Self::WorkerExpired,
        Self::BitClear,
        Self::LeaseExpired,
        Self::FailOpen,
        Self::Dropped,
        Self::SlotEmpty,
    ];

    /// The name used in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::WorkerExpired => "worker_expired",
            Self::BitClear => "bit_clear",
            Self::LeaseExpired => "lease_expired",
            Self::FailOpen => "fail_open",
            Self::Dropped => "dropped",
            Self::SlotEmpty => "slot_empty",
        }
    }
}

/// Where new traffic goes and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The seat chosen.
    pub seat: u32,
    /// The worker chosen, less than the number of workers (0 if there are none).
    pub worker: u32,
    /// Why.
    pub reason: Reason,
}

/// Chooses a seat and a worker.
///
/// `now` is in nanoseconds of `CLOCK_MONOTONIC`, `hash` is that of the packet's addresses and
/// ports, spread evenly over the live workers, and `last` is the seat used last.
///
/// Any input is safe: seats count modulo 2, workers above [`MAX_WORKERS`] do not exist, and a
/// deadline further away than 2^63 ns (292 years) counts as one on the other side of `now`.
#[inline(always)]
pub fn choose(liveness: &Liveness, now: u64, hash: u32, last: u32) -> Verdict {
    choose_among(liveness, liveness.workers, now, hash, last)
}

/// The same, where there are no more workers than `most`.
///
/// If the verifier knows that number, it knows where the loops over deadlines end. Else it would go on from each place
/// where they may, through all that follows.
#[inline(always)]
pub fn choose_among(liveness: &Liveness, most: u32, now: u64, hash: u32, last: u32) -> Verdict {
    let first = liveness.first & 1;
    let most = at_most(most, MAX_WORKERS as u32);
    let workers = Workers { count: at_most(liveness.workers, most), most };
    if workers.count == 0 {
        return Verdict { seat: first, worker: 0, reason: Reason::Dropped };
    }
    let (seat, candidates, reason) = candidates(liveness, first, workers, now, last);
    Verdict { seat, worker: spread(hash, candidates), reason }
}

/// How many workers each seat has.
#[derive(Clone, Copy)]
struct Workers {
    count: u32,
    /// At most, a number that may be better known.
    most: u32,
}

/// The seat, those of its workers that may be chosen, one bit each and at least one, and why.
#[inline(always)]
fn candidates(liveness: &Liveness, first: u32, workers: Workers, now: u64, last: u32) -> (u32, u64, Reason) {
    let all = lowest(workers.count);
    let preferred = seat(liveness, first);
    let live = live_workers(preferred, workers, now);
    if live != 0 {
        let reason = if live == all { Reason::Preferred } else { Reason::WorkerExpired };
        return (first, live, reason);
    }
    let fallback = seat(liveness, other(first));
    let live = live_workers(fallback, workers, now);
    if live != 0 {
        let cleared = preferred.live == 0;
        let reason = if cleared { Reason::BitClear } else { Reason::LeaseExpired };
        return (other(first), live, reason);
    }
    let seat = match (preferred.live != 0, fallback.live != 0) {
        (true, false) => first,
        (false, true) => other(first),
        _ => last & 1,
    };
    (seat, all, Reason::FailOpen)
}

#[inline(always)]
fn seat(liveness: &Liveness, seat: u32) -> &SeatLiveness {
    // The mask tells the compiler that there is nothing to panic about.
    &liveness.seats[(seat & 1) as usize]
}

/// The live workers of a seat, one bit each: none if its liveness bit is clear.
#[inline(always)]
fn live_workers(seat: &SeatLiveness, workers: Workers, now: u64) -> u64 {
    if seat.live == 0 {
        return 0;
    }
    let mut live = 0;
    let mut worker = 0;
    while worker < MAX_WORKERS && worker < workers.most as usize {
        for _ in 0..BATCH {
            live |= in_future(seat.deadlines[worker & (MAX_WORKERS - 1)], now) << worker;
            worker += 1;
        }
    }
    live & lowest(workers.count)
}

/// 1 if the deadline is after now, else 0: the sign of their distance, as long as that is under 2^63.
/// The compiler would make a branch of a comparison, and of this too if it knew the operands' range.
#[inline(always)]
fn in_future(deadline: u64, now: u64) -> u64 {
    now.wrapping_sub(deadline) >> 63
}

/// A mask of the `count` lowest bits, `count` being 1 to 64.
#[inline(always)]
fn lowest(count: u32) -> u64 {
    u64::MAX >> ((MAX_WORKERS as u32 - count) & 63)
}

#[inline(always)]
fn at_most(value: u32, limit: u32) -> u32 {
    if value < limit { value } else { limit }
}

/// The worker that the hash falls to, evenly, among the candidates. (Scaling by a multiplication
/// saves a division.)
#[inline(always)]
fn spread(hash: u32, candidates: u64) -> u32 {
    let rank = (hash as u64 * candidates.count_ones() as u64) >> 32;
    nth_set_bit(candidates, rank as u32)
}

/// The position of the `n`-th set bit, counted from 0; there must be more than `n`. A word is taken
/// as eight lanes of a byte, so that it takes no loop (Vigna, "Broadword implementation of
/// rank/select queries", 2008).
#[inline(always)]
fn nth_set_bit(mask: u64, n: u32) -> u32 {
    let n = u64::from(n & 63);
    // Set bits in bytes 0 to i, in lane i.
    let pairs = mask - ((mask >> 1) & (0x55 * LANES));
    let nibbles = (pairs & (0x33 * LANES)) + ((pairs >> 2) & (0x33 * LANES));
    let by_byte = ((nibbles + (nibbles >> 4)) & (0x0f * LANES)).wrapping_mul(LANES);
    let start = (8 * lanes_at_most(n, by_byte)) & 63;
    let rest = n - (((by_byte << 8) >> start) & 63);
    // The same within the byte found: its bit i is put into lane i and made a 1.
    let bits = (((mask >> start) & 0xff) * LANES) & 0x8040_2010_0804_0201;
    let ones = (((bits + 0x7f * LANES) | bits) >> 7) & LANES;
    let by_bit = ones.wrapping_mul(LANES);
    (start + lanes_at_most(rest, by_bit)) as u32 & 63
}

/// A 1 in each lane.
const LANES: u64 = 0x0101_0101_0101_0101;

/// How many lanes hold at most `n`; neither they nor `n` are over 127.
#[inline(always)]
fn lanes_at_most(n: u64, lanes: u64) -> u64 {
    let not_over = (((n | 0x80) * LANES - lanes) >> 7) & LANES;
    not_over.wrapping_mul(LANES) >> 56
}
