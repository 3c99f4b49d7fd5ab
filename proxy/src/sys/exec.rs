//! Starting another program.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::CommandExt as _,
    },
    path::Path,
    time::Duration,
};

use super::{
    Fd, check, check_len,
    fd::close,
    poll,
    process::{self, Child},
};

/// The number that a started program finds its descriptor at.
pub const LINE: i32 = 3;
/// Longest time until the program has begun.
const PATIENCE: Duration = Duration::from_secs(1);

/// A program with its arguments and environment, as the kernel wants them.
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// `arguments` begin with the name. The environment is this process's, but for `variables`.
    ///
    /// # Errors
    /// A NUL byte is in one of them.
    pub fn new(
        path: &Path,
        arguments: &[OsString],
        variables: &[(&str, Option<&OsStr>)],
    ) -> io::Result<Self> {
        let mut environment = Vec::new();
        let inherited =
            std::env::vars_os().filter(|(name, _)| !variables.iter().any(|(other, _)| name == other));
        for (mut entry, value) in inherited {
            entry.push("=");
            entry.push(value);
            environment.push(CString::new(entry.into_vec())?);
        }
        for (name, value) in variables {
            if let Some(value) = value {
                environment.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
            }
        }
        let arguments = arguments.iter().map(|argument| CString::new(argument.as_bytes()));
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes())?,
            arguments: arguments.collect::<Result<_, _>>()?,
            environment,
        })
    }

    /// Starts it as the first process of a group of its own. Of this process's descriptors it gets 0 to 2, and
    /// `line` as [`LINE`]; signals are as they are for a new process. `note` is told its number at once. (Not
    /// by the standard library, which cannot know that the kernel collects this process's dead children.)
    ///
    /// # Errors
    /// As execve(2): not there, not executable, being written, no program of this machine. It has not begun
    /// within a second. It is dead by then.
    pub fn start(&self, line: Fd, note: impl FnOnce(i32)) -> io::Result<Child> {
        let (arguments, environment) = (pointers(&self.arguments), pointers(&self.environment));
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two numbers.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        let [told, tells] = ends.map(Fd::from_raw);
        // SAFETY: this process has one thread (it clones pools), so the child's copy of memory is consistent.
        let pid = match check(unsafe { libc::fork() }) {
            // SAFETY: we are the child; the lists are NULL-terminated and live as long as it does.
            Ok(0) => unsafe { become_program(&self.path, &arguments, &environment, line, tells) },
            forked => forked,
        };
        close(tells);
        let child = pid.and_then(|pid| {
            note(pid);
            begun(pid, told)
        });
        close(told);
        child
    }
}

/// NULL-terminated, as execve(2) wants a list.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// # Safety
/// To be called right after a fork, in the child: only async-signal-safe calls are made, in the child's own copy
/// of the descriptor table. Both lists are NULL-terminated.
unsafe fn become_program(
    path: &CString,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    line: Fd,
    tells: Fd,
) -> ! {
    // SAFETY: by the contract above; `none` is initialised by sigemptyset before use.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::setpgid(0, 0);
        let first = LINE as u32 + 1;
        if libc::dup2(line.raw(), LINE) == LINE
            && libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0
        {
            libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        }
        let error = *libc::__errno_location();
        libc::write(tells.raw(), (&raw const error).cast(), size_of_val(&error));
        libc::_exit(127)
    }
}

/// Waits until the program has begun, which closes the other end of the pipe, or has failed to, which is told by it.
fn begun(pid: i32, told: Fd) -> io::Result<Child> {
    let is_told = poll::readable(&[told], PATIENCE)?[0];
    if !is_told {
        kill_group(pid);
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not begin"));
    }
    let mut error = 0i32;
    // SAFETY: four bytes are written to a live local at most.
    let len = check_len(unsafe { libc::read(told.raw(), (&raw mut error).cast(), size_of_val(&error)) })?;
    if len == size_of_val(&error) {
        return Err(io::Error::from_raw_os_error(error));
    }
    process::open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => io::Error::other("it ended before it was ready"),
        _ => error,
    })
}

/// Kills a whole process group that [`Program::start`] has made.
pub fn kill_group(leader: i32) {
    if leader > 1 {
        // SAFETY: integers only. ESRCH: nobody is left of it.
        unsafe {
            libc::kill(-leader, libc::SIGKILL);
            // It may not have come to make the group yet.
            libc::kill(leader, libc::SIGKILL);
        }
    }
}

/// Kills who is left of a process group whose first process may be gone.
pub fn kill_members(leader: i32) {
    if leader > 1 {
        // SAFETY: integers only. ESRCH: nobody is left of it.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Has a program start as the first of a process group of its own, with no signal blocked, and die with the thread
/// that starts it.
pub fn set_apart(command: &mut std::process::Command) {
    command.process_group(0);
    let unblock = || {
        // SAFETY: `none` is initialised by sigemptyset before use and lives for the calls; integers else.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
        }
    };
    // SAFETY: between fork and exec the closure makes async-signal-safe system calls, and neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(unblock) };
}

/// Whether a process is the first of its group.
pub fn leads_group(pid: i32) -> bool {
    // SAFETY: integers only.
    pid > 1 && unsafe { libc::getpgid(pid) } == pid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::rights;

    #[test]
    fn a_variable_is_set_replaced_or_left_out() {
        let variables = [("PATH", None), ("PROXY_TEST_EXEC", Some(OsStr::new("x=y")))];
        let program = Program::new(Path::new("/bin/true"), &["true".into()], &variables).unwrap();
        let has = |start: &str| {
            program.environment.iter().any(|entry| entry.to_bytes().starts_with(start.as_bytes()))
        };
        assert!(has("PROXY_TEST_EXEC=x=y") && !has("PATH="));
    }

    #[test]
    fn what_cannot_be_executed_is_told() {
        let (line, other) = rights::pair(Duration::from_secs(1)).unwrap();
        for (path, error) in [("/nonexistent", libc::ENOENT), ("/etc/passwd", libc::EACCES)] {
            let program = Program::new(Path::new(path), &["x".into()], &[]).unwrap();
            let mut noted = 0;
            let failed = program.start(line, |pid| noted = pid).unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(error), "{path}");
            assert!(noted > 0);
        }
        [line, other].into_iter().for_each(close);
    }
}
