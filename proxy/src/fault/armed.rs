//! Fault points compiled in: which ones are armed, and dying.

use std::{
    env,
    io::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use proxy_common::lease::{PRIMARY, SEATS, STANDBY};

use super::{Point, VARIABLE};
use crate::{procfs, sys::process, table::Table};

/// Longest that the supervisor waits for a pool to die or to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// [`PASSER`] of the supervisor.
const SUPERVISOR: u32 = u32::MAX;
/// [`PASSER`] of a pool that is not the first one of its seat.
const NOBODY: u32 = u32::MAX - 1;

/// Whose process this is: a seat, or one of the above. Each clone has its own.
static PASSER: AtomicU32 = AtomicU32::new(SUPERVISOR);
static ARMED: OnceLock<Armed> = OnceLock::new();

struct Armed {
    faults: Vec<Fault>,
    table: Table,
}

struct Fault {
    seat: u32,
    point: Point,
    name: &'static str,
    at: u32,
    stops: bool,
    passed: AtomicU32,
}

/// Reads [`VARIABLE`]. The supervisor calls it before it clones a pool.
///
/// # Errors
/// Not of the form that is given there, or a point that does not exist.
pub(crate) fn arm(table: Table) -> Result<()> {
    let text = env::var(VARIABLE).unwrap_or_default();
    let words = text.split(',').filter(|word| !word.is_empty());
    let faults = words.map(|word| Fault::parse(word).with_context(|| format!("{VARIABLE}: {word:?}")));
    let faults = faults.collect::<Result<_>>()?;
    tracing::warn!("this binary has fault points compiled in: it is for tests only");
    if ARMED.set(Armed { faults, table }).is_err() {
        bail!("fault points are armed already");
    }
    Ok(())
}

/// Says which pool this process is. Later pools of a seat do not die of what the first one died of.
pub(crate) fn enter(seat: u32, epoch: u32) {
    PASSER.store(if epoch <= SEATS as u32 { seat } else { NOBODY }, Relaxed);
}

/// A fault point: dies here, or stops, if that is what was asked for.
pub(crate) fn point(point: Point) {
    let Some(armed) = ARMED.get() else { return };
    let passer = PASSER.load(Relaxed);
    for fault in armed.faults.iter().filter(|fault| fault.point == point) {
        let is_meant = passer == fault.seat || passer == SUPERVISOR;
        if is_meant && fault.passed.fetch_add(1, Relaxed) + 1 == fault.at {
            fault.strike(passer, armed.table.seat(fault.seat).child.pid());
        }
    }
}

impl Fault {
    fn parse(word: &str) -> Result<Self> {
        let parts: Vec<&str> = word.split(':').collect();
        let (&[seat, name, at], stops) = (match &parts[..] {
            [all @ .., "stop"] => (all, true),
            all => (all, false),
        }) else {
            bail!("not of the form SEAT:POINT:N or SEAT:POINT:N:stop");
        };
        let seat = match seat {
            "primary" => PRIMARY,
            "standby" => STANDBY,
            _ => bail!("no such seat: primary or standby"),
        };
        let Some((point, name)) = Point::ALL.iter().find(|(_, known)| *known == name) else {
            let known: Vec<_> = Point::ALL.iter().map(|(_, name)| *name).collect();
            bail!("no such point; there are: {}", known.join(" "));
        };
        let at = at.parse().context("the number of the passing")?;
        Ok(Self { seat, point: *point, name, at, stops, passed: AtomicU32::new(0) })
    }

    /// In the pool itself, or in the supervisor for it.
    fn strike(&self, passer: u32, pid: i32) {
        let seat = if self.seat == PRIMARY { "primary" } else { "standby" };
        let what = if self.stops { "stops" } else { "dies" };
        let line = format!("fault: {seat} {what} at {}\n", self.name);
        // One write, so that nothing comes between.
        let _ = std::io::stderr().write_all(line.as_bytes());
        match (passer == SUPERVISOR, self.stops) {
            (true, true) => wait_for_state(pid, "T"),
            (true, false) => kill(pid),
            (false, true) => process::raise(libc::SIGSTOP),
            (false, false) => process::raise(libc::SIGKILL),
        }
    }
}

/// Until all threads are gone: a dead leader is a zombie at once, and its pidfd tells nobody until they are.
fn kill(pid: i32) {
    let Ok(child) = process::open(pid) else { return };
    if process::kill(child).is_ok() {
        process::is_dead(child, PATIENCE);
    }
    process::forget(child);
}

fn wait_for_state(pid: i32, states: &str) {
    let end = Instant::now() + PATIENCE;
    while procfs::process(pid).is_some_and(|process| !states.contains(process.state)) && Instant::now() < end
    {
        thread::sleep(Duration::from_millis(1));
    }
}
