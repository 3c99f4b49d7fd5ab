//! What can go wrong with steering, and what to do about it.

use std::{fs, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError, util::KernelVersion};

/// Lines kept of the verifier's output: the refusal and what led to it stand at its end.
const VERIFIER_LINES: usize = 8;

/// Capabilities by their number in `CapEff` (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;
const NEEDED: [(u32, &str); 2] = [(39, "CAP_BPF"), (38, "CAP_PERFMON")];

/// Why there is no steering.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The process may not load kernel programs.
    #[error(
        "no right to load the kernel program: {missing} missing; run as root (sudo), or grant it \
         (systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON, container: --cap-add BPF --cap-add PERFMON)"
    )]
    Rights {
        /// Names of the missing capabilities.
        missing: String,
    },
    /// The process has the capabilities, but the kernel refused all the same.
    #[error(
        "the kernel refused {what} in spite of CAP_BPF and CAP_PERFMON ({error}); look for a user \
         namespace (capabilities must be held in the first one), a security module, lockdown \
         (/sys/kernel/security/lockdown) or a seccomp filter"
    )]
    Refused {
        /// What was refused.
        what: String,
        /// The kernel's word.
        error: io::Error,
    },
    /// `sk_reuseport/migrate` programs came with Linux 5.14.
    #[error("the kernel is too old: this is {running}, steering needs Linux 5.14 or later")]
    KernelTooOld {
        /// The running kernel.
        running: String,
    },
    /// Leases would mean another time to the kernel than to us.
    #[error(
        "CLOCK_MONOTONIC is shifted by {offset_ns} ns in this time namespace, so the kernel would \
         misread every lease; run outside of time namespaces, or in one without a monotonic offset"
    )]
    TimeNamespace {
        /// Our clock minus the kernel's, in nanoseconds.
        offset_ns: i128,
    },
    /// `/proc/self/timens_offsets` is not as time_namespaces(7) has it.
    #[error("cannot read a monotonic offset from /proc/self/timens_offsets: {offsets:?}")]
    Offsets {
        /// Its content.
        offsets: String,
    },
    /// The listeners or workers asked for are too many or none.
    #[error(
        "cannot steer {listeners} listeners of {workers} workers: 1 to {max_listeners} and 1 to \
         {max_workers} are possible"
    )]
    Size {
        /// Listeners asked for.
        listeners: u32,
        /// Workers asked for.
        workers: u32,
        /// Most listeners.
        max_listeners: u32,
        /// Most workers.
        max_workers: u32,
    },
    /// A listening socket cannot be steered to.
    #[error(
        "cannot put the socket of listener {listener}, seat {seat}, worker {worker} into the socket \
         array: {error} ({hint})"
    )]
    Place {
        /// The listener's number.
        listener: u32,
        /// The seat.
        seat: u32,
        /// The worker.
        worker: u32,
        /// The kernel's word.
        error: io::Error,
        /// What it means here.
        hint: &'static str,
    },
    /// Something of the program or its maps failed.
    #[error("cannot {what}: {reason}")]
    Bpf {
        /// What failed.
        what: String,
        /// Why, as the library or the kernel's verifier has it.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {what}: {error}")]
    Io {
        /// What failed.
        what: String,
        /// The kernel's word.
        error: io::Error,
    },
}

impl SteeringError {
    /// The maps could not be made, or the object not read.
    pub(super) fn of_object(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error }) => {
                Self::of_call(format!("make map {name}"), io_error, None)
            }
            EbpfError::ProgramError(error) => Self::of_program(error),
            other => Self::bpf("load the kernel program", &other),
        }
    }

    /// The kernel did not take the program.
    pub(super) fn of_program(error: ProgramError) -> Self {
        let what = "load the kernel program".to_owned();
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Self::of_call(what, io_error, Some(verifier_log.to_string()))
            }
            other => Self::bpf(&what, &other),
        }
    }

    /// An operation on a map failed.
    pub(super) fn of_map(what: impl Into<String>, error: MapError) -> Self {
        match error {
            MapError::SyscallError(error) => Self::Io { what: what.into(), error: error.io_error },
            other => Self::bpf(what, &other),
        }
    }

    /// The kernel does not steer to the socket.
    pub(super) fn of_place(listener: u32, seat: u32, worker: u32, error: MapError) -> Self {
        let error = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other),
        };
        let hint = match error.raw_os_error() {
            Some(libc::EINVAL) => "it must be bound with SO_REUSEPORT, and a TCP socket must listen",
            Some(libc::EBUSY) => "it is in a socket array already",
            _ => "a bound TCP or UDP socket is needed",
        };
        Self::Place { listener, seat, worker, error, hint }
    }

    /// Whether a socket is in the array of another program, perhaps for a moment yet: the kernel frees what
    /// nobody uses any more some time later (`bpf_map_put`, kernel/bpf/syscall.c).
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Place { error, .. } if error.raw_os_error() == Some(libc::EBUSY))
    }

    pub(super) fn bpf(what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        Self::Bpf { what: what.into(), reason }
    }

    fn of_call(what: String, error: io::Error, verifier: Option<String>) -> Self {
        let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
        let missing = missing_rights(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default());
        if refused && !missing.is_empty() {
            return Self::Rights { missing: missing.join(" and ") };
        }
        match verifier.map(|log| last_lines(&log)).filter(|log| !log.is_empty()) {
            Some(log) => Self::Bpf { what, reason: format!("{error}; the verifier says:\n{log}") },
            None if refused => Self::Refused { what: format!("to {what}"), error },
            None => Self::Io { what, error },
        }
    }
}

/// Refuses kernels that are known not to take the program.
pub fn check_kernel() -> Result<(), SteeringError> {
    let running =
        KernelVersion::current().map_err(|error| SteeringError::bpf("tell the kernel's version", &error))?;
    if running < KernelVersion::new(5, 14, 0) {
        return Err(SteeringError::KernelTooOld { running: crate::sys::process::kernel_release() });
    }
    Ok(())
}

/// The needed capabilities that `/proc/PID/status` does not show as effective.
fn missing_rights(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    // CAP_SYS_ADMIN stands for both (bpf_capable, perfmon_capable in linux/capability.h).
    let lacks = |capability: u32| !has(capability) && !has(CAP_SYS_ADMIN);
    NEEDED.iter().filter(|(capability, _)| lacks(*capability)).map(|(_, name)| *name).collect()
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(VERIFIER_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_the_effective_set() {
        let status = |mask: u64| format!("Name:\tproxy\nCapPrm:\t000001ffffffffff\nCapEff:\t{mask:016x}\n");
        assert_eq!(missing_rights(&status(0)), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing_rights(&status(1 << 39)), ["CAP_PERFMON"]);
        assert_eq!(missing_rights(&status(1 << 38)), ["CAP_BPF"]);
        assert!(missing_rights(&status(1 << 38 | 1 << 39)).is_empty());
        assert!(missing_rights(&status(1 << 21)).is_empty());
        assert_eq!(missing_rights("garbage"), ["CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn the_verifier_log_keeps_its_end() {
        let log: String = (0..1000).map(|line| format!("{line}: (b7) r0 = 0\n\n")).collect();
        let kept = last_lines(&log);
        assert_eq!(kept.lines().count(), VERIFIER_LINES);
        assert!(kept.ends_with("999: (b7) r0 = 0"));
        assert_eq!(last_lines("\n\n"), "");
    }
}
