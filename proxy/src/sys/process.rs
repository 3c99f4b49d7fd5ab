//! Cloning processes that share the descriptor table, and ending them by pidfd.

use std::{ffi::CStr, io, time::Duration};

use super::{Fd, check, fd::close, poll};

/// A child process: its number and a descriptor that becomes readable when it is dead.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    /// Process number.
    pub pid: i32,
    /// pidfd_open(2); closed by [`reap`] or [`forget`].
    pub pidfd: Fd,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nobody told.
    Unknown,
    /// By `exit` with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => formatter.write_str("unknown"),
            Self::Exited(code) => write!(formatter, "exit code {code}"),
            Self::Killed(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

/// The `clone_args` of clone3(2), version 0.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Clones this process with a SHARED descriptor table and copied memory, and runs `body` in the
/// child, which never returns from here.
///
/// The caller must be single-threaded: a lock that another thread holds would stay locked in the child.
///
/// # Errors
/// The process limit or memory is exhausted, or this process has more than one thread.
pub fn clone_sharing_files(body: impl FnOnce() -> i32) -> io::Result<Child> {
    if thread_count()? != 1 {
        return Err(io::Error::other("cannot clone: the process has more than one thread"));
    }
    // SAFETY: single-threaded (above), so the child's copy of memory is consistent, as after
    // fork(2). The child gets its own tid word and robust list (glibc would keep the parent's) and
    // leaves by _exit, so no destructor or atexit of the parent runs in it.
    unsafe {
        let robust = robust_list();
        let mut pidfd: libc::c_int = -1;
        let pid = clone_raw(&mut pidfd)?;
        if pid == 0 {
            libc::syscall(libc::SYS_set_robust_list, robust.0, robust.1);
            libc::_exit(body());
        }
        Ok(Child { pid, pidfd: Fd::from_raw(pidfd) })
    }
}

/// # Safety
/// As fork(2): the child may do nothing that relies on other threads.
unsafe fn clone_raw(pidfd: &mut libc::c_int) -> io::Result<i32> {
    let mut tid_address: *mut libc::c_int = std::ptr::null_mut();
    // SAFETY: PR_GET_TID_ADDRESS writes one pointer.
    unsafe { check(libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid_address))? };
    let flags = libc::CLONE_FILES | libc::CLONE_PIDFD | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    let args = CloneArgs {
        flags: flags as u64,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        child_tid: tid_address as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args of its size; no stack is given, so the child goes on on
    // a copy of this one, as with fork.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match check(result as i32) {
        // Container engines' default seccomp profiles answer clone3 with ENOSYS.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let (flags, pidfd) = ((flags | libc::SIGCHLD) as u64, std::ptr::from_mut(pidfd) as u64);
            let (tid, tls) = (tid_address as u64, 0u64);
            // The order of the last two differs between architectures (clone(2)).
            let (fourth, fifth) = if cfg!(target_arch = "x86_64") { (tid, tls) } else { (tls, tid) };
            // SAFETY: the same clone by the older call, whose parent_tid is the pidfd's place.
            let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0u64, pidfd, fourth, fifth) };
            check(result as i32)
        }
        other => other,
    }
}

/// This thread's robust futex list, to be registered again in a clone.
fn robust_list() -> (u64, u64) {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: writes two words (get_robust_list(2)). On failure both stay 0, and a null list is harmless.
    unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    (head, len)
}

/// Threads of this process.
///
/// # Errors
/// `/proc` is not mounted.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// A process by its number, as a child of somebody; the caller knows that the number is its still.
///
/// # Errors
/// There is no such process, or the descriptor limit is reached.
pub fn open(pid: i32) -> io::Result<Child> {
    // SAFETY: integers only.
    let pidfd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)?;
    Ok(Child { pid, pidfd: Fd::from_raw(pidfd) })
}

/// Sends SIGKILL by pidfd: it cannot hit a reused process number.
///
/// # Errors
/// `EPERM`: the child has other credentials than we may signal. A dead child is no error.
pub fn kill(child: Child) -> io::Result<()> {
    // SAFETY: integers and a null siginfo only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            child.pidfd.raw(),
            libc::SIGKILL,
            std::ptr::null::<u8>(),
            0,
        )
    };
    match check(result as i32) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Waits at most `timeout` for a child's death.
pub fn is_dead(child: Child, timeout: Duration) -> bool {
    poll::readable(&[child.pidfd], timeout).is_ok_and(|ready| ready[0])
}

/// Collects a dead child, closes its pidfd, and says how it ended.
pub fn reap(child: Child) -> Ending {
    let mut status = 0;
    // SAFETY: writes one int. The child is dead, so this does not block.
    unsafe { libc::waitpid(child.pid, &mut status, 0) };
    close(child.pidfd);
    if libc::WIFSIGNALED(status) {
        Ending::Killed(libc::WTERMSIG(status))
    } else {
        Ending::Exited(libc::WEXITSTATUS(status))
    }
}

/// Closes the pidfd of a dead process that others collect: the kernel ([`super::signal::descriptor`]), or
/// the parent of one that this process has not cloned.
pub fn forget(child: Child) {
    close(child.pidfd);
}

/// Sends a signal by process number; the caller knows that the number is its still.
pub fn send_signal(pid: i32, signal: libc::c_int) {
    // SAFETY: integers only. ESRCH: it is gone.
    unsafe { libc::kill(pid, signal) };
}

/// Ends this process at once, all threads of it, without undoing anything.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, and runs no destructor.
    unsafe { libc::_exit(code) }
}

/// Sets the name of this thread (of the process, in its first thread), at most 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: `name` is a C string; the kernel copies at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The number of CPUs this process may run on.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The running kernel's release, such as `6.1.0-28-amd64`, as uname(2) has it (a personality, as
/// setarch(8) sets it, may change it).
pub fn kernel_release() -> String {
    // SAFETY: utsname is plain bytes; uname fills it with C strings, or fails and leaves zeroes.
    unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&mut name);
        CStr::from_ptr(name.release.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Sends a signal to this thread, for fault points: one that stops or kills the process does so before
/// this returns, which it need not if it is sent to the process.
#[cfg(feature = "fault-points")]
pub fn raise(signal: libc::c_int) {
    // SAFETY: integers only.
    unsafe { libc::raise(signal) };
}
