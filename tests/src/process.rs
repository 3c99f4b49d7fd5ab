//! Processes: what /proc tells of them, and a guard that ends and reaps them.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;
use crate::wait::until_true;

/// Sends a signal to a process. After SIGSTOP it waits until every thread has stopped: on another
/// CPU one may run on for a moment.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    let result = kill(Pid::from_raw(pid), signal);
    result.unwrap_or_else(|error| panic!("cannot send {signal} to {pid}: {error}"));
    if signal == Signal::SIGSTOP {
        let has_stopped = |(tid, _): &(i32, String)| state(pid, *tid) == Some('T');
        until_true("every thread has stopped", || threads(pid).iter().all(has_stopped));
    }
}

/// The state of a thread, as proc(5) has it.
fn state(pid: i32, tid: i32) -> Option<char> {
    stat(pid, tid)?.first()?.chars().next()
}

/// The fields of a thread's `stat`, from the third one on.
fn stat(pid: i32, tid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    // They follow the name, which is in parentheses and may itself hold anything.
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

/// Bytes that a process has asked the kernel to read for it (`rchar`, proc_pid_io(5)).
#[track_caller]
pub fn bytes_read(pid: i32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("read what a process has read");
    let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("rchar is told");
    read.parse().expect("a number of bytes")
}

/// Whether a process of this number exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    !matches!(state(pid, pid), None | Some('Z' | 'X'))
}

/// A process, told from a later one of the same number by the time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Ticks since the machine was started; field 22 of `stat`. The first field, so that they sort by age.
    start: u64,
    /// Its number.
    pub pid: i32,
}

impl Process {
    /// The one that has this number now, if there is one and it is no zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let fields = stat(pid, pid)?;
        let start = fields.get(19)?.parse().ok()?;
        (!matches!(fields[0].as_str(), "Z" | "X")).then_some(Self { pid, start })
    }

    /// Whether it runs still.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// All that were started with this variable in their environment, and what they have made since.
    pub fn all_with(variable: &str, value: &Path) -> Vec<Self> {
        let wanted = [variable.as_bytes(), b"=", value.as_os_str().as_bytes()].concat();
        let has_it = |pid: &i32| {
            let all = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            all.split(|byte| *byte == 0).any(|entry| entry == wanted)
        };
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(has_it).filter_map(Self::of).collect()
    }

    /// What it is and does, for messages.
    pub fn describe(self) -> String {
        let read = |what: &str| fs::read_to_string(format!("/proc/{}/{what}", self.pid)).unwrap_or_default();
        let (name, state, waits, stack) =
            (read("comm"), status_line(self.pid, "State"), read("wchan"), read("stack"));
        format!("{} {}: {state:?}, in {waits}\n{stack}", self.pid, name.trim_end())
    }

    /// Sends it a signal, if it is there.
    pub fn signal(self, signal: Signal) {
        // A pidfd, for the number may become another's at any time.
        if let (Ok(pidfd), true) = (sys::pidfd_open(self.pid), self.is_alive()) {
            let _ = sys::pidfd_kill(&pidfd, signal);
        }
    }
}

/// The children of a process (those of its first thread).
pub fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The threads of a process: number and name.
pub fn threads(pid: i32) -> Vec<(i32, String)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let thread = |tid: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).ok()?;
        Some((tid, name.trim_end().to_owned()))
    };
    tasks.filter_map(|task| thread(task.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// A line of /proc/PID/status, such as `CapEff` or `NoNewPrivs`.
pub fn status_line(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The process's share of its memory, bytes: a page in n processes counts as the n-th part of one.
pub fn proportional_set_size(pid: i32) -> Option<u64> {
    sum_of_sizes(pid, &["Pss"])
}

/// The same without the program itself and other files, of which the kernel maps and reclaims pages as it likes.
pub fn proportional_set_size_without_files(pid: i32) -> Option<u64> {
    sum_of_sizes(pid, &["Pss_Anon", "Pss_Shmem", "SwapPss"])
}

/// Of /proc/PID/smaps_rollup.
fn sum_of_sizes(pid: i32, keys: &[&str]) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let size = |key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    keys.iter().map(|key| size(*key)).sum::<Option<u64>>().map(|kilobytes| kilobytes * 1024)
}

/// How many descriptors a process may have.
#[track_caller]
pub fn descriptor_limit(pid: i32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).expect("Max open files");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

/// Sends a signal to one thread of a process.
#[track_caller]
pub fn signal_thread(pid: i32, tid: i32, signal: Signal) {
    sys::tgkill(pid, tid, signal).expect("signal a thread");
}

/// Kills a supervisor and all that it has cloned. Stopped first, it cannot clone more meanwhile.
pub fn kill_with_children(pid: i32) {
    let send = |pid, signal| {
        // It may be dead by now.
        let _ = kill(Pid::from_raw(pid), signal);
    };
    send(pid, Signal::SIGSTOP);
    children(pid).into_iter().for_each(|child| send(child, Signal::SIGKILL));
    send(pid, Signal::SIGKILL);
}

/// Waits for a child to end, so long at most.
pub fn wait_for(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + at_most;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Ok(status) => return status,
            Err(error) => panic!("cannot wait for {}: {error}", child.id()),
        }
    }
}

/// A child that is killed and reaped when the guard goes.
pub struct Guard(
    /// The child.
    pub Child,
);

impl Guard {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only if it is dead and reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
