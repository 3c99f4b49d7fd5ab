//! Liveness bits and leases: the layout of the one entry of the `LIVENESS` map.
//!
//! Single writers: the supervisor writes `first`, `workers` and `live`; each worker writes its own
//! deadline. The kernel program only reads. Every field is a naturally aligned word, so a reader
//! sees an old or a new value and never a torn one.

/// Seats in the steering order: primary and standby.
pub const SEATS: usize = 2;

/// Most workers in one pool.
pub const MAX_WORKERS: usize = 64;

/// The seat numbers, as used in maps, metrics and records.
pub const PRIMARY: u32 = 0;
/// See [`PRIMARY`].
pub const STANDBY: u32 = 1;

/// One pool's liveness bit and its workers' leases.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SeatLiveness {
    /// The liveness bit: 1 if this pool may be chosen. Once cleared it stays clear until the pool
    /// is replaced.
    pub live: u64,
    /// When each worker's lease ends, nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    /// A worker whose deadline is not in the future is passed by.
    pub deadlines: [u64; MAX_WORKERS],
}

/// The entry of the `LIVENESS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// The seat that is tried first, [`PRIMARY`] or [`STANDBY`].
    pub first: u32,
    /// Workers in each pool, 1 to [`MAX_WORKERS`].
    pub workers: u32,
    /// By seat.
    pub seats: [SeatLiveness; SEATS],
}

impl Liveness {
    /// No pool live, no lease: what a new map holds.
    pub const EMPTY: Self = Self {
        first: PRIMARY,
        workers: 0,
        seats: [SeatLiveness { live: 0, deadlines: [0; MAX_WORKERS] }; SEATS],
    };
}

/// The other seat.
pub const fn other(seat: u32) -> u32 {
    seat ^ 1
}
