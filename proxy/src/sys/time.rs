//! The clock that the kernel program reads too.

/// Nanoseconds of `CLOCK_MONOTONIC`, the same clock as `bpf_ktime_get_ns` outside time namespaces.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write. CLOCK_MONOTONIC always exists (clock_gettime(2)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Milliseconds of the same clock.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}
