//! The TCP relay of one worker: accepted connections, their upstream connections, and the events
//! of both. All state of a connection is its record; what is kept here is a list of to-dos.

mod accept;
mod adopt;
mod client_hello;
mod connect;
mod copy;
mod end;
pub mod evidence;
mod half;
mod header;
mod pause;
mod positions;
mod prelude;
mod queue;
pub mod shared;
mod sni;
mod turns;

use std::collections::VecDeque;

use crate::{
    fault::{self, Point},
    sys::{Fd, epoll, socket},
    table::{Direction, Ending, Holder, Kind, Record, State, Tag, flag, mark},
};

use super::{
    Lane,
    buffers::Buffers,
    chooser::Chooser,
    expiry::{self, Times},
    pipes::Pipes,
    servers,
    token::Token,
};
use half::{Half, Holders, Outcome};
use queue::Queues;
use turns::{Turn, Turns};

/// Turns between two heartbeats: 6 MB at most, a few milliseconds.
const TURNS_PER_BEAT: usize = 16;
/// Halves that wait for a pipe and try again at a tick. Where more wait than that, pipes are short for longer.
const WOKEN_PER_TICK: usize = 1024;

/// Events that a short read does not answer.
const BEYOND_DATA: u32 = epoll::RDHUP | epoll::HUP | epoll::PRI | epoll::ERR;

/// A connect that may run out of time.
#[derive(Clone, Copy)]
struct Deadline {
    client: Fd,
    generation: u32,
    at_ms: u32,
}

/// The TCP relay of one worker.
pub struct Tcp {
    pipes: Pipes,
    buffers: Buffers,
    chooser: Chooser,
    queues: Queues,
    /// Halves whose budget ended.
    turns: Turns,
    /// Halves that wait for a pipe.
    waiting: Turns,
    /// In the order in which they run out.
    connecting: VecDeque<Deadline>,
    /// Whether some of them may have.
    may_be_late: bool,
    /// Listeners whose sockets all workers share, and that are to be looked at.
    untended: VecDeque<u32>,
    /// Slots of listening sockets that are not looked at because no descriptor was left.
    paused: Vec<u32>,
}

impl Tcp {
    /// Starts with a worker's pipes and buffers.
    pub fn new(pipes: Pipes, buffers: Buffers) -> Self {
        Self {
            pipes,
            buffers,
            chooser: Chooser::new(fastrand::Rng::new()),
            queues: Queues::default(),
            turns: Turns::default(),
            waiting: Turns::default(),
            connecting: VecDeque::new(),
            may_be_late: false,
            untended: VecDeque::new(),
            paused: Vec::new(),
        }
    }

    /// Whether there is work that no event will tell of.
    pub fn has_turns(&self) -> bool {
        self.turns.len() > 0 || self.queues.is_ready() || self.may_be_late || !self.untended.is_empty()
    }

    /// An event of a connection's socket to its client or to its server.
    pub fn on_event(&mut self, lane: &Lane, token: Token, mask: u32, now_ms: u32) {
        let (client, generation, direction) = match token {
            Token::Client { fd, generation } => (fd, generation, Direction::Up),
            Token::Upstream { client, generation } => (client, generation, Direction::Down),
            _ => return,
        };
        let Some(record) = own_record(lane, client, generation) else {
            return;
        };
        // A set tells of a socket once when it is registered: being writable is no activity.
        if mask & !epoll::OUT != 0 {
            record.touch(now_ms);
            fault::point(Point::EventTold);
        }
        if direction == Direction::Up && mask & BEYOND_DATA != 0 && record.state() != State::Established {
            // The event is not told again when the time for it has come.
            record.mark(mark::EARLY_END, true);
        }
        match (record.state(), direction) {
            (State::Connecting, Direction::Down) => self.on_connect(lane, client, record, mask, now_ms),
            (State::Accepted, _) if record.has(flag::QUEUED) => self.on_waiting(lane, client, record, mask),
            (State::Connecting | State::Accepted, _)
                if mask & epoll::ERR != 0 && socket::take_error(client).is_some() =>
            {
                self.reset(lane, client, record, Ending::ClientReset);
            }
            (State::Accepted, Direction::Up) => self.prelude(lane, client, record, now_ms),
            (State::Connecting | State::Accepted, _) => {}
            (State::Established, _) => self.on_data(lane, (client, record, direction), mask, now_ms),
            (State::Free | State::Closing, _) => {}
        }
    }

    /// `direction` is the half whose source the event is about.
    fn on_data(
        &mut self,
        lane: &Lane,
        (client, record, direction): (Fd, &'static Record, Direction),
        mask: u32,
        now_ms: u32,
    ) {
        let generation = record.generation();
        let is_open = || record.generation() == generation && record.state() == State::Established;
        if pause::is_early(mask, record.holder(direction)) {
            pause::begin(lane, (client, record, direction));
        } else if mask & (epoll::IN | BEYOND_DATA) != 0 {
            self.run(lane, (client, record, direction), mask & BEYOND_DATA != 0, now_ms);
        }
        if is_open() && mask & epoll::ERR != 0 {
            let source = match direction {
                Direction::Up => Some(client),
                Direction::Down => record.upstream(),
            };
            // A reset must not pass as an end, whatever splice made of it.
            if source.is_none_or(|source| socket::take_error(source).is_some()) {
                let (by_client, by_server) = (Ending::ClientReset, Ending::ServerReset);
                let why = if direction == Direction::Up { by_client } else { by_server };
                self.reset(lane, client, record, why);
            }
        }
        let back = other(direction);
        let has_rest = record.holder(back) != Holder::None || record.has(flag::of(flag::MORE, back));
        if is_open() && mask & !epoll::IN != 0 && has_rest {
            self.run(lane, (client, record, back), true, now_ms);
        }
    }

    /// Gives one half a turn and sees to what comes of it.
    fn run(
        &mut self,
        lane: &Lane,
        (client, record, direction): (Fd, &'static Record, Direction),
        probe: bool,
        now_ms: u32,
    ) {
        let Some(upstream) = record.upstream() else {
            return;
        };
        if record.has(flag::of(flag::SHUT, direction)) {
            return;
        }
        let (source, sink) = direction.ends((client, upstream));
        if !self.audit(lane, client, record) {
            return;
        }
        let half = Half { lane, record, direction, source, sink };
        // A read of a unix socket ends at messages that came with descriptors, and so may be short with more to come.
        let probe = probe || record.has(flag::of(flag::UNIX, direction));
        let holders = Holders { pipes: &mut self.pipes, buffers: &mut self.buffers };
        let (outcome, moved) = half.turn(holders, probe);
        if moved > 0 {
            // No event tells of bytes that a slow sink takes.
            record.touch(now_ms);
        }
        let counters = lane.listener(record.listener());
        match direction {
            Direction::Up => counters.received_bytes.add(moved as u64),
            Direction::Down => counters.sent_bytes.add(moved as u64),
        }
        if let Some(own) = lane.table.record(upstream) {
            own.facts().add_bytes(direction, moved, record.active_ms());
        }
        let more = flag::of(flag::MORE, direction);
        let turn = Turn { client, generation: record.generation(), direction };
        match outcome {
            Outcome::Dry if record.has(more) => {
                pause::end(lane, (client, record, direction));
                record.clear(more);
            }
            Outcome::Dry => {}
            Outcome::Full => record.set(more),
            Outcome::More => {
                record.set(more);
                self.turns.push(turn);
            }
            Outcome::NoPipe => {
                record.set(more);
                lane.block().counters.pipe_waits.add(1);
                self.waiting.push(turn);
            }
            Outcome::Ended => {
                pause::end(lane, (client, record, direction));
                self.pass_end(lane, client, record, direction, sink);
            }
            Outcome::Broken => self.break_off(lane, client, record),
        }
    }

    /// Gives halves that wait a turn each, as many as were waiting at the call and no more than the
    /// heartbeat allows; the others have theirs after the next look at the events.
    pub fn run_turns(&mut self, lane: &Lane, now_ms: u32) {
        for _ in 0..self.turns.len().min(TURNS_PER_BEAT) {
            if let Some(turn) = self.turns.pop() {
                self.resume(lane, turn, now_ms);
            }
        }
    }

    /// What is due now and then: pipes, and listening sockets to try again. What may be long is for the turns that follow.
    pub fn tick(&mut self, lane: &Lane) {
        self.pipes.collect(lane);
        for _ in 0..self.waiting.len().min(WOKEN_PER_TICK) {
            self.waiting.pop().into_iter().for_each(|turn| self.turns.push(turn));
        }
        self.may_be_late = !self.connecting.is_empty();
        self.try_queues();
        self.unpause(lane);
        if self.untended.is_empty() {
            self.untended.extend(shared::all(lane));
        }
    }

    /// Resets the connection at `client` because an administrator wants it. Answers whether it is this worker's.
    pub fn close_ordered(&mut self, lane: &Lane, client: Fd) -> bool {
        let generation = lane.table.record(client).map_or(0, Record::generation);
        let is_open = |record: &&'static Record| !matches!(record.state(), State::Free | State::Closing);
        let record = own_record(lane, client, generation).filter(is_open);
        record.into_iter().for_each(|record| self.reset(lane, client, record, Ending::Ordered));
        record.is_some()
    }

    fn resume(&mut self, lane: &Lane, turn: Turn, now_ms: u32) {
        if let Some(record) = own_record(lane, turn.client, turn.generation)
            && record.state() == State::Established
        {
            self.run(lane, (turn.client, record, turn.direction), true, now_ms);
        }
    }

    /// Resets the connection at `client` if it has had its time. Called by the worker's walk over its tags.
    pub fn expire_one(&mut self, lane: &Lane, client: Fd, now_ms: u32) {
        let Some(record) = lane.table.record(client) else { return };
        match record.state() {
            _ if record.worker() != lane.worker => return,
            State::Established => {}
            State::Accepted => return self.expire_prelude(lane, client, record, now_ms),
            _ => return,
        }
        keep_alive(lane, record);
        let rules = lane.config.rules(record.listener());
        // Where it is not asked for, the walk over all connections does without another line of memory for each.
        let began_ms = match rules.max_lifetime {
            Some(_) => lane.table.accepted_ms(client, record),
            None => record.opened_ms(),
        };
        let times = Times { began_ms, active_ms: record.active_ms() };
        let is_half_closed = Direction::BOTH.iter().any(|half| record.has(flag::of(flag::SHUT, *half)));
        if let Some(reason) = expiry::of_connection(rules, times, is_half_closed, now_ms) {
            lane.listener(record.listener()).expire(reason);
            self.reset(lane, client, record, reason);
        }
    }
}

/// Has the server's socket notice a dead peer, if it does not yet. (Accepted ones have it of their listener.)
fn keep_alive(lane: &Lane, record: &Record) {
    if let Some(upstream) = record.upstream().filter(|_| !record.is_marked(mark::KEPT_ALIVE)) {
        // Of a unix socket the kernel knows.
        let _ = socket::keep_alive(upstream, servers::rules(lane, record).keepalive);
        record.mark(mark::KEPT_ALIVE, true);
    }
}

/// Puts a deadline in its place: the last one, where all upstreams give the same time.
fn await_connect(deadlines: &mut VecDeque<Deadline>, new: Deadline) {
    let is_before = |other: &Deadline| new.at_ms.wrapping_sub(other.at_ms) < u32::MAX / 2;
    let place = match deadlines.back() {
        Some(last) if !is_before(last) => deadlines.partition_point(is_before),
        _ => deadlines.len(),
    };
    deadlines.insert(place, new);
}

/// The record of a connection that this worker owns, if the number still names it.
fn own_record(lane: &Lane, client: Fd, generation: u32) -> Option<&'static Record> {
    let record = lane.table.record(client)?;
    let is_own = lane.table.tag(client)?.get() == Tag::new(Kind::Client, lane.epoch);
    (is_own && record.generation() == generation && record.worker() == lane.worker).then_some(record)
}

fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    }
}
