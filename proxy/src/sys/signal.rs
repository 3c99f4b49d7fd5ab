//! Signals, read from a descriptor.

use std::io;

use super::{Fd, check, check_len, process::Ending};

/// The signals that the supervisor answers to.
pub const HANDLED: [libc::c_int; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// What a signal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Somebody wants something.
    Asked(libc::c_int),
    /// A child has ended.
    Ended {
        /// Its number.
        pid: i32,
        /// How.
        ending: Ending,
    },
}

/// Blocks [`HANDLED`] for this process and all it clones (pools must outlive a Ctrl-C of the
/// terminal's group), and makes a descriptor to read them from. From then on the kernel collects dead
/// children by itself (`SA_NOCLDWAIT`, sigaction(2)); the signal comes all the same.
///
/// # Errors
/// The descriptor limit is reached.
pub fn descriptor() -> io::Result<Fd> {
    // SAFETY: `set` is initialised by sigemptyset before use, `action` is plain data that names no
    // handler; both live for the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in HANDLED {
            libc::sigaddset(&mut set, signal);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP;
        check(libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()))?;
        check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
        check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(Fd::from_raw)
    }
}

/// Undoes what [`descriptor`] has done about children, for a process that has some of its own and collects them.
///
/// # Errors
/// None that sigaction(2) knows for such calls.
pub fn restore_children() -> io::Result<()> {
    // SAFETY: `set` is initialised by sigemptyset before use, `action` is plain data that names no handler; both
    // live for the calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        check(libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()))?;
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())).map(drop)
    }
}

/// What the next pending signal tells, if there is one.
pub fn next(descriptor: Fd) -> Option<Told> {
    // SAFETY: `info` is plain data; the kernel writes whole structures (signalfd(2)).
    let info = unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let len = size_of_val(&info);
        let count = libc::read(descriptor.raw(), (&raw mut info).cast(), len);
        (check_len(count).ok()? == len).then_some(info)?
    };
    let (signal, pid) = (info.ssi_signo as libc::c_int, info.ssi_pid as i32);
    if signal == libc::SIGHUP && info.ssi_code == libc::SI_KERNEL {
        // No request: the kernel tells a process group, one of which is stopped, that its parent has gone.
        return next(descriptor);
    }
    Some(match (signal, info.ssi_code) {
        (libc::SIGCHLD, libc::CLD_EXITED) => Told::Ended { pid, ending: Ending::Exited(info.ssi_status) },
        (libc::SIGCHLD, libc::CLD_KILLED | libc::CLD_DUMPED) => {
            Told::Ended { pid, ending: Ending::Killed(info.ssi_status) }
        }
        _ => Told::Asked(signal),
    })
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
    // SAFETY: the handler is async-signal-safe and lives as long as the program; `set` is initialised by
    // sigemptyset before use and lives for the call.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}
