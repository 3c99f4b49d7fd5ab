//! The fault menu: what is done to the proxy's processes, how often, and to whom.

use std::thread::sleep;
use std::time::Duration;

use fastrand::Rng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::threads;
use crate::proxy::Proxy;
use crate::status::Status;
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
    /// A pool is killed, and so many milliseconds later the supervisor.
    KillSupervisorAfter(&'static str, u64),
    /// The supervisor is killed.
    KillSupervisor,
    /// The supervisor's twin is killed.
    KillTwin,
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
            0..45 => Self::Kill(seat),
            45..49 => Self::KillSupervisorAfter(seat, rng.u64(..=20)),
            49..51 => Self::KillSupervisor,
            51..52 => Self::KillTwin,
            52..60 => Self::Stop(seat),
            60..70 => Self::Pause(seat, rng.u64(PAUSE_MS)),
            70..84 => Self::KillTwo(seat, rng.u64(..=20)),
            84..91 => Self::KillBoth,
            91..95 => Self::Block(seat, rng.u32(..workers)),
            _ => Self::KillControl,
        }
    }

    /// Does it. What is dead already cannot be hurt.
    pub fn strike(&self, proxy: &Proxy) {
        let Some(status) = proxy.try_status() else { return };
        match self {
            Self::Kill(seat) => send(pool(&status, seat), Signal::SIGKILL),
            Self::Stop(seat) => send(pool(&status, seat), Signal::SIGSTOP),
            Self::Pause(seat, ms) => {
                send(pool(&status, seat), Signal::SIGSTOP);
                sleep(Duration::from_millis(*ms));
                send(pool(&status, seat), Signal::SIGCONT);
            }
            Self::KillTwo(seat, ms) => {
                send(pool(&status, seat), Signal::SIGKILL);
                sleep(Duration::from_millis(*ms));
                send(pool(&status, if *seat == PRIMARY { STANDBY } else { PRIMARY }), Signal::SIGKILL);
            }
            Self::KillBoth => {
                [PRIMARY, STANDBY].into_iter().for_each(|seat| send(pool(&status, seat), Signal::SIGKILL));
            }
            Self::Block(seat, worker) => block(pool(&status, seat), *worker),
            Self::KillSupervisorAfter(seat, ms) => {
                send(pool(&status, seat), Signal::SIGKILL);
                sleep(Duration::from_millis(*ms));
                send(Some(status.supervisor.pid), Signal::SIGKILL);
            }
            Self::KillSupervisor => send(Some(status.supervisor.pid), Signal::SIGKILL),
            Self::KillTwin => send(status.supervisor.twin_pid, Signal::SIGKILL),
            Self::KillControl => send(Some(status.control.pid), Signal::SIGKILL),
        }
    }
}

fn pool(status: &Status, seat: &str) -> Option<i32> {
    status.pool(seat).pid
}

fn send(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn block(pid: Option<i32>, worker: u32) {
    let Some(pid) = pid else { return };
    let name = format!("worker-{worker}");
    if let Some((tid, _)) = threads(pid).into_iter().find(|(_, thread)| *thread == name) {
        let _ = sys::tgkill(pid, tid, Signal::SIGUSR1);
    }
}
