//! Memory that supervisor, pools and control share: a memfd, mapped before the first clone.

use std::io;

use zerocopy::FromZeros;

use super::{Fd, check};

/// An empty file in memory, to write to and to pass on, close-on-exec.
///
/// # Errors
/// The memory or the descriptor limit is reached.
pub fn file(name: &std::ffi::CStr) -> io::Result<std::fs::File> {
    // SAFETY: `name` is a C string; no other memory is involved.
    let fd = Fd::from_raw(check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) })?);
    Ok(fd.into_owned().into())
}

/// A shared mapping that lives as long as the process. Clones of it name the same memory.
#[derive(Clone, Copy)]
pub struct SharedMemory {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is never unmapped, and access goes through `slice`, whose element types are
// `Sync` (atomics).
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes `len` bytes of zeroes, named `name` in `/proc/PID/maps`, kept out of core dumps.
    ///
    /// # Errors
    /// The memory or the descriptor limit is reached.
    pub fn create(name: &std::ffi::CStr, len: usize) -> io::Result<(Fd, Self)> {
        let file = file(name)?;
        file.set_len(len as u64)?;
        let fd = Fd::keep(file);
        Ok((fd, Self::map(fd, len)?))
    }

    /// Maps what another process has made.
    ///
    /// # Errors
    /// It is shorter than `len`.
    pub fn open(fd: Fd, len: usize) -> io::Result<Self> {
        let file = std::fs::metadata(format!("/proc/self/fd/{}", fd.raw()))?;
        if file.len() < len as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the memory is shorter than its layout",
            ));
        }
        Self::map(fd, len)
    }

    fn map(fd: Fd, len: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd.raw(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made. Advice only: failing changes nothing else.
        unsafe { libc::madvise(base, len, libc::MADV_DONTDUMP) };
        Ok(Self { base: base.cast(), len })
    }

    /// `count` elements at byte `offset`.
    ///
    /// # Panics
    /// The range is not inside the memory, or `offset` is not aligned: the layout, which is
    /// computed once at start, is wrong.
    pub fn slice<T: FromZeros + Sync>(&self, offset: usize, count: usize) -> &'static [T] {
        let end = count.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.len), "shared layout exceeds the memory");
        assert!(offset.is_multiple_of(align_of::<T>()), "shared layout is not aligned");
        // SAFETY: in bounds and aligned (above; the base is page-aligned), never unmapped, and any
        // value another process stores is a valid T: the types stored here are made of integers
        // (FromZeros, and the table module stores atomics only), which are Sync.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast::<T>(), count) }
    }
}
