//! Pipes, the holders of bytes in flight, and `splice`.

use std::io;

use super::{Fd, call, check, check_len, fd::close};

/// Makes a non-blocking pipe behind ONE descriptor, for reading and writing, that holds `size`
/// bytes if the kernel allows it (`/proc/sys/fs/pipe-max-size`, and for ordinary users
/// `pipe-user-pages-soft`; pipe(7)), else what it does allow.
///
/// # Errors
/// The descriptor limit is reached, or `/proc` is not mounted.
pub fn create(size: usize) -> io::Result<Fd> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two numbers.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    let both = open_both(ends[0]);
    for end in ends {
        close(Fd::from_raw(end));
    }
    let both = both?;
    // SAFETY: no memory is involved. A refusal leaves the size as it is.
    unsafe { libc::fcntl(both.raw(), libc::F_SETPIPE_SZ, size as libc::c_int) };
    Ok(both)
}

/// Opens a pipe end again for both directions: fifo(7) allows O_RDWR, pipe(2) does not offer it.
fn open_both(end: i32) -> io::Result<Fd> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{end}"))?;
    // SAFETY: `path` is a C string.
    check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK) }).map(Fd::from_raw)
}

/// Moves up to `len` bytes between a socket and a pipe without copying. Each call is atomic as to
/// the caller's death: bytes are in one or the other, never in neither.
///
/// Answers 0 at the end of the stream (and at an urgent mark: [`super::urgent`]).
///
/// # Errors
/// `WouldBlock`: nothing to read, or no room. `ECONNRESET`, `EPIPE`: the peer is gone.
pub fn splice(from: Fd, to: Fd, len: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    check_len(call::splice(from.raw(), to.raw(), len, flags))
}

/// Buffers that a pipe has: a fill of fewer bytes cannot have been cut short by the pipe, for each
/// buffer holds a byte at least.
///
/// # Errors
/// The number names no pipe.
pub fn slots(pipe: Fd) -> io::Result<usize> {
    // SAFETY: integers only.
    let size = check(unsafe { libc::fcntl(pipe.raw(), libc::F_GETPIPE_SZ) })?;
    // SAFETY: integers only.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(size as usize / page.max(1) as usize)
}

/// Bytes that can be read from a pipe or a TCP socket now (FIONREAD: pipe(7), tcp(7)).
///
/// # Errors
/// The number names nothing readable.
pub fn readable(fd: Fd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    check(unsafe { libc::ioctl(fd.raw(), libc::FIONREAD, &mut count) })?;
    Ok(count.max(0) as usize)
}

/// Writes bytes to a pipe, as many as it has room for, and answers how many.
///
/// # Errors
/// `WouldBlock`: it is full.
pub fn write(pipe: Fd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a live slice.
    check_len(unsafe { libc::write(pipe.raw(), bytes.as_ptr().cast(), bytes.len()) })
}

/// Writes one byte to a pipe.
///
/// # Errors
/// `WouldBlock`: it is full.
pub fn write_byte(pipe: Fd, byte: u8) -> io::Result<()> {
    // SAFETY: one byte is read from a live local.
    check_len(unsafe { libc::write(pipe.raw(), (&raw const byte).cast(), 1) }).map(drop)
}
