//! What the kernel program needs and aya has no call for: mapping a map's value, the cookie that names a
//! socket, and taking a program off a reuseport group.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr, slice,
    sync::atomic::AtomicU64,
};

/// Maps the first `words` 64-bit words of a `BPF_F_MMAPABLE` array into memory, for good. Clones of
/// this process see the same memory, and so does the kernel program.
///
/// The kernel lays the entries out at a stride of the value size rounded up to 8 bytes and rounds
/// the whole up to a page (`array_map_alloc`, `array_map_mmap` in kernel/bpf/arraymap.c).
///
/// # Errors
/// `EINVAL`: `words` is more than the array holds. `EPERM`: the map is frozen. `ENOTSUPP` (524): it
/// is not mmapable.
pub fn map_words(map: BorrowedFd<'_>, words: usize) -> io::Result<&'static [AtomicU64]> {
    let length = words * size_of::<AtomicU64>();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice, so no memory of ours is touched.
    let address =
        unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is `length` bytes long, page-aligned, readable and writable, and nobody
    // unmaps it. The kernel and other processes write to it, which atomics allow, and any bits are
    // an u64.
    Ok(unsafe { slice::from_raw_parts(address.cast::<AtomicU64>(), words) })
}

/// The socket's cookie (`SO_COOKIE`), unique since boot and never 0.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Takes the program off a socket's reuseport group (`SO_DETACH_REUSEPORT_BPF`, Linux 5.3; socket(7)). That
/// there is none is no error.
///
/// # Errors
/// `ENOTSOCK`, `EBADF`.
pub fn detach_reuseport(socket: BorrowedFd<'_>) -> io::Result<()> {
    let none = 0i32;
    let len = size_of_val(&none) as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF);
    // SAFETY: `len` bytes are read from a live local.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const none).cast(), len) };
    match super::check(result) {
        // EINVAL: it is in no group (`reuseport_detach_prog`, net/core/sock_reuseport.c).
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        other => other.map(drop),
    }
}
