//! Adopting what dead pools' workers have left to this one. Every step can be repeated: this worker
//! may die in the middle, and then its heir does it all again.

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use proxy_common::lease::SEATS;

use crate::{
    fault::{self, Point},
    relay::{token::Token, udp},
    sys::{Fd, epoll, poll},
    table::{AdoptedState, Estate, EstateStage, Kind},
};

use super::worker::Worker;

impl Worker {
    /// Adopts every estate that was left to this worker.
    pub(super) fn adopt(&mut self) {
        let estates = &self.lane.block().estates;
        // What is left from here on has its turn later: it would be marked as adopted without having been.
        let left: Vec<&Estate> =
            estates.iter().filter(|estate| estate.stage() == EstateStage::Left).collect();
        if left.is_empty() {
            return;
        }
        // Its upstream or pipes may be tagged by an heir that died in the middle, whose own estate was
        // left before this one, but need not be among those above.
        let dead: Vec<u32> = estates
            .iter()
            .filter(|estate| has_flows(estate))
            .map(|estate| estate.epoch.load(Relaxed))
            .collect();
        fault::point(Point::AdoptBegun);
        self.adopt_flows(&dead);
        fault::point(Point::AdoptWalked);
        for estate in &left {
            self.replay(estate);
        }
        fault::point(Point::AdoptReplayed);
        for estate in left {
            let has_set = estate.set.get() > 0;
            estate.set_stage(if has_set { EstateStage::Adopted } else { EstateStage::None });
        }
        fault::point(Point::AdoptDone);
        self.look_beside();
        // One whole walk over the tags from here on moves all registrations.
        self.migrating_from = None;
        self.rest_till_next_tick();
    }

    fn adopt_flows(&mut self, dead: &[u32]) {
        let now_ms = self.now_ms();
        let (overwritten, registered) = (self.overwritten(), self.registered());
        for (number, cell) in self.lane.table.tags().iter().enumerate() {
            let (fd, tag) = (Fd::from_raw(number as i32), cell.get());
            if !dead.contains(&tag.epoch) {
                continue;
            }
            let adopted = match tag.kind {
                Kind::Client => self.tcp.adopt(&self.lane, fd, dead, now_ms),
                Kind::UdpFlow => self.udp.adopt(&self.lane, fd).then_some(AdoptedState::Udp),
                _ => None,
            };
            if let Some(state) = adopted {
                self.lane.block().counters.adopted[state as usize].add(1);
                if overwritten.contains(&tag.epoch) {
                    self.tcp.wake(&self.lane, fd);
                }
                if !registered.contains(&tag.epoch) {
                    self.migrate(fd, tag.kind, &[]);
                }
            }
            self.beat_now_and_then();
        }
    }

    /// Dead epochs whose event buffers another pool has had since: it could not wait for this worker any
    /// longer. (This worker's own seat's are as its predecessor left them.)
    fn overwritten(&self) -> Vec<u32> {
        let estates = self.lane.block().estates.iter().filter(|estate| estate.stage() == EstateStage::Left);
        let is_past = |estate: &&Estate| {
            let (seat, epoch) = (estate.seat.load(Relaxed), estate.epoch.load(Relaxed));
            let is_other = seat != self.lane.seat && (seat as usize) < SEATS;
            is_other && self.lane.table.seat(seat).epoch.load(Relaxed) != epoch
        };
        estates.filter(is_past).map(|estate| estate.epoch.load(Relaxed)).collect()
    }

    /// Dead epochs whose flows' events come by an epoll set that was left with them.
    fn registered(&self) -> Vec<u32> {
        let estates = self.lane.block().estates.iter();
        let with_set = estates.filter(|estate| has_flows(estate) && estate.set.get() > 0);
        with_set.map(|estate| estate.epoch.load(Relaxed)).collect()
    }

    /// Gives the flows a turn whose events the dead worker had taken from the kernel: it may not
    /// have come to them. Old entries cost a look: a generation tells other connections, and
    /// connecting asks the socket before it believes an event.
    fn replay(&mut self, estate: &Estate) {
        let seat = estate.seat.load(Relaxed);
        if seat as usize >= SEATS {
            return;
        }
        for buffer in self.lane.table.events(seat, self.lane.worker) {
            for index in 0..epoll::BATCH {
                let event = buffer.get(index);
                if let Some(token @ (Token::Client { .. } | Token::Upstream { .. })) =
                    Token::decode(event.data)
                {
                    fault::point(Point::AdoptReplaying);
                    self.dispatch(token, event.mask);
                }
                self.beat_now_and_then();
            }
        }
    }

    /// Remembers which dead workers' epoll sets are to be looked at beside this worker's own. One whose
    /// flows are not adopted yet is not among them: what it told would be about somebody else's.
    pub(super) fn look_beside(&mut self) {
        self.beside = self.adopted_sets();
    }

    /// Waits for events of this worker's own set, as [`EventBuffer::wait`], or until a set beside it has
    /// some. That set could be put into this one; but then the kernel looks through all that is registered
    /// with it, under a lock that all of the machine shares (`ep_loop_check`, fs/eventpoll.c).
    pub(super) fn wait(&self, timeout_ms: i32) -> io::Result<usize> {
        if self.beside.is_empty() {
            return self.events[0].wait(self.lane.set, timeout_ms);
        }
        let sets: Vec<Fd> = self.beside.iter().copied().chain([self.lane.set]).collect();
        poll::readable(&sets, Duration::from_millis(timeout_ms as u64))?;
        self.events[0].wait(self.lane.set, 0)
    }

    /// Handles what the sets beside have to tell.
    pub(super) fn on_sets_beside(&mut self) {
        for index in 0..self.beside.len() {
            let Ok(count) = self.events[1].wait(self.beside[index], 0) else { continue };
            for index in 0..count {
                let event = self.events[1].get(index);
                match Token::decode(event.data) {
                    None | Some(Token::Bell) => {}
                    Some(token) => self.dispatch(token, event.mask),
                }
                self.beat_now_and_then();
            }
        }
    }

    /// The sets whose registrations are to be moved to this worker's own.
    pub(super) fn adopted_sets(&self) -> Vec<Fd> {
        let is_adopted = |estate: &&Estate| estate.stage() == EstateStage::Adopted;
        self.lane.block().estates.iter().filter(is_adopted).map(|estate| estate.set.fd()).collect()
    }

    /// Moves one flow's registrations.
    pub(super) fn migrate(&mut self, fd: Fd, kind: Kind, from: &[Fd]) {
        match kind {
            Kind::Client => self.tcp.migrate(&self.lane, fd, from),
            Kind::UdpFlow => udp::migrate(&self.lane, fd, from),
            _ => {}
        }
    }

    /// After a whole walk nothing is registered with the adopted sets any more. They are the
    /// supervisor's to close: if this worker did, nobody could tell after its death whether it had.
    pub(super) fn give_up_sets(&mut self, moved: &[Fd]) {
        let estates = self.lane.block().estates.iter();
        for estate in estates.filter(|estate| estate.stage() == EstateStage::Adopted) {
            let set = estate.set.fd();
            if moved.contains(&set) {
                fault::point(Point::MoveEmpty);
                estate.set_stage(EstateStage::Moved);
                fault::point(Point::MoveDone);
            }
        }
        self.look_beside();
    }
}

/// Whether events may still come by an estate's epoll set.
fn has_flows(estate: &Estate) -> bool {
    matches!(estate.stage(), EstateStage::Left | EstateStage::Adopted)
}
