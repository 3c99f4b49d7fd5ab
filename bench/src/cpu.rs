//! Processor time: of each process by its own clock, in nanoseconds, and of the machine in ticks.
//!
//! Work that the kernel does for a packet on the loopback device is charged to who sends it, so a target's
//! share has what it makes the kernel do. What is done by kernel threads is charged to nobody: it is noise here.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::sample::Shares;

/// The process that starts all others: the first one of the process namespace.
const HARNESS: i32 = 1;

/// All processes of this process namespace and the machine, at one time.
pub struct Reading {
    processes: BTreeMap<i32, f64>,
    machine: f64,
}

impl Reading {
    /// Now.
    pub fn take() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
        let machine = busy_ticks(&stat).context("no line of all processors in /proc/stat")? / ticks as f64;
        let processes = processes()?.into_iter().filter_map(|pid| Some((pid, clock(pid)?))).collect();
        Ok(Self { processes, machine })
    }

    /// What has been used since an earlier reading, by whom. What ended meanwhile counts as noise.
    pub fn since(&self, before: &Self, load: i32, server: i32) -> Shares {
        let mut shares = Shares::default();
        let mut harness = 0.0;
        for (pid, now) in &self.processes {
            let used = (now - before.processes.get(pid).unwrap_or(&0.0)).max(0.0);
            *match *pid {
                HARNESS => &mut harness,
                pid if pid == load => &mut shares.load,
                pid if pid == server => &mut shares.server,
                _ => &mut shares.target,
            } += used;
        }
        let ours = shares.load + shares.server + shares.target + harness;
        shares.other = (self.machine - before.machine - ours).max(0.0);
        shares
    }
}

/// The numbers of all processes that /proc has, in any order.
pub fn processes() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// What a process and all its threads, dead ones too, have used; `None` if it has ended.
fn clock(pid: i32) -> Option<f64> {
    let time = clock_getcpuclockid(Pid::from_raw(pid)).ok()?.now().ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
}

/// What all processors were busy for, in ticks: all columns of proc_stat(5) but idle and iowait, and
/// but the last two, which user and nice include.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let columns: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let is_busy = |column: usize| column < 8 && !matches!(column, 3 | 4);
    let busy = columns.iter().enumerate().filter(|(column, _)| is_busy(*column));
    (columns.len() >= 4).then(|| busy.map(|(_, ticks)| ticks).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy_and_nothing_counts_twice() {
        assert_eq!(busy_ticks("cpu  1 2 4 800 1600 8 16 32 1 2\ncpu0 1 1 1 1\n"), Some(63.0));
        assert_eq!(busy_ticks("cpu  1 2 4 800"), Some(7.0));
        assert_eq!(busy_ticks("intr 5"), None);
    }

    #[test]
    fn time_goes_to_whose_it_is() {
        let reading = |processes: &[(i32, f64)], machine| Reading {
            processes: processes.iter().copied().collect(),
            machine,
        };
        let before = reading(&[(HARNESS, 1.0), (7, 1.0), (8, 1.0), (9, 1.0), (11, 9.0)], 100.0);
        let after = reading(&[(HARNESS, 1.5), (7, 2.0), (8, 3.0), (9, 5.0), (10, 0.25)], 110.0);
        let shares = after.since(&before, 7, 8);
        assert_eq!(shares, Shares { target: 4.25, load: 1.0, server: 2.0, other: 2.25 });
        assert_eq!(reading(&[(9, 3.0)], 100.0).since(&before, 7, 8).other, 0.0, "no less than nothing");
    }

    #[test]
    fn a_process_has_a_clock_that_runs() {
        let me = std::process::id().cast_signed();
        let before = Reading::take().unwrap();
        while clock(me).unwrap() <= before.processes[&me] {}
        assert!(Reading::take().unwrap().since(&before, me, 0).load > 0.0);
    }
}
