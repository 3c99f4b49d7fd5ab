//! Connecting to an upstream server, and trying another if it fails.

use std::io;

use crate::{
    config::rules::UpstreamRules,
    fault::{self, Point},
    relay::{
        Lane,
        balance::Choice,
        chooser::{self, Seeker},
        millis,
        servers::{self, Destination},
        token::Token,
    },
    sys::{
        Fd, epoll,
        fd::close,
        is_exhausted, pipe,
        socket::{self, FlowOptions},
        time, transparent,
    },
    table::{
        ConnectFailure, Direction, Ending, Facts, Kind, Part, Record, Rejection, State, Tag, Window, flag,
        mark,
    },
};

use super::{Deadline, Tcp, await_connect, header, own_record, queue};

/// Connects that fail for being late before the next look at the events: each may be the begin of another.
const EXPIRED_AT_ONCE: usize = 16;

/// What came of trying to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It connects, or was turned away.
    Over,
    /// There is no server for it now.
    MustWait,
}

impl Tcp {
    /// Chooses a server and starts to connect to it; lets the client wait if it has to, and if none is left, resets it.
    pub(super) fn connect(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) {
        let Some((upstream, _)) = servers::upstream_of(lane, record) else {
            return self.reject(lane, client, record, Rejection::Upstream);
        };
        if !self.is_waited(upstream) {
            if self.try_connect(lane, client, record, now_ms) == Attempt::Over {
                return;
            }
            if let Some(refusal) = queue::refusal(lane, record, upstream, now_ms) {
                return self.reject(lane, client, record, refusal);
            }
        }
        self.wait(lane, client, record, upstream);
    }

    /// The same, for one that nobody is before.
    pub(super) fn try_connect(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        now_ms: u32,
    ) -> Attempt {
        let retries = servers::rules(lane, record).retries;
        while record.tried().count_ones() <= retries {
            let server = match self.claim_server(lane, record, now_ms) {
                Choice::Server(server) => server,
                Choice::Full => return Attempt::MustWait,
                Choice::None if is_too_early(lane, record) => return Attempt::MustWait,
                Choice::None => break,
            };
            self.leave_queue(lane, client, record);
            record.set_server(Some(server));
            fault::point(Point::ConnectChosen);
            match open_upstream(lane, client, record, server, now_ms) {
                Ok(()) => {
                    let (generation, at_ms) = (record.generation(), runs_out(lane, record));
                    await_connect(&mut self.connecting, Deadline { client, generation, at_ms });
                    return Attempt::Over;
                }
                // No server's fault, and no other one would do better.
                Err(Obstacle::Ours(reason)) => {
                    self.reject(lane, client, record, reason);
                    return Attempt::Over;
                }
                Err(Obstacle::Servers(error)) => self.give_up(lane, client, record, classify(&error), now_ms),
            }
        }
        self.reject(lane, client, record, Rejection::Upstream);
        Attempt::Over
    }

    fn claim_server(&mut self, lane: &Lane, record: &Record, now_ms: u32) -> Choice<u32> {
        let Some(upstream) = servers::upstream_of(lane, record) else { return Choice::None };
        let seeker = Seeker { upstream, client: record.client().ip(), tried: record.tried() };
        self.chooser.claim(lane, &seeker, now_ms)
    }

    /// An event of an upstream socket that is connecting.
    pub(super) fn on_connect(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        mask: u32,
        now_ms: u32,
    ) {
        let (Some(upstream), Some(server)) = (record.upstream(), record.server()) else {
            return;
        };
        // What failed tells so (`tcp_poll`, net/ipv4/tcp.c), but an event that a dead worker had taken may be an older
        // one. And a server that has reset it since is worth a question if there is another one to go to.
        let has_others =
            servers::upstream_of(lane, record).is_some_and(|(_, upstream)| upstream.servers.len() > 1);
        let may_have_failed =
            mask & (epoll::ERR | epoll::HUP) != 0 || has_others || record.has(flag::ADOPTED);
        let error = if may_have_failed { socket::take_error(upstream) } else { None };
        // A server that answers and resets at once was connected: its bytes come before its reset.
        let has_answered = || pipe::readable(upstream).is_ok_and(|count| count > 0);
        match &error {
            Some(error) if !has_answered() => return self.try_another(lane, client, record, error, now_ms),
            None if mask & epoll::OUT == 0 || is_stale_event(record, upstream) => return,
            None => match header::send(lane, client, record, upstream) {
                Ok(true) => {}
                // It was empty, and is full all the same: it tells when it is not.
                Ok(false) => return,
                Err(error) => return self.try_another(lane, client, record, &error, now_ms),
            },
            // Nobody takes a header any more; what was answered is passed on.
            Some(_) => {}
        }
        // What the server's socket has to tell is in this event. Those of the client that came while it was connecting
        // are gone: the heir of a worker that dies now must look.
        let is_told = record.has(flag::ADOPTED) || error.is_some() || mask & !epoll::OUT != 0;
        let directions = if is_told { &Direction::BOTH[..] } else { &[Direction::Up] };
        directions.iter().for_each(|direction| record.set(flag::of(flag::MORE, *direction)));
        record.set_state(State::Established);
        fault::point(Point::ConnectEstablished);
        let counters = lane.server(server);
        counters.connections.add(1);
        let now_us = time::monotonic_ns() / 1000;
        let facts = lane.table.facts(client, record);
        let took_us = match facts.as_ref().and_then(Facts::begun_us) {
            Some(begun_us) => (now_us as u32).wrapping_sub(begun_us),
            None => ((now_us / 1000) as u32).wrapping_sub(record.opened_ms()).saturating_mul(1000),
        };
        facts.into_iter().for_each(|facts| facts.set_connect_ms(Some(took_us / 1000)));
        counters.connect_duration.observe_us(took_us.into());
        servers::note_success(lane, server, now_ms);
        let generation = record.generation();
        let is_open = || record.generation() == generation && record.state() == State::Established;
        let probe = is_told || record.is_marked(mark::EARLY_END);
        for direction in directions {
            if is_open() {
                self.run(lane, (client, record, *direction), probe, now_ms);
            }
        }
        if is_open() && error.is_some() {
            self.reset(lane, client, record, Ending::ServerReset);
        }
    }

    fn try_another(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        error: &io::Error,
        now_ms: u32,
    ) {
        fault::point(Point::ConnectFailed);
        self.give_up(lane, client, record, classify(error), now_ms);
        self.connect(lane, client, record, now_ms);
    }

    /// Connects that have run out of time fail, so many at once.
    pub fn expire_connects(&mut self, lane: &Lane, now_ms: u32) {
        for _ in 0..EXPIRED_AT_ONCE {
            self.may_be_late = self.may_be_late && self.expire_connect(lane, now_ms);
        }
    }

    /// The first one fails if it has run out of time. Answers whether the next one may have.
    fn expire_connect(&mut self, lane: &Lane, now_ms: u32) -> bool {
        let Some(Deadline { client, generation, at_ms }) = self.connecting.front().copied() else {
            return false;
        };
        let is_due = now_ms.wrapping_sub(at_ms) < u32::MAX / 2;
        let record =
            own_record(lane, client, generation).filter(|record| record.state() == State::Connecting);
        if record.is_some() && !is_due {
            return false;
        }
        self.connecting.pop_front();
        // Else it is connected, gone, or connecting to another server since.
        if let Some(record) = record.filter(|record| runs_out(lane, record) == at_ms) {
            self.give_up(lane, client, record, ConnectFailure::Timeout, now_ms);
            self.connect(lane, client, record, now_ms);
        }
        true
    }

    /// Counts a failed server and forgets the connection to it.
    pub(super) fn give_up(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        failure: ConnectFailure,
        now_ms: u32,
    ) {
        if let Some(server) = record.server() {
            lane.server(server).failures[failure as usize].add(1);
            servers::note_failure(lane, server, now_ms);
            record.set_tried(servers::tried_number(lane, server));
        }
        self.drop_upstream(lane, client, record);
    }

    /// Forgets an upstream connection: the client's is as it was accepted. Its place is free only when the server is
    /// told of its end.
    pub(super) fn drop_upstream(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        let server = record.server();
        record.set_server(None);
        if let Some(upstream) = forget_upstream(lane, client, record) {
            fault::point(Point::ConnectForgotten);
            lane.close(upstream);
        }
        record.set_state(State::Accepted);
        server.into_iter().for_each(|server| self.free_place(lane, server));
    }
}

/// Whether no server of its upstream is known yet.
fn is_too_early(lane: &Lane, record: &Record) -> bool {
    servers::upstream_of(lane, record).is_some_and(|upstream| chooser::is_unresolved(lane, upstream))
}

/// Forgets the upstream socket, but not when the connection was accepted. Answers the socket, which is to be closed.
fn forget_upstream(lane: &Lane, client: Fd, record: &Record) -> Option<Fd> {
    let upstream = record.upstream()?;
    record.set_opened(lane.table.accepted_ms(client, record));
    record.set_upstream(None);
    Some(upstream)
}

/// Whether an event that a dead worker had taken was about an earlier attempt of this connection,
/// whose token was the same: the socket is not connected yet.
fn is_stale_event(record: &Record, upstream: Fd) -> bool {
    record.has(flag::ADOPTED) && socket::state(upstream).is_ok_and(|state| state == socket::SYN_SENT)
}

/// Why no connection to a server is begun.
enum Obstacle {
    /// It has nothing to do with the server.
    Ours(Rejection),
    /// It has.
    Servers(io::Error),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        match is_exhausted(&error) {
            true => Self::Ours(Rejection::Descriptors),
            false => Self::Servers(error),
        }
    }
}

/// Opens, records and connects the upstream socket. The record knows of it whatever goes wrong.
fn open_upstream(
    lane: &Lane,
    client: Fd,
    record: &'static Record,
    server: u32,
    now_ms: u32,
) -> Result<(), Obstacle> {
    let to =
        servers::destination(lane, server).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let upstream = {
        let _window = open_window(lane);
        let upstream = to.socket(flow_options(lane, record, to))?;
        fault::point(Point::ConnectOpened);
        let (Some(tag), Some(own)) = (lane.table.tag(upstream), lane.table.record(upstream)) else {
            close(upstream);
            return Err(Obstacle::Ours(Rejection::Descriptors));
        };
        own.facts().begin(record.opened_ms());
        own.facts().set_begun_us((time::monotonic_ns() / 1000) as u32);
        own.facts().set_header(header::plan(lane, client, record));
        own.set_owner(client, Part::Upstream);
        let unix = flag::of(flag::UNIX, Direction::Down);
        match to {
            Destination::Unix(_) => record.set(unix),
            Destination::Internet(_) => record.clear(unix),
        }
        record.set_upstream(Some(upstream));
        fault::point(Point::ConnectRecorded);
        tag.set(Tag::new(Kind::Upstream, lane.epoch));
        fault::point(Point::ConnectTagged);
        upstream
    };
    if let Destination::Internet(address) = to
        && servers::rules(lane, record).transparent
    {
        let bound = transparent::bind(upstream, record.client().ip(), address);
        bound.map_err(|_| Obstacle::Ours(Rejection::Source))?;
    }
    record.set_opened(now_ms);
    record.set_state(State::Connecting);
    fault::point(Point::ConnectBegun);
    to.connect(upstream)?;
    fault::point(Point::ConnectCalled);
    let token = Token::Upstream { client, generation: record.generation() };
    epoll::add(lane.set, upstream, epoll::FLOW, token.encode())?;
    fault::point(Point::ConnectAdded);
    Ok(())
}

/// Waits for the gate, which a sweep keeps closed for about 0.1 ms, and which opens by itself in the
/// end: a connection that is half begun cannot be put off.
fn open_window(lane: &Lane) -> Window<'static> {
    loop {
        if let Some(window) = lane.window() {
            return window;
        }
        std::thread::yield_now();
    }
}

pub(super) fn runs_out(lane: &Lane, record: &Record) -> u32 {
    record.opened_ms().wrapping_add(millis(servers::rules(lane, record).connect_timeout))
}

/// What a connection's socket to a server has.
fn flow_options(lane: &Lane, record: &Record, to: Destination) -> FlowOptions {
    let UpstreamRules { keepalive, user_timeout, congestion, .. } = *servers::rules(lane, record);
    let is_unpaced = match to {
        Destination::Internet(address) => congestion.is_unpaced(address),
        Destination::Unix(_) => false,
    };
    FlowOptions {
        keepalive,
        user_timeout,
        pacing: lane.config.rules(record.listener()).bandwidth,
        is_unpaced,
    }
}

pub(super) fn classify(error: &io::Error) -> ConnectFailure {
    match error.raw_os_error() {
        // The last two of a unix socket: its queue is full, nobody listens there.
        Some(libc::ECONNREFUSED | libc::EAGAIN | libc::ENOENT) => ConnectFailure::Refused,
        Some(libc::ETIMEDOUT) => ConnectFailure::Timeout,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN) => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}
