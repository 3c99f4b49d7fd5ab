//! What `/proc` tells about processes (proc(5)). Readable for other users' processes too, unless
//! `/proc` is mounted with `hidepid`.

use std::fs;

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture that Rust's
/// standard library runs on (include/asm-generic/param.h).
pub const TICKS_PER_SECOND: f64 = 100.0;

/// A process, as `/proc/PID/stat` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// `R`, `S`, `D`, `T` (stopped), `Z` (dead, not collected yet)...
    pub state: char,
    /// Processor time used, user and system, [`TICKS_PER_SECOND`].
    pub ticks: u64,
    /// The same of its dead and collected children.
    pub children_ticks: u64,
    /// When it started, ticks since boot. A process number that was reused has another.
    pub started: u64,
}

/// Reads a process; `None`: there is none, or it may not be seen.
pub fn process(pid: i32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Its command name, at most 15 bytes.
pub fn name(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Resident memory in bytes, shared pages too; `None` for a dead process.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Open descriptors of a process: the size of `/proc/PID/fd`, which needs no rights to be asked.
/// `None` on kernels before 6.2, which do not fill it in.
pub fn open_descriptors(pid: i32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/fd")).ok()?.len()).filter(|count| *count > 0)
}

/// When the machine started, seconds of the Unix epoch.
pub fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn parse(stat: &str) -> Option<Process> {
    // The name, in parentheses, may hold anything, parentheses too.
    let (_, rest) = stat.rsplit_once(") ")?;
    // The first field of the rest is the third of proc_pid_stat(5).
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
    let ticks = |number: usize| field(number)?.parse::<u64>().ok();
    Some(Process {
        state: field(3)?.chars().next()?,
        ticks: ticks(14)? + ticks(15)?,
        children_ticks: ticks(16)? + ticks(17)?,
        started: ticks(22)?,
    })
}

/// Whether a process was started with a variable in its environment, as far as it can be seen.
pub fn has_variable(pid: i32, name: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let entries = environment.split(|byte| *byte == 0);
    entries.filter_map(|entry| entry.strip_prefix(name.as_bytes())).any(|rest| rest.first() == Some(&b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_fields() {
        let stat = "7 (a) Z 1 (b)) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 777 1 2 3";
        let expected = Process { state: 'S', ticks: 30, children_ticks: 70, started: 777 };
        assert_eq!(parse(stat), Some(expected));
        assert_eq!(parse("7 (truncated) S 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_tells() {
        let pid = std::process::id() as i32;
        assert!(process(pid).is_some_and(|process| process.started > 0));
        assert!(resident_bytes(pid).is_some_and(|bytes| bytes > 4096));
        assert!(boot_time().is_some_and(|seconds| seconds > 0));
        assert!(name(pid).is_some());
        assert_eq!(process(-1), None);
    }
}
