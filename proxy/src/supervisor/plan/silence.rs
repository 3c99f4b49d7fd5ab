//! What silence leads to: suspicion at once, a failover if all workers are silent, and death in the end.

use proxy_common::lease::other;

use super::{Action, Plan};
use crate::table::{FailoverReason, PoolState};

impl Plan {
    /// Looks at the leases of a pool that serves.
    pub(super) fn watch(&mut self, now: u64, seat: u32, lapsed: u64) {
        let workers = self.policy.workers as usize;
        let this = self.seat_mut(seat);
        for worker in 0..workers {
            let is_lapsed = lapsed >> worker & 1 == 1;
            let since = &mut this.lapsed_since[worker];
            *since = is_lapsed.then(|| since.unwrap_or(now));
            let valid = &mut this.valid_since[worker];
            *valid = (!is_lapsed).then(|| valid.unwrap_or(now));
        }
        match (this.state, lapsed) {
            (PoolState::Suspect, 0) => self.enter(now, seat, PoolState::Ready),
            (PoolState::Ready, 1..) => self.enter(now, seat, PoolState::Suspect),
            _ => {}
        }
    }

    /// A pool all of whose workers are silent is a failover, if there is another to go to; it is
    /// another one only if all of them have been well for as long as it takes to get queues back.
    pub(super) fn count_silence(&mut self, now: u64, seat: u32, actions: &mut Vec<Action>) {
        if !self.serves(seat) {
            return;
        }
        let has_recovered =
            |since: &Option<u64>| since.is_some_and(|since| now - since >= self.policy.recovery);
        if self.seat(seat).valid_since.iter().all(has_recovered) {
            self.seat_mut(seat).counted = false;
        }
        if self.is_silent(seat) && !self.is_silent(other(seat)) {
            self.count(seat, FailoverReason::Hung, actions);
        }
    }

    /// Whether all workers of a pool are silent.
    fn is_silent(&self, seat: u32) -> bool {
        self.seat(seat).lapsed_since.iter().all(Option::is_some)
    }

    /// Whether a seat's pool would adopt what it is left: one that is silent would let it wait, and the
    /// seat that it came from with it.
    pub fn can_adopt(&self, seat: u32) -> bool {
        self.serves(seat) && !self.is_silent(seat)
    }

    /// Fences a pool that has been silent for too long, one at a time.
    pub(super) fn fence_silent(&mut self, now: u64, actions: &mut Vec<Action>) {
        let is_due = |seat: &u32| self.serves(*seat) && self.silence(now, *seat) >= self.policy.fence_after;
        let Some(seat) = [other(self.first), self.first].into_iter().find(is_due) else {
            return;
        };
        let patience = self.policy.fence_after + self.policy.start_timeout;
        if self.serves(other(seat)) || self.silence(now, seat) >= patience {
            self.seat_mut(seat).hung = true;
            self.fence(now, seat, actions);
        }
    }

    /// For how long the most silent worker of a pool has been silent.
    fn silence(&self, now: u64, seat: u32) -> u64 {
        self.seat(seat).lapsed_since.iter().flatten().map(|since| now - since).max().unwrap_or(0)
    }
}
