//! The fault menu: what is done to the proxy's processes, how often, and to whom.

use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{children, status_line, threads};
use crate::sys;
use crate::{PRIMARY, STANDBY};

/// Longer than a lease, and clearly shorter than [`super::FENCE_AFTER_MS`].
const PAUSE_MS: std::ops::Range<u64> = 20..250;

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A pool is killed.
    Kill(&'static str),
    /// A pool is stopped, until it is fenced.
    Stop(&'static str),
    /// A pool is stopped for so many milliseconds, too few to be fenced.
    Pause(&'static str, u64),
    /// A pool is killed, and so many milliseconds later the one that takes over.
    KillTwo(&'static str, u64),
    /// Both are killed at once.
    KillBoth,
    /// A worker hangs until its pool is fenced.
    Block(&'static str, u32),
    /// Control is killed.
    KillControl,
}

impl Fault {
    /// The next fault of a storm. Mostly the seats take turns, so that pools die old enough to be
    /// replaced at once.
    pub fn any(rng: &mut Rng, workers: u32, last: &mut &'static str) -> Self {
        if rng.u32(..8) > 0 {
            *last = if *last == PRIMARY { STANDBY } else { PRIMARY };
        }
        let seat = *last;
        match rng.u32(..100) {
            0..52 => Self::Kill(seat),
            52..60 => Self::Stop(seat),
            60..70 => Self::Pause(seat, rng.u64(PAUSE_MS)),
            70..84 => Self::KillTwo(seat, rng.u64(..=20)),
            84..91 => Self::KillBoth,
            91..95 => Self::Block(seat, rng.u32(..workers)),
            _ => Self::KillControl,
        }
    }

    /// Does it. What is dead already cannot be hurt.
    pub fn strike(&self, supervisor: i32) {
        let strike = |name, what| {
            if let Some(pid) = process(supervisor, name) {
                let _ = kill(Pid::from_raw(pid), what);
            }
        };
        match self {
            Self::Kill(seat) => strike(seat, Signal::SIGKILL),
            Self::Stop(seat) => strike(seat, Signal::SIGSTOP),
            Self::Pause(seat, ms) => {
                strike(seat, Signal::SIGSTOP);
                sleep(Duration::from_millis(*ms));
                strike(seat, Signal::SIGCONT);
            }
            Self::KillTwo(seat, ms) => {
                strike(seat, Signal::SIGKILL);
                sleep(Duration::from_millis(*ms));
                strike(if *seat == PRIMARY { STANDBY } else { PRIMARY }, Signal::SIGKILL);
            }
            Self::KillBoth => [PRIMARY, STANDBY].into_iter().for_each(|seat| strike(seat, Signal::SIGKILL)),
            Self::Block(seat, worker) => block(supervisor, seat, *worker),
            Self::KillControl => strike("control", Signal::SIGKILL),
        }
    }
}

/// The process of this name, `proxy-NAME` in the table of processes.
fn process(supervisor: i32, name: &str) -> Option<i32> {
    let is_named = |pid: &i32| status_line(*pid, "Name").is_some_and(|n| n == format!("proxy-{name}"));
    children(supervisor).into_iter().find(is_named)
}

fn block(supervisor: i32, seat: &str, worker: u32) {
    let Some(pid) = process(supervisor, seat) else { return };
    let name = format!("worker-{worker}");
    if let Some((tid, _)) = threads(pid).into_iter().find(|(_, thread)| *thread == name) {
        let _ = sys::tgkill(pid, tid, Signal::SIGUSR1);
    }
}
