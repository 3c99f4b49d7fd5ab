//! Taking over a dead worker's connections. Nothing here trusts the record: what does not fit
//! together loses its own connection and no other.

use crate::{
    fault::{self, Point},
    relay::{Lane, admission, servers, token::Token},
    sys::{Fd, epoll, pipe, socket, unix, urgent, would_block},
    table::{AdoptedState, Direction, Ending, Holder, Kind, LostReason, Part, Record, State, Tag, flag},
};

use super::{
    Deadline, Tcp, Turn, await_connect, connect, copy, evidence, header, other,
    positions::{self, Finding},
};

/// The epochs of dead pools whose flows this worker is adopting.
pub type DeadEpochs = [u32];

impl Tcp {
    /// Takes over the connection at `client`, which is tagged with a dead pool's epoch, if it was the
    /// dead worker's of the same number. An idle one costs no system call. Answers what it was
    /// about; `None` if there was no connection, or none that made sense.
    pub fn adopt(&mut self, lane: &Lane, client: Fd, dead: &DeadEpochs, now_ms: u32) -> Option<AdoptedState> {
        let record = lane.table.record(client)?;
        if record.worker() == lane.worker && record.state() == State::Free {
            close_forgotten(lane, client, record);
            return None;
        }
        let is_sound = self.claim(lane, client, dead)?;
        self.carry_on(lane, client, record.generation(), is_sound, now_ms)
    }

    /// Makes the connection at `client` this worker's, without doing anything to it. Answers whether it makes
    /// sense; `None` if it is none of this worker's.
    pub fn claim(&mut self, lane: &Lane, client: Fd, dead: &DeadEpochs) -> Option<bool> {
        let record = lane.table.record(client)?;
        if record.worker() != lane.worker || record.state() == State::Free {
            return None;
        }
        let mut is_sound = take_holders(lane, client, record, dead);
        fault::point(Point::AdoptHolders);
        is_sound &= take_upstream(lane, client, record, dead)
            & has_known_numbers(lane, record)
            & evidence::agrees(lane, client, record);
        fault::point(Point::AdoptUpstream);
        lane.table.tag(client)?.set(Tag::new(Kind::Client, lane.epoch));
        fault::point(Point::AdoptTagged);
        self.count_in(lane, record);
        fault::point(Point::AdoptCounted);
        record.set(flag::ADOPTED | flag::UNAUDITED);
        record.set_takeovers(record.takeovers().saturating_add(1));
        fault::point(Point::AdoptFlagged);
        Some(is_sound)
    }

    /// Goes on with a claimed connection; with one that makes no sense, by resetting it. Answers as [`Self::adopt`].
    pub fn carry_on(
        &mut self,
        lane: &Lane,
        client: Fd,
        generation: u32,
        is_sound: bool,
        now_ms: u32,
    ) -> Option<AdoptedState> {
        let record = super::own_record(lane, client, generation)?;
        if !is_sound {
            self.lose(lane, client, record, LostReason::Corrupt);
            return None;
        }
        Some(self.go_on(lane, client, record, now_ms))
    }

    /// Lets this worker be told of a connection's events.
    pub fn register(&self, lane: &Lane, client: Fd) {
        if let Some(record) = lane.table.record(client).filter(|record| record.state() != State::Closing) {
            move_registrations(lane, client, record, &[]);
        }
    }

    fn go_on(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) -> AdoptedState {
        let was_reset = record.has(flag::RESET);
        match record.state() {
            State::Established if !was_reset => self.go_on_relaying(lane, client, record, now_ms),
            State::Connecting if !was_reset => {
                self.go_on_connecting(lane, client, record, now_ms);
                AdoptedState::Connecting
            }
            State::Accepted if !was_reset => {
                if record.has(flag::UNIX) {
                    let _ = unix::prepare(client);
                }
                let token = Token::Client { fd: client, generation: record.generation() };
                // EEXIST cannot be: this worker's set has never seen it. If the dead one's has, both tell.
                let _ = epoll::add(lane.set, client, epoll::FLOW, token.encode());
                self.drop_upstream(lane, client, record);
                if record.has(flag::QUEUED) {
                    self.wait_on(lane, client, record);
                } else {
                    self.prelude(lane, client, record, now_ms);
                }
                AdoptedState::Accepted
            }
            _ if was_reset => {
                self.reset(lane, client, record, Ending::Lost);
                AdoptedState::Closing
            }
            _ => {
                self.close(lane, client, record);
                AdoptedState::Closing
            }
        }
    }

    fn go_on_relaying(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        now_ms: u32,
    ) -> AdoptedState {
        let Some(upstream) = record.upstream() else {
            self.reset(lane, client, record, Ending::Lost);
            return AdoptedState::Closing;
        };
        let generation = record.generation();
        let is_over = || record.generation() != generation || record.state() != State::Established;
        let mut state = AdoptedState::Idle;
        for direction in Direction::BOTH {
            let (_, sink) = direction.ends((client, upstream));
            if record.has(flag::of(flag::SHUT, direction)) {
                // The flag comes before the shutdown, which may be missing; twice is harmless.
                self.pass_end(lane, client, record, direction, sink);
                state = AdoptedState::Busy;
                if is_over() {
                    return state;
                }
            }
            if let Holder::Buffer(_) = record.holder(direction) {
                // At once: a dead worker has left one at most, and there may be a handover before the next turn.
                self.run(lane, (client, record, direction), true, now_ms);
                state = AdoptedState::Busy;
                if is_over() {
                    return state;
                }
            }
            if record.holder(direction) != Holder::None || record.has(flag::of(flag::MORE, direction)) {
                if !self.audit(lane, client, record) {
                    return AdoptedState::Busy;
                }
                // As long as the half waits for its turn: nothing but this tells this worker's heir of it.
                record.set(flag::of(flag::MORE, direction));
                self.turns.push(Turn { client, generation, direction });
                state = AdoptedState::Busy;
            }
        }
        state
    }

    /// Gives both halves of an adopted connection a turn: what its dead worker was told of it is not known.
    pub fn wake(&mut self, lane: &Lane, client: Fd) {
        let Some(record) = lane.table.record(client).filter(|record| record.state() == State::Established)
        else {
            return;
        };
        for direction in Direction::BOTH {
            self.turns.push(Turn { client, generation: record.generation(), direction });
        }
    }

    /// Compares the stream positions of an adopted connection, once. Answers false if they do not
    /// agree; then it was reset: a broken connection is better than a corrupt one.
    pub(super) fn audit(&mut self, lane: &Lane, client: Fd, record: &'static Record) -> bool {
        let (true, Some(upstream)) = (record.has(flag::UNAUDITED), record.upstream()) else {
            return true;
        };
        record.clear(flag::UNAUDITED);
        fault::point(Point::AdoptUnaudited);
        for direction in Direction::BOTH {
            let (source, sink) = direction.ends((client, upstream));
            let finding = positions::audit(lane, record, direction, (source, sink));
            let counters = &lane.block().counters;
            match finding {
                Err(ref error) if would_block(error) => {}
                Ok(Finding::Uncounted) => counters.unaudited.add(1),
                _ => counters.audits.add(1),
            }
            match finding {
                Ok(Finding::Whole { written }) => {
                    if let Some(facts) = lane.table.facts(client, record) {
                        facts.set_bytes(direction, written);
                    }
                }
                Ok(Finding::Broken | Finding::Uncounted) => {}
                // Too busy to be read. Between two turns the positions agree whenever it is: at the next one then.
                Err(error) if would_block(&error) => record.set(flag::UNAUDITED),
                Ok(Finding::UrgentTwice) => drop(urgent::take(source)),
                Ok(Finding::Mismatch { read, residue, written }) => {
                    let listener = record.listener();
                    tracing::error!(
                        ?direction,
                        listener,
                        read,
                        residue,
                        written,
                        "stream positions of an adopted connection do not agree: it is reset"
                    );
                    lane.block().counters.audit_mismatches.add(1);
                    self.lose(lane, client, record, LostReason::Audit);
                    return false;
                }
                Err(_) => {
                    self.lose(lane, client, record, LostReason::Audit);
                    return false;
                }
            }
        }
        true
    }

    fn go_on_connecting(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) {
        let upstream = record.upstream().filter(|upstream| !header::is_in_doubt(lane, *upstream));
        let (Some(upstream), Some(_)) = (upstream, record.server()) else {
            // Its worker was about to forget it, or nobody knows how far it was.
            self.drop_upstream(lane, client, record);
            return self.connect(lane, client, record, now_ms);
        };
        let (generation, at_ms) = (record.generation(), connect::runs_out(lane, record));
        match socket::state(upstream) {
            Ok(socket::CLOSED) | Err(_) => {
                if let Some(error) = socket::take_error(upstream) {
                    self.give_up(lane, client, record, connect::classify(&error), now_ms);
                } else {
                    self.drop_upstream(lane, client, record);
                }
                self.connect(lane, client, record, now_ms);
            }
            Ok(state) => {
                let token = Token::Upstream { client, generation };
                // The dead worker may not have come to it.
                let _ = epoll::add(lane.set, upstream, epoll::FLOW, token.encode());
                await_connect(&mut self.connecting, Deadline { client, generation, at_ms });
                if state != socket::SYN_SENT {
                    self.on_connect(lane, client, record, epoll::OUT, now_ms);
                }
            }
        }
    }

    /// Resets a connection that cannot be carried on, and counts why.
    fn lose(&mut self, lane: &Lane, client: Fd, record: &'static Record, reason: LostReason) {
        lane.block().counters.lost.tcp[reason as usize].add(1);
        self.reset(lane, client, record, Ending::Lost);
    }

    fn count_in(&mut self, lane: &Lane, record: &Record) {
        lane.block().connections.up();
        lane.count_open(record.listener());
        if record.state() != State::Accepted {
            // A version that does not mark it.
            record.set(flag::ADMITTED);
        }
        if record.has(flag::ADMITTED) {
            admission::count_source(lane, record.listener(), record.client().ip());
        }
        if record.has(flag::QUEUED) {
            lane.listener(record.listener()).waiting.up();
        }
        if let Some(server) = record.server() {
            lane.server(server).open.up();
        }
        for direction in Direction::BOTH {
            if let Holder::Pipe(pipe) = record.holder(direction) {
                self.pipes.note_adopted(lane, pipe);
            }
        }
    }
}

/// Makes the pipes that a record names this worker's. False if it names what was no dead pool's pipe.
fn take_holders(lane: &Lane, client: Fd, record: &Record, dead: &DeadEpochs) -> bool {
    let take_one = |direction| match record.holder(direction) {
        Holder::None => true,
        Holder::Pipe(pipe) if take(lane, pipe, (client, Part::Pipe(direction)), dead) => {
            pipe::readable(pipe).is_ok()
        }
        Holder::Buffer(number) if copy::noted(lane, client, direction, number).is_some() => true,
        Holder::Pipe(_) | Holder::Buffer(_) => {
            record.set_holder(direction, Holder::None);
            false
        }
    };
    take_one(Direction::Up) & take_one(Direction::Down)
}

/// The same for the upstream socket. A record that names one without a tag is about to open it.
fn take_upstream(lane: &Lane, client: Fd, record: &Record, dead: &DeadEpochs) -> bool {
    match record.upstream() {
        None => record.state() != State::Established,
        Some(upstream) if take(lane, upstream, (client, Part::Upstream), dead) => true,
        Some(_) => {
            record.set_upstream(None);
            matches!(record.state(), State::Accepted | State::Closing)
        }
    }
}

/// Closes what a dead worker had forgotten: it died before it came to that. If nothing was ended or
/// reset yet, the record was overwritten, and an end must not be made of that.
fn close_forgotten(lane: &Lane, client: Fd, record: &Record) {
    match socket::state(client) {
        Ok(_) if evidence::is_over(record, client) => lane.close(client),
        Ok(_) => {
            lane.block().counters.lost.tcp[LostReason::Corrupt as usize].add(1);
            socket::reset(client);
            lane.close(client);
        }
        // No connection at all: it was the tag that was overwritten.
        Err(_) => lane.table.tag(client).into_iter().for_each(|cell| cell.set(Tag::FREE)),
    }
}

fn has_known_numbers(lane: &Lane, record: &Record) -> bool {
    let knows_server = record.server().is_none_or(|server| servers::is_known(lane, server));
    if !knows_server {
        record.set_server(None);
    }
    knows_server && (record.listener() as usize) < lane.config.listeners.len()
}

/// Makes a part of a connection this worker's, if it is a dead pool's and that connection's.
fn take(lane: &Lane, fd: Fd, (client, part): (Fd, Part), dead: &DeadEpochs) -> bool {
    let (Some(cell), Some(own)) = (lane.table.tag(fd), lane.table.record(fd)) else { return false };
    let tag = cell.get();
    let kind = if part == Part::Upstream { Kind::Upstream } else { Kind::Pipe };
    let is_left = tag.kind == kind && dead.contains(&tag.epoch) && own.is_owned_by(client, part);
    if is_left {
        cell.set(Tag::new(kind, lane.epoch));
    }
    is_left
}

impl Tcp {
    /// Moves a connection's registrations from dead workers' epoll sets to this worker's own, and
    /// audits it if that was not done at once.
    pub fn migrate(&mut self, lane: &Lane, client: Fd, from: &[Fd]) {
        let Some(record) = lane.table.record(client).filter(|record| record.worker() == lane.worker) else {
            return;
        };
        let is_open = matches!(record.state(), State::Accepted | State::Connecting | State::Established);
        if !is_open || (record.state() == State::Established && !self.audit(lane, client, record)) {
            return;
        }
        move_registrations(lane, client, record, from);
    }
}

fn move_registrations(lane: &Lane, client: Fd, record: &Record, from: &[Fd]) {
    let generation = record.generation();
    let upstream = record.upstream().map(|fd| (fd, Token::Upstream { client, generation }));
    for (fd, token) in upstream.into_iter().chain([(client, Token::Client { fd: client, generation })]) {
        // EEXIST: it is there already.
        let _ = epoll::add(lane.set, fd, epoll::FLOW, token.encode());
        fault::point(Point::MoveAdded);
        from.iter().for_each(|set| epoll::remove(*set, fd));
        fault::point(Point::MoveRemoved);
    }
}

/// Whether a source that reads as ended was reset: a dead worker may have taken the error off it, and
/// then only its state tells. One that we have shut down too may be closed for having ended, and then
/// only the count of its bytes does.
pub(super) fn is_reset(lane: &Lane, record: &Record, direction: Direction, (source, sink): (Fd, Fd)) -> bool {
    record.has(flag::ADOPTED)
        && socket::state(source).is_ok_and(|state| state == socket::CLOSED)
        && (!record.has(flag::of(flag::SHUT, other(direction)))
            || !positions::is_end(lane, record, direction, (source, sink)))
}
