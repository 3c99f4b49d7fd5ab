//! Connections that wait for a server: while all of their upstream's have as many as they may have, or while its
//! names have no address yet. They are in state [`State::Accepted`](crate::table::State) and flagged, so that an
//! heir has them wait again. Each worker has a queue for each upstream, in the order in which they were accepted; it is
//! served when a connection of this worker's to that upstream ends, and at each tick for what other workers free.

use std::{collections::VecDeque, time::Duration};

use crate::{
    fault::{self, Point},
    relay::{Lane, chooser, millis, servers},
    sys::{Fd, epoll, pipe, socket},
    table::{Ending, Record, Rejection, flag},
};

use super::{Tcp, connect::Attempt, own_record};

/// Most connections of one worker that wait.
const MOST: usize = 1024;
/// Waiting connections that are served before the next look at the events.
const AT_ONCE: usize = 16;

/// A connection that waits. The generation tells whether the number still names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    client: Fd,
    generation: u32,
    since_ms: u32,
}

/// One worker's queues. Pure.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By number of the upstream.
    queues: Vec<VecDeque<Waiter>>,
    len: usize,
    /// Upstreams whose first one is to be tried, in turn.
    ready: VecDeque<usize>,
}

impl Queues {
    /// Whether anybody waits there.
    fn is_waited(&self, upstream: usize) -> bool {
        self.first(upstream).is_some()
    }

    fn first(&self, upstream: usize) -> Option<Waiter> {
        self.queues.get(upstream)?.front().copied()
    }

    /// Lets one wait behind all that have waited for as long. Answers false if there are too many, which is not asked
    /// of one that has been let wait already, by a dead worker or another supervisor's.
    fn push(&mut self, upstream: usize, waiter: Waiter, is_new: bool) -> bool {
        if is_new && self.len >= MOST {
            return false;
        }
        if self.queues.len() <= upstream {
            self.queues.resize_with(upstream + 1, VecDeque::new);
        }
        let queue = &mut self.queues[upstream];
        let is_later = |other: &Waiter| (other.since_ms.wrapping_sub(waiter.since_ms) as i32) > 0;
        // Nearly always the end; not for what an heir finds.
        let behind = queue.iter().rev().take_while(|other| is_later(other)).count();
        queue.insert(queue.len() - behind, waiter);
        self.len += 1;
        true
    }

    /// Forgets the first one at an upstream, which is not there any more: its number may be another's by now.
    fn forget_first(&mut self, upstream: usize) {
        let first = self.queues.get_mut(upstream).and_then(VecDeque::pop_front);
        self.len -= usize::from(first.is_some());
    }

    /// Forgets one. Its upstream is not asked for: a record that ends does not tell it any more.
    fn remove(&mut self, client: Fd) {
        for queue in &mut self.queues {
            if let Some(place) = queue.iter().position(|waiter| waiter.client == client) {
                queue.remove(place);
                self.len -= 1;
            }
        }
    }

    /// There may be room for the first one.
    fn set_ready(&mut self, upstream: usize) {
        if self.is_waited(upstream) && !self.ready.contains(&upstream) {
            self.ready.push_back(upstream);
        }
    }

    /// Upstreams at which somebody waits.
    fn waited(&self) -> Vec<usize> {
        (0..self.queues.len()).filter(|upstream| self.is_waited(*upstream)).collect()
    }

    /// Whether there may be room for anybody.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }
}

impl Tcp {
    /// Whether a connection has to wait because others do, who came before.
    pub(super) fn is_waited(&self, upstream: usize) -> bool {
        self.queues.is_waited(upstream)
    }

    /// Lets a connection wait for a server.
    pub(super) fn wait(&mut self, lane: &Lane, client: Fd, record: &'static Record, upstream: usize) {
        if is_gone(client) {
            return self.reset(lane, client, record, Ending::ClientEnded);
        }
        let waiter = Waiter { client, generation: record.generation(), since_ms: record.opened_ms() };
        if !self.queues.push(upstream, waiter, !record.has(flag::QUEUED)) {
            return self.reject(lane, client, record, Rejection::ServersFull);
        }
        if !record.has(flag::QUEUED) {
            let counters = lane.listener(record.listener());
            record.set(flag::QUEUED);
            counters.waiting.up();
            counters.waited.add(1);
            fault::point(Point::QueueEntered);
        }
    }

    /// Takes up an adopted connection that was waiting.
    pub(super) fn wait_on(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        match servers::upstream_of(lane, record) {
            Some((upstream, _)) => {
                self.wait(lane, client, record, upstream);
                self.queues.set_ready(upstream);
            }
            None => self.reject(lane, client, record, Rejection::Upstream),
        }
    }

    /// A connection waits no more.
    pub(super) fn leave_queue(&mut self, lane: &Lane, client: Fd, record: &Record) {
        if !record.has(flag::QUEUED) {
            return;
        }
        record.clear(flag::QUEUED);
        fault::point(Point::QueueLeft);
        lane.listener(record.listener()).waiting.down();
        self.queues.remove(client);
    }

    /// An event of the client of a waiting connection. One that has ended its side without a word wants nothing any
    /// more; what it has said is kept, and passed on.
    pub(super) fn on_waiting(&mut self, lane: &Lane, client: Fd, record: &'static Record, mask: u32) {
        if mask & epoll::ERR != 0 && socket::take_error(client).is_some() {
            self.reset(lane, client, record, Ending::ClientReset);
        } else if mask & (epoll::RDHUP | epoll::HUP) != 0 && is_gone(client) {
            self.reset(lane, client, record, Ending::ClientEnded);
        }
    }

    /// A connection to this server is no more.
    pub(super) fn free_place(&mut self, lane: &Lane, server: u32) {
        lane.server(server).open.down();
        if let Some((upstream, _)) = lane.config.upstream_of_slot(server as usize) {
            self.queues.set_ready(upstream);
        }
    }

    /// Has the first ones of all queues tried: other workers may have freed places, and they may have waited for too long.
    pub(super) fn try_queues(&mut self) {
        self.queues.waited().into_iter().for_each(|upstream| self.queues.set_ready(upstream));
    }

    /// Serves those who may have room now, and turns away those who have waited for too long; so many at once, one of
    /// each upstream after the other.
    pub fn serve_queues(&mut self, lane: &Lane, now_ms: u32) {
        for _ in 0..AT_ONCE {
            let Some(upstream) = self.queues.ready.pop_front() else { return };
            if self.serve_first(lane, upstream, now_ms) {
                self.queues.set_ready(upstream);
            }
        }
    }

    /// Serves the first one at an upstream. Answers whether there may be room for the next.
    fn serve_first(&mut self, lane: &Lane, upstream: usize, now_ms: u32) -> bool {
        let Some(Waiter { client, generation, .. }) = self.queues.first(upstream) else { return false };
        let Some(record) = own_record(lane, client, generation).filter(|record| record.has(flag::QUEUED))
        else {
            self.queues.forget_first(upstream);
            return true;
        };
        if self.try_connect(lane, client, record, now_ms) == Attempt::Over {
            return true;
        }
        let refusal = refusal(lane, record, upstream, now_ms);
        match refusal {
            Some(refusal) => self.reject(lane, client, record, refusal),
            // It had left the queue for a server that failed at once.
            None if !record.has(flag::QUEUED) => {
                if let Some((upstream, _)) = servers::upstream_of(lane, record) {
                    self.wait(lane, client, record, upstream);
                }
            }
            None => {}
        }
        refusal.is_some()
    }
}

/// Why a connection that finds no server may not wait, or not any longer: counted from its acceptance.
pub(super) fn refusal(lane: &Lane, record: &Record, upstream: usize, now_ms: u32) -> Option<Rejection> {
    let settings = lane.config.upstreams.get(upstream)?;
    let (limit, reason): (Option<Duration>, _) = match chooser::is_unresolved(lane, (upstream, settings)) {
        true => (Some(settings.rules.connect_timeout), Rejection::Upstream),
        false => (settings.rules.queue_timeout, Rejection::QueueTimeout),
    };
    let Some(limit) = limit else { return Some(Rejection::ServersFull) };
    let waited_ms = now_ms.wrapping_sub(record.opened_ms()) as i32;
    (i64::from(waited_ms) >= i64::from(millis(limit))).then_some(reason)
}

/// Whether a client has ended its side and nothing of it is left to be read.
fn is_gone(client: Fd) -> bool {
    let has_ended = socket::state(client).is_ok_and(|state| state != socket::ESTABLISHED);
    has_ended && pipe::readable(client).is_ok_and(|count| count == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(client: i32, since_ms: u32) -> Waiter {
        Waiter { client: Fd::from_raw(client), generation: 1, since_ms }
    }

    fn clients(queues: &mut Queues, upstream: usize) -> Vec<i32> {
        let mut clients = Vec::new();
        while let Some(Waiter { client, .. }) = queues.first(upstream) {
            clients.push(client.raw());
            queues.remove(client);
        }
        clients
    }

    #[test]
    fn who_came_first_is_first_whoever_brought_him() {
        let mut queues = Queues::default();
        for (client, since_ms) in [(1, u32::MAX), (2, 5), (3, 5), (4, u32::MAX - 7), (5, 1)] {
            assert!(queues.push(2, waiter(client, since_ms), true));
        }
        assert!(queues.push(0, waiter(9, 0), true));
        assert_eq!(queues.waited(), [0, 2]);
        queues.remove(Fd::from_raw(3));
        queues.remove(Fd::from_raw(77));
        assert_eq!(clients(&mut queues, 2), [4, 1, 5, 2]);
        assert_eq!((clients(&mut queues, 0), clients(&mut queues, 7), queues.len), (vec![9], vec![], 0));
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut queues = Queues::default();
        assert!((0..MOST).all(|client| queues.push(client % 3, waiter(client as i32, 0), true)));
        assert!(!queues.push(0, waiter(-1, 0), true));
        assert!(queues.push(0, waiter(-2, 0), false), "who waits already goes on waiting");
        queues.remove(Fd::from_raw(1));
        queues.forget_first(0);
        assert!(queues.push(0, waiter(-1, 0), true) && !queues.push(0, waiter(-3, 0), true));
    }

    #[test]
    fn only_where_somebody_waits_is_anybody_served() {
        let mut queues = Queues::default();
        queues.set_ready(3);
        assert!(!queues.is_ready());
        queues.push(3, waiter(1, 0), true);
        queues.set_ready(3);
        queues.set_ready(3);
        assert_eq!(queues.ready, [3]);
    }
}
