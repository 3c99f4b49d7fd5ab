//! Starting another program.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

use super::{
    Fd, check,
    process::{self, Child},
};

/// The number that a started program finds its descriptor at.
pub const LINE: i32 = 3;

/// Starts a program as the first process of a group of its own. Of this process's descriptors it gets 0 to 2,
/// and `line` as [`LINE`]. `arguments` begin with the name. Signals are as they are for a new process.
///
/// # Errors
/// As execve(2): not there, not executable, no program of this machine.
pub fn start(
    program: &Path,
    arguments: &[OsString],
    variables: &[(&str, Option<&OsStr>)],
    line: Fd,
) -> io::Result<Child> {
    let mut command = Command::new(program);
    if let [name, rest @ ..] = arguments {
        command.arg0(name).args(rest);
    }
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls with integers are made, in the child's own
    // copy of the descriptor table.
    unsafe {
        command.pre_exec(move || {
            check(libc::dup2(line.raw(), LINE))?;
            // Descriptors of flows are not close-on-exec.
            let flags = libc::CLOSE_RANGE_CLOEXEC;
            let first = LINE as u32 + 1;
            check(libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) as i32).map(drop)
        });
    }
    let child = command.spawn()?;
    process::open(child.id() as i32).map_err(|error| match error.raw_os_error() {
        // The kernel collects dead children by itself.
        Some(libc::ESRCH) => io::Error::other("it ended at once"),
        _ => error,
    })
}

/// Kills a whole process group that [`start`] has made.
pub fn kill_group(leader: i32) {
    if leader > 1 {
        // SAFETY: integers only. ESRCH: nobody is left of it.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}
