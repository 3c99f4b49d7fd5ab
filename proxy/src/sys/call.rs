//! System calls that are made for each connection or message, without glibc's functions for them.
//!
//! Those are points of cancellation (pthreads(7)): in a process with threads each of them allows asynchronous
//! cancellation and forbids it again, two atomic exchanges, which were 2.4 % of the cost of a small message. No thread
//! here is ever cancelled. Arguments, answers and `errno` are those of the functions of the same names in section 2.

use std::ptr::null_mut;

use libc::{
    c_int, c_long, c_uint, c_void, epoll_event, mmsghdr, msghdr, sockaddr, socklen_t, ssize_t, syscall,
};

/// Bytes of the kernel's signal set (`_NSIG / 8`, asm/signal.h), told even where none is given.
const SIGNAL_SET: usize = 8;

/// # Safety
/// As recv(2): `buffer` has room for `len` bytes.
pub(super) unsafe fn recv(socket: c_int, buffer: *mut c_void, len: usize, flags: c_int) -> ssize_t {
    let nobody = null_mut::<c_void>();
    // SAFETY: the caller's word.
    unsafe { syscall(libc::SYS_recvfrom, socket, buffer, len, flags, nobody, nobody) as ssize_t }
}

/// # Safety
/// As send(2): there are `len` bytes at `buffer`.
pub(super) unsafe fn send(socket: c_int, buffer: *const c_void, len: usize, flags: c_int) -> ssize_t {
    let (nobody, no_len): (*mut c_void, socklen_t) = (null_mut(), 0);
    // SAFETY: the caller's word.
    unsafe { syscall(libc::SYS_sendto, socket, buffer, len, flags, nobody, no_len) as ssize_t }
}

/// # Safety
/// As sendmsg(2): `message` and what it points to live for the call.
pub(super) unsafe fn sendmsg(socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's word.
    unsafe { syscall(libc::SYS_sendmsg, socket, message, flags) as ssize_t }
}

/// # Safety
/// As recvmmsg(2), without a timeout: there are `len` messages, and what they point to can be written.
pub(super) unsafe fn recvmmsg(socket: c_int, messages: *mut mmsghdr, len: c_uint, flags: c_int) -> c_int {
    // SAFETY: the caller's word.
    unsafe { answer(syscall(libc::SYS_recvmmsg, socket, messages, len, flags, null_mut::<c_void>())) }
}

/// # Safety
/// As accept4(2): `address` has room for `*len` bytes.
pub(super) unsafe fn accept4(
    socket: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's word.
    unsafe { answer(syscall(libc::SYS_accept4, socket, address, len, flags)) }
}

/// # Safety
/// As connect(2): there are `len` bytes at `address`.
pub(super) unsafe fn connect(socket: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the caller's word.
    unsafe { answer(syscall(libc::SYS_connect, socket, address, len)) }
}

/// As splice(2), without offsets.
pub(super) fn splice(from: c_int, to: c_int, len: usize, flags: c_uint) -> ssize_t {
    let no_offset = null_mut::<c_void>();
    // SAFETY: no memory is involved.
    unsafe { syscall(libc::SYS_splice, from, no_offset, to, no_offset, len, flags) as ssize_t }
}

/// As close(2).
pub(super) fn close(number: c_int) -> c_int {
    // SAFETY: no memory is involved.
    unsafe { answer(syscall(libc::SYS_close, number)) }
}

/// # Safety
/// As epoll_wait(2): there is room for `most` events. (It is epoll_pwait: newer architectures have no other.)
pub(super) unsafe fn epoll_wait(
    set: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    let no_signals = null_mut::<c_void>();
    // SAFETY: the caller's word.
    unsafe { answer(syscall(libc::SYS_epoll_pwait, set, events, most, timeout_ms, no_signals, SIGNAL_SET)) }
}

/// An answer that is an int.
fn answer(value: c_long) -> c_int {
    value as c_int
}
