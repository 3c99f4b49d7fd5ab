//! Handing over to a successor: an upgrade to another binary, or a reload of the settings. The successor gets
//! ready beside this supervisor, and nobody feels that; then the flows are moved ([`moving`]), which takes
//! milliseconds and can be taken back until the successor has decided.

mod binary;
mod export;
mod launch;
mod moving;

use std::path::PathBuf;

use crate::{
    handover::line::{self, Line, Word},
    orders::Answer,
    procfs,
    sys::{
        Fd, exec,
        process::{self, Child},
    },
    table::{Decision, HandoverKind, HandoverState, PoolState},
};
use proxy_common::lease::{PRIMARY, SEATS, STANDBY};

use super::{
    Supervisor,
    helper::Control,
    twin::{self, Twin},
};

/// Time that a successor has to get ready, nanoseconds: it looks names up, perhaps slowly.
const START_LIMIT: u64 = 30_000_000_000;
/// Time that is waited for both pools to be well and nothing to be swept, nanoseconds.
const QUIET_LIMIT: u64 = 10_000_000_000;

/// The handover that is under way, and what the next one needs.
pub struct Handover {
    /// What an upgrade starts unless it is told another binary.
    pub binary: PathBuf,
    candidate: Option<Candidate>,
    /// The kernel program is off the groups though no successor has put its own there: to be put back.
    pub(super) is_aside: bool,
    step_back_at: u64,
}

/// A successor that has not taken over.
struct Candidate {
    child: Child,
    line: Line,
    kind: HandoverKind,
    started_at: u64,
    ready_at: Option<u64>,
}

impl Handover {
    /// None is under way.
    pub fn new() -> Self {
        Self { binary: binary::own_path(), candidate: None, is_aside: false, step_back_at: 0 }
    }

    /// Whether a successor is to take over.
    pub fn is_under_way(&self) -> bool {
        self.candidate.is_some()
    }

    /// Descriptors that tell of the successor.
    pub fn descriptors(&self) -> impl Iterator<Item = Fd> {
        self.candidate.iter().flat_map(|candidate| [candidate.line.fd(), candidate.child.pidfd])
    }
}

impl Supervisor {
    /// Begins a handover, whose outcome is told by the flow table.
    pub(super) fn begin_handover(&mut self, now: u64, kind: HandoverKind, binary: Option<String>) -> Answer {
        if let Err(why) = self.may_hand_over() {
            return Answer::Refused(why);
        }
        let cell = &self.setup.table.supervisor().handover;
        cell.begin(kind);
        match self.launch(now, kind, binary.map(PathBuf::from)) {
            Ok(candidate) => {
                cell.candidate.set(candidate.child);
                tracing::info!(kind = kind.label(), pid = candidate.child.pid, "a successor gets ready");
                self.handover.candidate = Some(candidate);
                Answer::Done
            }
            Err(error) => {
                let why = format!("{error:#}");
                cell.fail(&why);
                Answer::Refused(why)
            }
        }
    }

    fn may_hand_over(&self) -> Result<(), String> {
        if let Some(candidate) = &self.handover.candidate {
            return Err(format!("the {} before is not over yet; try again", candidate.kind.label()));
        }
        if self.drain.is_draining() {
            return Err("the proxy is draining: only serving ones are handed over".into());
        }
        if std::process::id() == 1 {
            let remedy = "replace the container, or run the proxy under a service manager";
            return Err(format!("this is process 1, whose end ends the container; {remedy}"));
        }
        Ok(())
    }

    /// Looks how far the successor is.
    pub(super) fn watch_handover(&mut self, now: u64) {
        self.step_back(now);
        let Some(candidate) = &mut self.handover.candidate else { return };
        let is_dead = process::is_dead(candidate.child, std::time::Duration::ZERO);
        if has_spoken(candidate.line) {
            match candidate.line.hear() {
                Ok(Word::Ready) => candidate.ready_at = Some(now),
                Ok(Word::Refused(why)) => return self.give_up(&why),
                Ok(Word::Taken) | Err(_) => return self.give_up("it died, or ended, before it was ready"),
            }
        } else if is_dead {
            return self.give_up("it died before it was ready");
        }
        let Some(ready_at) = candidate.ready_at else {
            if now - candidate.started_at > START_LIMIT {
                self.give_up("it was not ready within 30 s");
            }
            return;
        };
        let states = [PRIMARY, STANDBY].map(|seat| self.plan.state(seat));
        let is_swept = self.unswept.is_empty() && self.strays.is_empty() && !self.has_orphans;
        // Somebody has to write what is in the rings of the access log.
        let has_reader = self.setup.access_log.is_none() || self.control.child().is_some();
        match obstacle(states, is_swept, has_reader) {
            None => self.move_flows(now),
            Some(obstacle) if now - ready_at > QUIET_LIMIT => {
                self.give_up(&format!(
                    "there was no moment for it within 10 s: {obstacle}; see `proxy status`"
                ));
            }
            Some(_) => {}
        }
    }

    /// The old ones go on, because of what the successor did. Nothing was moved, or it is taken back.
    fn give_up(&mut self, why: &str) {
        let Some(candidate) = self.handover.candidate.take() else { return };
        // Pools and all: they have copies of descriptors, which would keep closed connections open.
        exec::kill_group(candidate.child.pid);
        candidate.line.close();
        process::forget(candidate.child);
        let cell = &self.setup.table.supervisor().handover;
        cell.candidate.clear();
        cell.fail(why);
        tracing::error!(
            kind = candidate.kind.label(),
            "the successor did not take over, and nothing has changed: {why}"
        );
    }

    /// Whether there is a successor that has not taken over.
    pub(super) fn is_handing_over(&self) -> bool {
        self.handover.candidate.is_some()
    }

    /// Ends the successor, if there is one: the proxy itself is to end, and not to begin anew.
    pub(super) fn end_handover(&mut self) {
        if self.is_handing_over() {
            self.give_up("the proxy was told to drain or to stop");
        }
    }

    /// The supervisor died in the middle of a handover, perhaps: does not come back if the flows are the
    /// successor's.
    pub(super) fn leave_if_taken(&mut self) {
        self.setup.decision.decide(Decision::Kept);
        if self.setup.decision.get() == Decision::Taken {
            let table = self.setup.table;
            self.seats.children = [PRIMARY, STANDBY].map(|seat| twin::resume(&table.seat(seat).child));
            self.control = Control::resume(twin::resume(&table.supervisor().control), 0);
            self.twin = Twin::default();
            self.leave();
        }
    }

    /// The supervisor died in the middle of a handover, perhaps, and the flows are not the successor's.
    pub(super) fn resume_handover(&mut self) {
        self.handover.candidate = None;
        let cell = &self.setup.table.supervisor().handover;
        self.unpark();
        if let Some(candidate) = twin::resume(&cell.candidate) {
            if is_successor(candidate.pid) {
                exec::kill_group(candidate.pid);
            }
            process::forget(candidate);
            cell.candidate.clear();
        }
        if matches!(cell.state(), HandoverState::Preparing | HandoverState::Moving) {
            // One that is not noted yet ends when it sees its line closed.
            cell.fail("the supervisor died in the middle of it");
            self.handover.is_aside = true;
        }
    }
}

/// Whether a process is what the flow table says that it is. Pools and control can write there; none of them can
/// make a process look so.
fn is_successor(pid: i32) -> bool {
    exec::leads_group(pid) && procfs::has_variable(pid, line::VARIABLE)
}

/// Why it is not the moment to move the flows. `None`: each of them has an owner that can be asked to stand still.
fn obstacle(states: [PoolState; SEATS], is_swept: bool, has_reader: bool) -> Option<&'static str> {
    let is_still = |state: &PoolState| matches!(state, PoolState::Ready | PoolState::Dead);
    if !states.contains(&PoolState::Ready) {
        Some("no pool is ready to be taken over from")
    } else if !states.iter().all(is_still) {
        Some("a pool is silent, or not ready yet")
    } else if !is_swept {
        Some("what a dead pool has left is not taken over yet")
    } else if !has_reader {
        Some("the control process, which writes the access log, does not run")
    } else {
        None
    }
}

fn has_spoken(line: Line) -> bool {
    crate::sys::poll::readable(&[line.fd()], std::time::Duration::ZERO).is_ok_and(|ready| ready[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_told_as_it_is() {
        let (ready, dead) = (PoolState::Ready, PoolState::Dead);
        let cases = [
            ([ready, ready], true, true, None),
            ([dead, ready], true, true, None),
            ([dead, dead], true, true, Some("no pool")),
            ([ready, PoolState::Starting], true, true, Some("not ready yet")),
            ([ready, PoolState::Suspect], true, true, Some("silent")),
            ([ready, dead], false, true, Some("dead pool")),
            ([ready, ready], true, false, Some("control")),
        ];
        for (states, is_swept, has_reader, expected) in cases {
            let told = obstacle(states, is_swept, has_reader);
            let is_it = |(told, expected): (&str, &str)| told.contains(expected);
            assert!(
                told.is_some() == expected.is_some() && told.zip(expected).is_none_or(is_it),
                "{told:?}, {expected:?}"
            );
        }
    }
}
