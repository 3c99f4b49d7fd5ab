//! Claiming what another supervisor's pools hand over. Until it is decided that they do, it is looked at and
//! registered, and nothing is done to it: they may have to go on as if nothing had been.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use crate::{
    fault::{self, Point},
    relay::udp,
    sys::{Fd, bell, poll},
    table::{AdoptedState, Estate, EstateStage, Kind},
};

use super::worker::Worker;

/// A connection that waits for the decision.
struct Claimed {
    client: Fd,
    generation: u32,
    is_sound: bool,
}

impl Worker {
    /// Claims what is offered to this worker, waits for the decision, and goes on with it.
    pub(super) fn claim(&mut self) {
        let offered: Vec<&Estate> = self.estates_at(EstateStage::Offered).collect();
        if offered.is_empty() {
            return;
        }
        fault::point(Point::ClaimBegun);
        let epochs: Vec<u32> = offered.iter().map(|estate| estate.epoch.load(Relaxed)).collect();
        let claimed = self.claim_flows(&epochs);
        fault::point(Point::ClaimWalked);
        offered.into_iter().for_each(|estate| estate.set_stage(EstateStage::Claimed));
        fault::point(Point::ClaimDone);
        self.await_decision();
        fault::point(Point::ClaimGranted);
        let now_ms = self.now_ms();
        for Claimed { client, generation, is_sound } in claimed {
            if let Some(state) = self.tcp.carry_on(&self.lane, client, generation, is_sound, now_ms) {
                self.lane.block().counters.adopted[state as usize].add(1);
            }
            self.beat_now_and_then();
        }
    }

    fn claim_flows(&mut self, epochs: &[u32]) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for (number, cell) in self.lane.table.tags().iter().enumerate() {
            let (fd, tag) = (Fd::from_raw(number as i32), cell.get());
            if !epochs.contains(&tag.epoch) {
                continue;
            }
            match tag.kind {
                Kind::Client => claimed.extend(self.claim_connection(fd, epochs)),
                Kind::UdpFlow if self.udp.claim(&self.lane, fd) => {
                    udp::migrate(&self.lane, fd, &[]);
                    self.lane.block().counters.adopted[AdoptedState::Udp as usize].add(1);
                }
                _ => {}
            }
            self.beat_now_and_then();
        }
        claimed
    }

    fn claim_connection(&mut self, client: Fd, epochs: &[u32]) -> Option<Claimed> {
        let is_sound = self.tcp.claim(&self.lane, client, epochs)?;
        self.tcp.register(&self.lane, client);
        let generation = self.lane.table.record(client)?.generation();
        Some(Claimed { client, generation, is_sound })
    }

    /// Waits, with a heartbeat. If it is decided otherwise, the supervisor ends this pool.
    fn await_decision(&mut self) {
        let bell = self.lane.block().bell.fd();
        while self.estates_at(EstateStage::Claimed).next().is_some() {
            // What is waited for is the bell; an error would come again and again, at a tick's pace.
            let _ = poll::readable(&[bell], Duration::from_millis(self.tick_ms()));
            bell::silence(bell);
            self.rest_till_next_tick();
        }
    }

    fn estates_at(&self, stage: EstateStage) -> impl Iterator<Item = &'static Estate> + use<> {
        self.lane.block().estates.iter().filter(move |estate| estate.stage() == stage)
    }
}
