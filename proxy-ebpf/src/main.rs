//! The kernel program: for each new connection or datagram to one of our reuseport groups, read who
//! is live, choose, count, and select a socket. The policy itself is `proxy_common::steer::choose`.
//!
//! A packet is never passed on without a selection: the kernel would then hash over the whole
//! group, the dead pool included.
#![no_std]
#![no_main]

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        BPF_F_MMAPABLE,
        sk_action::{SK_DROP, SK_PASS},
    },
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns},
    macros::{map, sk_reuseport},
    maps::{Array, HashMap, PerCpuArray, ReusePortSockArray},
    programs::SkReuseportContext,
};
use aya_log_ebpf::info;
use proxy_common::{
    abi::{DEFAULT_MAX_LISTENERS, LAST_FAIL_OPEN},
    lease::{Liveness, MAX_WORKERS, PRIMARY, SEATS, other},
    slot,
    steer::{Reason, Verdict, choose_among},
};

// The loader sets the sizes to what it needs; the names are those of `proxy_common::abi`.

#[map]
static SOCKETS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries(slot::count(1, MAX_WORKERS as u32), 0);

#[map]
static LISTENERS: HashMap<u64, u32> =
    HashMap::with_max_entries(slot::count(DEFAULT_MAX_LISTENERS, MAX_WORKERS as u32), 0);

#[map]
static LIVENESS: Array<Liveness> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static LAST: Array<u32> = Array::with_max_entries(DEFAULT_MAX_LISTENERS, 0);

#[map]
static VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(slot::verdict_index(DEFAULT_MAX_LISTENERS + 1, 0, 0), 0);

#[unsafe(no_mangle)]
static WORKER_COUNT: Global<u32> = Global::new(MAX_WORKERS as u32);

#[unsafe(no_mangle)]
static LISTENER_COUNT: Global<u32> = Global::new(DEFAULT_MAX_LISTENERS);

/// Runs in the socket lookup of a SYN or of a datagram, and when a listener is closed for each
/// connection that waits in its queue ("migrate").
#[sk_reuseport(migrate)]
pub fn steer(ctx: SkReuseportContext) -> u32 {
    let Some(listener) = listener(&ctx) else { return drop_unknown() };
    let Some(liveness) = LIVENESS.get(0) else { return drop_unknown() };
    let Some(last) = LAST.get_ptr_mut(listener) else { return drop_unknown() };
    // SAFETY: the kernel gave the pointer for this entry, which lives as long as the map; a load of
    // an aligned word is one access, whoever else stores.
    let was = unsafe { last.read_volatile() };
    // SAFETY: takes no argument and cannot fail.
    let now = unsafe { bpf_ktime_get_ns() };

    let chosen = choose_among(liveness, WORKER_COUNT.load(), now, ctx.hash(), was);
    let selected = select(&ctx, liveness, listener, chosen);
    count(listener, &selected);
    if selected.reason == Reason::Dropped {
        return SK_DROP;
    }
    let is = mark(&chosen);
    if is != was {
        // SAFETY: as above. Two processors that see the same change store the same value.
        unsafe { last.write_volatile(is) };
        log_change(&ctx, listener, was, unknown(is, now), unknown(chosen.reason as u32, now));
    }
    SK_PASS
}

/// For a socket that is not, or not yet, one of ours.
fn drop_unknown() -> u32 {
    count(LISTENER_COUNT.load(), &dropped(PRIMARY));
    SK_DROP
}

/// The listener that this packet's reuseport group is, by the socket that the kernel looked up.
fn listener(ctx: &SkReuseportContext) -> Option<u32> {
    // SAFETY: the kernel holds a reference to the socket while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sk().as_ptr()) };
    // SAFETY: the number is copied at once, and an entry is removed only with its socket.
    unsafe { LISTENERS.get(cookie) }.copied()
}

/// Selects the socket of a verdict, or else that of the same worker in the other seat.
fn select(ctx: &SkReuseportContext, liveness: &Liveness, listener: u32, verdict: Verdict) -> Verdict {
    let Verdict { seat, worker, reason } = verdict;
    if reason == Reason::Dropped {
        return verdict;
    }
    let slot = |seat| slot::index(listener, seat, worker, WORKER_COUNT.load());
    if SOCKETS.select_reuseport(ctx, slot(seat)).is_ok() {
        return verdict;
    }
    if SOCKETS.select_reuseport(ctx, slot(other(seat))).is_ok() {
        return Verdict { seat: other(seat), worker, reason: Reason::SlotEmpty };
    }
    dropped(liveness.first & 1)
}

fn dropped(seat: u32) -> Verdict {
    Verdict { seat, worker: 0, reason: Reason::Dropped }
}

/// The seat as it is kept in `LAST`.
fn mark(verdict: &Verdict) -> u32 {
    let fail_open = verdict.reason == Reason::FailOpen;
    verdict.seat | if fail_open { LAST_FAIL_OPEN } else { 0 }
}

fn count(listener: u32, verdict: &Verdict) {
    let index = slot::verdict_index(listener, verdict.seat, verdict.reason as u32);
    if let Some(counter) = VERDICTS.get_ptr_mut(index) {
        // SAFETY: the entry is this processor's own, and the program is not preempted by itself.
        unsafe { *counter += 1 };
    }
}

/// The same number, of which the verifier knows no more than that it is below 8. Else it would walk through all that
/// follows once for each of the numbers that it can be.
#[inline(always)]
fn unknown(number: u32, noise: u64) -> u32 {
    ((number ^ noise as u32) ^ black_box(noise) as u32) & 7
}

#[inline(always)]
fn log_change(ctx: &SkReuseportContext, listener: u32, was: u32, is: u32, reason: u32) {
    info!(
        ctx,
        "listener {}: new traffic goes from the {} to the {} ({})",
        listener,
        seat_name(was),
        seat_name(is),
        reason_name(reason)
    );
}

/// The name by an index and not by a branch, which would double the paths through the log call.
#[inline(always)]
fn seat_name(mark: u32) -> &'static str {
    const NAMES: &[[u8; 7]; SEATS] = &[*b"primary", *b"standby"];
    // SAFETY: the names are ASCII.
    unsafe { core::str::from_utf8_unchecked(&NAMES[(mark & 1) as usize]) }
}

/// The name of a reason that the verifier does not know.
#[inline(always)]
fn reason_name(reason: u32) -> &'static str {
    let name = &REASON_NAMES[(reason & 7) as usize];
    // SAFETY: what follows the first byte is ASCII, and is as long as the mask allows at least.
    unsafe {
        let bytes = core::slice::from_raw_parts(name.as_ptr().add(1), name[0] as usize & (NAME_ROOM - 1));
        core::str::from_utf8_unchecked(bytes)
    }
}

/// A name and its length before it.
const NAME_ROOM: usize = 16;

/// Names by reason, side by side: constants of the program cannot hold addresses. Its own name goes into the object, and
/// would tell the directory of the build if it were mangled.
#[unsafe(no_mangle)]
static REASON_NAMES: [[u8; NAME_ROOM]; 8] = {
    let mut names = [[0; NAME_ROOM]; 8];
    let mut reason = 0;
    while reason < Reason::ALL.len() {
        let name = Reason::ALL[reason].name().as_bytes();
        names[reason][0] = name.len() as u8;
        let mut at = 0;
        while at < name.len() {
            names[reason][at + 1] = name[at];
            at += 1;
        }
        reason += 1;
    }
    names
};

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
