//! The moment of a handover: the workers stand still, the flows are sent, the successor decides.

use std::{
    sync::atomic::Ordering::{Acquire, Relaxed, Release},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{export, is_successor, launch};
use crate::{
    handover::{
        self,
        flows::{self, Header, IMAGE_BYTES},
        line::Word,
    },
    ledger::Ledger,
    supervisor::{Supervisor, drain, listen, nanos, seats},
    sys::{
        poll, process,
        signal::{self, Told},
        time,
    },
    table::{Decision, HandoverState},
};
use proxy_common::lease::{PRIMARY, SEATS, STANDBY};

/// Time that workers have to come to a stand, nanoseconds: much more than a turn.
const PARK_LIMIT: u64 = 300_000_000;
/// Wait before the kernel program is put back again if it did not work, nanoseconds.
const STEP_BACK: u64 = 1_000_000_000;
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_micros(100);

impl Supervisor {
    /// Moves the flows. Does not come back if the successor takes them; else everything is as it was.
    pub(super) fn move_flows(&mut self, now: u64) {
        let cell = &self.setup.table.supervisor().handover;
        self.setup.decision.allow();
        cell.set_state(HandoverState::Moving);
        if !self.park(now) || self.setup.table.has_held_buffers() {
            // One of them hangs, which the plan sees to, or has not come to what a dead one left in a buffer. Another
            // try when both pools are well.
            self.setup.decision.decide(Decision::Kept);
            self.unpark();
            cell.set_state(HandoverState::Preparing);
            return;
        }
        let parked_at = time::monotonic_ns();
        let outcome = self.send_flows(parked_at).and_then(|flows| {
            // Less than the 3 s after which the twin thinks this supervisor dead.
            let limit = handover::move_limit(flows);
            self.await_decision(limit).with_context(|| format!("it has not taken over within {limit:?}"))
        });
        if !self.setup.decision.decide(Decision::Kept) && self.setup.decision.get() == Decision::Taken {
            self.leave();
        }
        self.unpark();
        // The kernel program comes back at the next turn: by then the successor's sockets are out of the groups.
        let error =
            outcome.err().unwrap_or_else(|| anyhow!("the workers went on: they had stood for too long"));
        self.give_up(&format!("{error:#}"));
    }

    /// Lets all workers come to a stand. Answers whether they have.
    fn park(&self, now: u64) -> bool {
        let table = self.setup.table;
        let (connections, flows) = drain::open_flows(&self.setup);
        let limit = Duration::from_nanos(PARK_LIMIT) + handover::move_limit((connections + flows) as usize);
        table.supervisor().parking.store(limit.as_millis() as u32, Release);
        seats::ring_all(&table);
        let seated = || (0..SEATS as u32).filter(|seat| self.seats.children[*seat as usize].is_some());
        let mut workers = seated().flat_map(|seat| table.workers(seat));
        while !workers.clone().all(|worker| worker.parked.load(Acquire) == 1) {
            if time::monotonic_ns() - now > PARK_LIMIT {
                let hung = workers.position(|worker| worker.parked.load(Acquire) == 0);
                tracing::warn!(worker = hung, "a worker does not come to a stand");
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    /// Lets them go on, and waits for it, so that nobody is thought silent.
    pub(super) fn unpark(&self) {
        let table = self.setup.table;
        table.supervisor().parking.store(0, Release);
        seats::ring_all(&table);
        let began = time::monotonic_ns();
        let is_parked = |seat| table.workers(seat).iter().any(|worker| worker.parked.load(Acquire) == 1);
        while [PRIMARY, STANDBY].into_iter().any(is_parked) && time::monotonic_ns() - began < PARK_LIMIT {
            thread::sleep(LOOK);
        }
    }

    fn send_flows(&mut self, parked_at_ns: u64) -> Result<usize> {
        if self.setup.decision.get() != Decision::Pending {
            // This supervisor was stopped meanwhile, for long.
            bail!("the workers went on: they had stood for too long");
        }
        self.handover.is_aside = true;
        self.setup.table.supervisor().expect_copies(parked_at_ns);
        let own = self.processes().map(|child| child.pid);
        let processes = own.chain([std::process::id() as i32]).collect();
        let setup = &mut self.setup;
        listen::step_aside(setup.config, &mut setup.steering, &setup.sockets)?;
        let verdicts = Ledger::of_verdicts(setup.config, &setup.steering.verdicts().unwrap_or_default());
        let (images, fds) = export::export(&setup.table);
        let header = Header {
            image_bytes: IMAGE_BYTES,
            parked_at_ns,
            prefers_standby: self.plan.is_pinned(),
            processes,
            verdicts,
            rates: export::rates(setup.config, &setup.table),
            servers: launch::servers(setup, &[]),
        };
        let ledger = serde_json::to_vec(&Ledger::export(&setup.table, setup.config));
        let ledger = ledger.context("the counters cannot be written down")?;
        let Some(candidate) = &self.handover.candidate else { return Ok(0) };
        let sent = candidate.line.send(&ledger, &[]);
        let sent = sent.and_then(|()| candidate.line.send(&flows::encode(&header, &images), &fds));
        sent.context("the flows cannot be sent to the successor")?;
        Ok(images.len())
    }

    /// Waits until the successor has decided, or cannot.
    fn await_decision(&self, limit: Duration) -> Result<()> {
        let Some(candidate) = &self.handover.candidate else { return Ok(()) };
        let deadline = time::monotonic_ns() + nanos(limit);
        let fds = [candidate.line.fd(), candidate.child.pidfd];
        while self.setup.decision.get() == Decision::Pending {
            let now = time::monotonic_ns();
            self.setup.table.supervisor().looked_at.store(now, Relaxed);
            if now >= deadline {
                bail!("it hangs");
            }
            let ready = poll::readable(&fds, Duration::from_millis(10))?;
            if ready[0] {
                match candidate.line.hear() {
                    Ok(Word::Refused(why)) => bail!(why),
                    // It may have ended after it had decided.
                    Err(_) if self.setup.decision.get() != Decision::Pending => break,
                    Err(error) => return Err(error).context("its line is closed"),
                    Ok(_) => {}
                }
            }
            if ready[1] {
                bail!("it died before it took over");
            }
        }
        Ok(())
    }

    /// Puts the kernel program back, if it was taken off and no successor has put its own there.
    pub(super) fn step_back(&mut self, now: u64) {
        if !self.handover.is_aside || now < self.handover.step_back_at {
            return;
        }
        let setup = &mut self.setup;
        let again = listen::step_aside(setup.config, &mut setup.steering, &setup.sockets);
        let joined = setup.sockets.join_rest(setup.config);
        let back =
            again.and(joined).and_then(|()| listen::steer(setup.config, &mut setup.steering, &setup.sockets));
        if self.drain.is_draining() {
            self.drain.refuse_new(&mut self.setup);
        }
        match back {
            Ok(()) => self.handover.is_aside = false,
            // Until then the kernel spreads new traffic over all workers, which is served too.
            Err(error) => {
                tracing::warn!(%error, "not all new traffic is steered; trying again");
                self.handover.step_back_at = now + STEP_BACK;
            }
        }
    }

    /// Ends, with everything else of this supervisor, without closing anything for real: it is the successor's.
    pub(super) fn leave(&mut self) -> ! {
        let successor = self.setup.table.supervisor().handover.candidate.pid();
        self.notify.pass_on(time::monotonic_ns(), successor as u32);
        // With an access log control ends by itself, when the last lines are written.
        let spared = self.control.child().filter(|_| self.finish_access_log()).map(|control| control.pid);
        let killed = self.processes().filter(|child| Some(child.pid) != spared);
        killed.for_each(|child| drop(process::kill(*child)));
        tracing::info!(successor, "handed over");
        // Who asks for something now means the proxy.
        while let Some(told) = signal::next(self.setup.signals) {
            if let Told::Asked(signal) = told
                && is_successor(successor)
            {
                process::send_signal(successor, signal);
            }
        }
        process::exit_now(0)
    }
}
