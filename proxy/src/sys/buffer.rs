//! Buffers in a file in memory, which outlives the process that fills them, and which no process needs to map whole.

use std::{io, ops::Range};

use super::{Fd, call, check_len};

/// Bytes of a buffer.
pub const SIZE: usize = 16 << 10;

/// One buffer of a file of them, mapped for the life of the process. Only the kernel reads and writes it: nothing
/// here makes a reference to its bytes.
pub struct Buffer {
    base: *mut libc::c_void,
}

// SAFETY: it is an address of a mapping that is never unmapped and that no reference points into.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Maps the buffer of this number, with its memory there already.
    ///
    /// # Errors
    /// The file is shorter, or memory is exhausted.
    pub fn map(file: Fd, number: u32) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let offset = offset(number) as libc::off_t;
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, protection, flags, file.raw(), offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made. Advice only: failing changes nothing else.
        unsafe { libc::madvise(base, SIZE, libc::MADV_DONTDUMP) };
        Ok(Self { base })
    }

    /// Reads what a stream has now into the beginning, as much as there is room for; 0 at its end.
    ///
    /// # Errors
    /// `WouldBlock`: nothing to read. `ConnectionReset`: the peer is gone.
    pub fn receive(&mut self, socket: Fd) -> io::Result<usize> {
        // SAFETY: the mapping (above) has SIZE bytes from `base`, and nobody has a reference into it.
        check_len(unsafe { call::recv(socket.raw(), self.base, SIZE, libc::MSG_DONTWAIT) })
    }

    /// Writes a part of it to a stream, as much as that takes now, and answers how much.
    ///
    /// # Errors
    /// `WouldBlock`: it is full. `BrokenPipe`, `ConnectionReset`: the peer is gone.
    pub fn send(&self, socket: Fd, part: Range<usize>) -> io::Result<usize> {
        let (start, end) = (part.start.min(SIZE), part.end.min(SIZE));
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the part is inside the mapping (above), which nobody has a reference into.
        check_len(unsafe {
            call::send(socket.raw(), self.base.byte_add(start), end.saturating_sub(start), flags)
        })
    }
}

/// A part of a buffer, whoever's it was.
///
/// # Errors
/// The file has no such part.
pub fn read(file: Fd, number: u32, part: Range<usize>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; part.end.min(SIZE).saturating_sub(part.start)];
    let from = (offset(number) + part.start) as libc::off_t;
    // SAFETY: pointer and length are those of a live, exclusive vector.
    let count = check_len(unsafe { libc::pread(file.raw(), bytes.as_mut_ptr().cast(), bytes.len(), from) })?;
    if count == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn offset(number: u32) -> usize {
    number as usize * SIZE
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::{fd::AsRawFd as _, unix::net::UnixStream},
    };

    use super::*;
    use crate::sys::memory;

    #[test]
    fn a_part_goes_to_a_socket_and_can_be_read_after_a_death() {
        let file = memory::file(c"test").unwrap();
        file.set_len(3 * SIZE as u64).unwrap();
        let file = Fd::keep(file);
        let mut buffer = Buffer::map(file, 2).unwrap();
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let ours_fd = Fd::from_raw(ours.as_raw_fd());
        assert_eq!(buffer.receive(ours_fd).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        peer.write_all(b"01234567").unwrap();
        assert_eq!(buffer.receive(ours_fd).unwrap(), 8);
        assert_eq!(buffer.send(ours_fd, 2..5).unwrap(), 3);
        let mut back = [0; 3];
        peer.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"234");
        // Who comes after a death sees the same.
        assert_eq!(read(file, 2, 5..8).unwrap(), b"567");
        assert!(read(file, 9, 0..1).is_err(), "beyond the file");
    }
}
