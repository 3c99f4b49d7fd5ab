//! Beginning, finding and ending flows.
//!
//! Everything about a flow is in the flow table, where every worker finds it by its key
//! ([`crate::table::Index`]). Its owner alone ends it.

use std::io;

use super::{
    fault,
    hold::{self, Held},
    key::Key,
    room::Room,
};
use crate::{
    config::Listener,
    fault::{self as faults, Point},
    relay::{
        Lane, admission,
        balance::Choice,
        chooser::{Chooser, Seeker},
        servers,
        token::Token,
    },
    sys::{Fd, epoll, fd::close, socket, transparent},
    table::{
        ConnectFailure, Direction, DrainState, DropReason, Ending, Entering, Entry, Found, Kind, Record,
        State, Table, Tag, Told, flag,
    },
};

/// Looks at the index for a flow, which may end each time before it can be used.
const LOOKS: usize = 3;

/// What one worker remembers of the flows that it owns.
pub struct Flows {
    chooser: Chooser,
    /// Sockets of flows that have ended and that another worker was using at that moment.
    closing: Vec<Fd>,
    room: Room,
}

impl Default for Flows {
    fn default() -> Self {
        Self { chooser: Chooser::new(fastrand::Rng::new()), closing: Vec::new(), room: Room::default() }
    }
}

impl Flows {
    /// Begins the flow of a key, for which none was found. To be called inside the opening window.
    ///
    /// # Errors
    /// Why the datagrams are dropped. Where nothing may begin ([`is_ending`]), as if no server were up.
    pub fn begin(&mut self, lane: &Lane, (key, hash): (&Key, u64), now_ms: u32) -> Result<Held, DropReason> {
        if is_ending(lane, key.listener) {
            return Err(DropReason::Upstream);
        }
        admission::allow(lane, key.listener, key.source().ip(), 0)?;
        if !self.room.has_place(lane, now_ms) && !self.make_room(lane, now_ms) {
            return Err(DropReason::Limit);
        }
        // Last, so that what is dropped for another reason uses up nothing. What was ended in vain leaves its room.
        admission::take_turn(lane, key.listener)?;
        match self.begin_at_a_server(lane, (key, hash), now_ms) {
            // The process has none left, or there is no local port left.
            Err(DropReason::Descriptors) if self.make_room(lane, now_ms) => {
                self.begin_at_a_server(lane, (key, hash), now_ms)
            }
            result => result,
        }
    }

    /// Ends a flow that may be ended, if there is one, and answers whether.
    fn make_room(&mut self, lane: &Lane, now_ms: u32) -> bool {
        let next = self.room.next(lane, now_ms);
        next.into_iter().for_each(|(fd, why)| self.end(lane, fd, why));
        next.is_some()
    }

    /// Whether a flow of this worker is to make room although nobody has asked for it yet.
    pub fn is_due(&mut self, lane: &Lane, fd: Fd, record: &Record, now_ms: u32) -> bool {
        self.room.is_due(lane, fd, record, now_ms)
    }

    fn begin_at_a_server(
        &mut self,
        lane: &Lane,
        (key, hash): (&Key, u64),
        now_ms: u32,
    ) -> Result<Held, DropReason> {
        let upstream = lane.config.upstream_of(key.listener).ok_or(DropReason::Upstream)?;
        let mut seeker = Seeker { upstream, client: key.source().ip(), tried: 0 };
        for _ in 0..=upstream.1.rules.retries {
            let server = match self.chooser.choose(lane, &seeker, now_ms) {
                Choice::Server(server) => server,
                Choice::Full => return Err(DropReason::ServersFull),
                Choice::None => return Err(DropReason::Upstream),
            };
            match open(lane, *key, server, now_ms) {
                Ok(entry) => return self.enter(lane, (key, hash), entry, server),
                Err(Obstacle::Ours(reason)) => return Err(reason),
                Err(Obstacle::Servers(error)) => {
                    let failure = match fault::Fault::of(&error) {
                        fault::Fault::Server(failure) => failure,
                        _ => ConnectFailure::Other,
                    };
                    note_failure(lane, server, failure, now_ms);
                    seeker.tried |= 1 << servers::tried_number(lane, server);
                }
            }
        }
        Err(DropReason::Upstream)
    }

    /// Makes what was opened the flow of its key, unless another worker was faster.
    fn enter(
        &mut self,
        lane: &Lane,
        (key, hash): (&Key, u64),
        entry: Entry,
        server: u32,
    ) -> Result<Held, DropReason> {
        let flow = match enter(lane, (key, hash), entry) {
            Entering::Entered => {
                faults::point(Point::UdpEntered);
                count(lane, key, Some(server));
                lane.listener(key.listener).accepted.add(1);
                lane.server(server).connections.add(1);
                return Held::take(lane, entry).ok_or(DropReason::Upstream);
            }
            Entering::Taken(flow) => Ok(flow),
            Entering::Full => Err(DropReason::Limit),
            Entering::Contended => Err(DropReason::Congestion),
        };
        self.close(lane, entry);
        Held::take(lane, flow?).ok_or(DropReason::Congestion)
    }

    /// Takes over a recorded flow of a dead worker, whose tag is this one's by now. The index names it
    /// already, unless its worker died in the very moment that it began; if another flow has its key by
    /// then, it passes on answers until it is idle.
    pub fn adopt(&mut self, lane: &Lane, fd: Fd, record: &Record) {
        let key = Key::recorded(&lane.table, fd, record);
        record.set_takeovers(record.takeovers().saturating_add(1));
        count(lane, &key, record.server());
        // Its owner may have died before it could.
        hold::join_answers(lane, fd);
        let entry = Entry { fd, generation: record.generation() };
        enter(lane, (&key, hash(&lane.table, &key)), entry);
    }

    /// Ends a flow of this worker and closes its socket, now or as soon as nobody uses it. The first reason
    /// counts, should the worker die in the middle: then its heir ends the flow ([`Record::ending`]).
    pub fn end(&mut self, lane: &Lane, fd: Fd, why: Ending) {
        let Some(record) = lane.table.record(fd) else { return };
        let why = record.ending().unwrap_or(why);
        record.set_ending(why);
        lane.listener(record.listener()).expire(why);
        lane.log_end(fd, record);
        let key = Key::recorded(&lane.table, fd, record);
        lane.block().udp_flows.down();
        lane.count_closed(key.listener);
        admission::uncount_source(lane, key.listener, key.source().ip());
        if let Some(server) = record.server() {
            lane.server(server).open.down();
        }
        let entry = Entry { fd, generation: record.generation() };
        lane.table.index().remove(hash(&lane.table, &key), entry);
        faults::point(Point::UdpRemoved);
        self.close(lane, entry);
    }

    /// Ends a flow because its server does not take datagrams; the next datagram begins a new one,
    /// to another server if there is one. Another worker's flow is passed by from now on, and ended by
    /// its owner.
    pub fn fail(&mut self, lane: &Lane, flow: &Held, failure: ConnectFailure, now_ms: u32) {
        if let Some(server) = flow.record.server() {
            note_failure(lane, server, failure, now_ms);
        }
        self.finish(lane, flow, Ending::ServerFailed);
    }

    /// Ends a flow, or has its owner do it: nobody uses it from now on.
    pub fn finish(&mut self, lane: &Lane, flow: &Held, why: Ending) {
        if flow.is_own() {
            return self.end(lane, flow.fd, why);
        }
        flow.record.set_shared(flag::FAILED);
        hold::unwatch(lane, Entry { fd: flow.fd, generation: flow.record.generation() });
    }

    /// Closes what was in use, and sees how much room is left.
    pub fn tick(&mut self, lane: &Lane) {
        self.room.tick(lane);
        self.closing.extract_if(.., |fd| !lane.table.is_used(*fd)).for_each(|fd| lane.close(fd));
    }

    fn close(&mut self, lane: &Lane, entry: Entry) {
        if let Some(record) = lane.table.record(entry.fd) {
            record.set_state(State::Free);
        }
        faults::point(Point::UdpFreed);
        if lane.table.is_used(entry.fd) {
            hold::unwatch(lane, entry);
            self.closing.push(entry.fd);
        } else {
            lane.close(entry.fd);
        }
    }
}

/// Whether the index names this flow as the one of its key.
pub fn is_indexed(table: &Table, fd: Fd, record: &Record) -> bool {
    let entry = Entry { fd, generation: record.generation() };
    let hash = hash(table, &Key::recorded(table, fd, record));
    table.index().find(hash, |other| other == entry).is_some()
}

/// The flow of a key, and of its hash ([`hash`]); `None` if there is none.
pub fn find(lane: &Lane, (key, hash): (&Key, u64)) -> Option<Held> {
    let is_wanted = |entry| hold::judge(lane, key, entry) == Found::Wanted;
    let find = || lane.table.index().find(hash, is_wanted);
    (0..LOOKS).map_while(|_| find()).find_map(|entry| Held::take(lane, entry))
}

/// By what the flow index finds a key.
pub fn hash(table: &Table, key: &Key) -> u64 {
    table.index().hash(&key.bytes())
}

fn enter(lane: &Lane, (key, hash): (&Key, u64), entry: Entry) -> Entering {
    lane.table.index().enter(hash, entry, |other| hold::judge(lane, key, other))
}

fn count(lane: &Lane, key: &Key, server: Option<u32>) {
    lane.block().udp_flows.up();
    lane.count_open(key.listener);
    admission::count_source(lane, key.listener, key.source().ip());
    if let Some(server) = server {
        lane.server(server).open.up();
    }
}

/// Whether a flow has had all answers that its client's datagrams have asked for, if its listener counts them.
pub fn is_answered(lane: &Lane, fd: Fd, record: &Record) -> bool {
    let each = lane.config.rules(record.listener()).udp_responses;
    each.zip(lane.table.udp_facts(fd)).is_some_and(|(each, facts)| {
        let asked = facts.datagrams(Direction::Up).wrapping_mul(each);
        // The counts wrap.
        asked.wrapping_sub(facts.datagrams(Direction::Down)) as i32 <= 0
    })
}

/// Whether no new flow may begin at a listener: the proxy drains, or the settings name it no more.
pub fn is_ending(lane: &Lane, listener: u32) -> bool {
    let is_retired = |settings: &Listener| settings.is_retired;
    lane.table.supervisor().drain() != DrainState::No
        || lane.config.listeners.get(listener as usize).is_some_and(is_retired)
}

/// Why a flow is not begun.
enum Obstacle {
    /// It has nothing to do with the server.
    Ours(DropReason),
    /// It has.
    Servers(io::Error),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        match fault::is_exhausted(&error) {
            true => Self::Ours(DropReason::Descriptors),
            false => Self::Servers(error),
        }
    }
}

/// Opens a flow's socket. The tag comes last: what has one is whole, what has none is swept.
fn open(lane: &Lane, key: Key, server: u32, now_ms: u32) -> Result<Entry, Obstacle> {
    let address =
        servers::address(lane, server).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let fd = socket::datagram(address)?;
    faults::point(Point::UdpOpened);
    let result = (|| {
        let out_of_range = || Obstacle::Ours(DropReason::Descriptors);
        let record = lane.table.record(fd).ok_or_else(out_of_range)?;
        let tag = lane.table.tag(fd).ok_or_else(out_of_range)?;
        if lane.config.upstream_rules(key.listener).transparent {
            let bound = transparent::bind(fd, key.source().ip(), address);
            bound.map_err(|_| Obstacle::Ours(DropReason::Source))?;
        }
        socket::connect(fd, address)?;
        lane.table.udp_facts(fd).into_iter().for_each(|facts| facts.begin(now_ms));
        record.begin(State::Established, lane.worker, key.listener, now_ms);
        record.set_udp(key.client, key.local);
        if key.told.is_some() {
            lane.table.set_told(fd, &Told { ends: key.told, taken: 0 });
        }
        record.set_server(Some(server));
        faults::point(Point::UdpRecorded);
        let generation = record.generation();
        let token = Token::UdpFlow { fd, generation };
        epoll::add(lane.set, fd, epoll::IN | epoll::ERR, token.encode())
            .inspect_err(|_| record.set_state(State::Free))?;
        faults::point(Point::UdpAdded);
        tag.set(Tag::new(Kind::UdpFlow, lane.epoch));
        faults::point(Point::UdpTagged);
        Ok(Entry { fd, generation })
    })();
    result.inspect_err(|_| close(fd))
}

/// Moves a flow's registration from dead workers' epoll sets to this worker's own.
pub fn migrate(lane: &Lane, fd: Fd, from: &[Fd]) {
    let is_own = |record: &&'static Record| record.worker() == lane.worker;
    let Some(record) = lane.table.record(fd).filter(is_own) else { return };
    let token = Token::UdpFlow { fd, generation: record.generation() };
    let mask = epoll::IN | epoll::ERR;
    if epoll::add(lane.set, fd, mask, token.encode()).is_err() {
        // It is there already, since this worker has watched another's flow: with its record's generation then.
        epoll::modify(lane.set, fd, mask, token.encode());
    }
    from.iter().for_each(|set| epoll::remove(*set, fd));
}

fn note_failure(lane: &Lane, server: u32, failure: ConnectFailure, now_ms: u32) {
    lane.server(server).failures[failure as usize].add(1);
    servers::note_failure(lane, server, now_ms);
}
