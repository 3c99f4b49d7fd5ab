//! Signals, read from a descriptor.

use std::io;

use super::{Fd, check, check_len};

/// The signals that the supervisor answers to.
pub const HANDLED: [libc::c_int; 5] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGCHLD];

/// Blocks [`HANDLED`] for this process and all it clones (pools must outlive a Ctrl-C of the
/// terminal's group), and makes a descriptor to read them from.
///
/// # Errors
/// The descriptor limit is reached.
pub fn descriptor() -> io::Result<Fd> {
    // SAFETY: `set` is initialised by sigemptyset before use and lives for the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in HANDLED {
            libc::sigaddset(&mut set, signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(Fd::from_raw)
    }
}

/// The next pending signal, if any.
pub fn next(descriptor: Fd) -> Option<libc::c_int> {
    // SAFETY: `info` is plain data; the kernel writes whole structures (signalfd(2)).
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let len = size_of_val(&info);
        let count = libc::read(descriptor.raw(), (&raw mut info).cast(), len);
        (check_len(count).ok()? == len).then_some(info.ssi_signo as libc::c_int)
    }
}

/// For tests: makes SIGUSR1 hang the thread that receives it for three seconds, as a blocking
/// call or a long loop would.
pub fn hang_on_usr1() {
    extern "C" fn hang(_signal: libc::c_int) {
        let pause = libc::timespec { tv_sec: 3, tv_nsec: 0 };
        // SAFETY: nanosleep is async-signal-safe (signal-safety(7)).
        unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
    }
    let handler: extern "C" fn(libc::c_int) = hang;
    // SAFETY: the handler is async-signal-safe and lives as long as the program.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
}
