//! Descriptor numbers of the shared table.

use std::{fs, io};

use super::{call, check};

/// A number in the descriptor table that supervisor and pools share. Copying it copies the number,
/// not the descriptor; nothing is closed on drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fd(i32);

impl Fd {
    /// Takes a descriptor over from a type that would close it.
    pub fn keep(owner: impl std::os::fd::IntoRawFd) -> Self {
        Self(owner.into_raw_fd())
    }

    /// A number read from the flow table; it may name nothing.
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The number as an index, for the tags and records of the flow table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Gives the descriptor to a type that will close it. It must be this process's own to close.
    pub fn into_owned(self) -> std::os::fd::OwnedFd {
        // SAFETY: the number names a descriptor that nobody else closes (the caller's word), and is not -1.
        unsafe { std::os::fd::FromRawFd::from_raw_fd(self.0) }
    }

    /// Lends the descriptor to a library that wants a borrowed one.
    pub fn borrow(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the number is not -1 (checked calls made it, or the flow table validated it), and
        // whoever holds the `Fd` keeps it open for the length of the call it lends it to.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

/// What a descriptor is, as far as the sweep needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A socket.
    Socket,
    /// A pipe.
    Pipe,
    /// Anything else.
    Other,
}

/// Closes a number of the shared table: a real close, for there is one table.
pub fn close(fd: Fd) {
    // The flow table's owner rules say that the caller owns the number. EINTR and EIO leave it closed on Linux
    // (close(2)), so there is no error to act on.
    call::close(fd.raw());
}

/// Makes a number name what `stand_in` does, and closes what it named, in one step: nobody else gets the number.
pub fn replace(fd: Fd, stand_in: Fd) {
    // SAFETY: no memory is involved; the caller owns the number. The one error, EBUSY, is a race with an open
    // that this number, being open, cannot be in (dup(2)).
    unsafe { libc::dup3(stand_in.raw(), fd.raw(), libc::O_CLOEXEC) };
}

/// What kind of object a number names; `None` if nothing.
pub fn kind(fd: Fd) -> Option<Kind> {
    Some(match stat(fd).ok()?.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFIFO => Kind::Pipe,
        _ => Kind::Other,
    })
}

/// The user whose a file is. A socket is that user's who made it (`sock_alloc`, net/socket.c).
///
/// # Errors
/// Not a descriptor.
pub fn owner(fd: Fd) -> io::Result<u32> {
    stat(fd).map(|stat| stat.st_uid)
}

fn stat(fd: Fd) -> io::Result<libc::stat> {
    // SAFETY: `stat` is plain data, fully written by a successful fstat.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        check(libc::fstat(fd.raw(), &mut stat))?;
        Ok(stat)
    }
}

/// Whether a number names an object without a file of this kind, such as `eventpoll`.
pub fn is_anonymous(fd: Fd, kind: &str) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.raw()));
    link.is_ok_and(|link| link.to_string_lossy() == format!("anon_inode:[{kind}]"))
}

/// All numbers open in this process's table, ascending, but for the one that this call uses itself.
///
/// # Errors
/// `/proc` is not mounted or not readable.
pub fn open_numbers() -> io::Result<Vec<Fd>> {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(Fd).filter(|fd| kind(*fd).is_some()).collect())
}

/// Leaves the shared table for an own one that holds only the numbers below `first`
/// (`close_range(2)` with `CLOSE_RANGE_UNSHARE`, Linux 5.9). The descriptors above are never
/// duplicated, so a close by a pool meanwhile stays a real close.
///
/// # Errors
/// Out of memory.
pub fn unshare_below(first: Fd) -> io::Result<()> {
    // SAFETY: only numbers of the new, private table are closed.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first.raw() as u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE)
    };
    check(result as i32).map(drop)
}

/// Soft and hard limit of open descriptors.
///
/// # Errors
/// None in practice (getrlimit(2)).
pub fn limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to write.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets the soft limit of open descriptors to the hard one, or to `most` if that is less, and answers
/// it: no number is as high.
///
/// # Errors
/// A security module forbids it.
pub fn raise_limit(most: u64) -> io::Result<u64> {
    let (_, hard) = limit()?;
    let soft = hard.min(most);
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    set_limit(wanted)?;
    Ok(soft)
}

/// Calls `body` while no descriptor can be opened (`EMFILE`: getrlimit(2)). The limit is the process's: where there are
/// other threads, which it would hit too, or it cannot be lowered, `body` is called as it is.
///
/// # Errors
/// What the limit was cannot be set again.
pub fn while_none_can_be_opened<T>(body: impl FnOnce() -> T) -> io::Result<T> {
    let is_alone = super::process::thread_count().is_ok_and(|count| count == 1);
    match limit() {
        Ok((soft, hard)) if is_alone && set_limit(libc::rlimit { rlim_cur: 0, rlim_max: hard }).is_ok() => {
            let result = body();
            set_limit(libc::rlimit { rlim_cur: soft, rlim_max: hard })?;
            Ok(result)
        }
        _ => Ok(body()),
    }
}

fn set_limit(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` is a valid rlimit for the call to read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}
