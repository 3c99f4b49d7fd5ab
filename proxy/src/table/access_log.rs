//! Rings of entries for the access log: one of each worker, and one of the supervisor, for what nobody else can
//! tell of any more. Their writers never wait: what does not fit is dropped and counted. Control reads them and
//! writes the lines.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Counted, Counter, Direction, Ending, Record, Table, Visit, flag, mark, octets};
use crate::{
    fault::{self, Point},
    sys::{Fd, time},
};

/// Entries of a ring.
pub const RING_ENTRIES: usize = 4096;
/// Those that connections which were turned away may fill: a flood of them leaves room for the others.
const ROOM_FOR_REFUSED: usize = RING_ENTRIES / 2;
/// Words of an entry.
const WORDS: usize = size_of::<LogEntry>() / size_of::<u64>();
/// In place of a server: there is none.
const NO_SERVER: u16 = u16::MAX;

/// What is told of a connection or flow at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LogEntry {
    /// Bytes to the server, and to the client.
    pub bytes: [u64; 2],
    /// The client's address, an IPv4 one mapped; all 0 if it is not known.
    pub client: [u8; 16],
    /// When it was accepted, or began; milliseconds of the monotonic clock, wrapping.
    pub begun_ms: u32,
    /// When it ended, the same clock.
    pub ended_ms: u32,
    /// One more than when the first byte from the server reached the client, milliseconds after it began.
    first_byte: u32,
    /// Where its record was.
    fd: i32,
    /// The record's generation.
    generation: u32,
    /// The client's port.
    pub port: u16,
    /// The number of its listener.
    pub listener: u16,
    server: u16,
    /// One more than how long connecting took, milliseconds, capped.
    connect: u16,
    /// Takeovers that it has survived.
    pub takeovers: u8,
    ending: u8,
    is_udp: u8,
    /// How often the clock has wrapped between the two times.
    laps: u8,
}

impl LogEntry {
    /// What the table says of the flow whose record is at `fd`, which ends now.
    fn of(table: &Table, fd: Fd, record: &Record) -> Self {
        let (is_udp, now_ms) = (record.has(flag::UDP), time::monotonic_ms());
        let client = table.client_of(fd, record);
        let mut entry = Self {
            client: octets(client.ip()),
            port: client.port(),
            begun_ms: record.opened_ms(),
            ended_ms: now_ms as u32,
            fd: fd.raw(),
            generation: record.generation(),
            listener: record.listener() as u16,
            server: record.server().map_or(NO_SERVER, |server| server as u16),
            takeovers: record.takeovers(),
            ending: record.ending().unwrap_or(Ending::Lost).code(),
            is_udp: is_udp.into(),
            ..Self::new_zeroed()
        };
        if is_udp {
            if let Some(facts) = table.udp_facts(fd) {
                entry.bytes = Direction::BOTH.map(|way| facts.bytes(way));
                entry.begun_ms = facts.opened_ms();
                entry.first_byte = facts.first_answer_ms().map_or(0, |time| time.saturating_add(1));
            }
        } else if let Some(facts) = table.facts(fd, record) {
            entry.bytes = Direction::BOTH.map(|way| facts.bytes(way));
            entry.begun_ms = facts.accepted_ms();
            entry.first_byte = facts.first_byte_ms().map_or(0, |time| time.saturating_add(1));
            entry.connect = facts.connect_ms().map_or(0, |time| time.saturating_add(1));
        }
        entry.laps = (record.age_ms(entry.begun_ms, now_ms) >> 32) as u8;
        entry
    }

    /// From beginning to end, milliseconds.
    pub fn duration_ms(&self) -> u64 {
        u64::from(self.laps) << 32 | u64::from(self.ended_ms.wrapping_sub(self.begun_ms))
    }

    /// The slot of its server.
    pub fn server(&self) -> Option<usize> {
        Some(self.server).filter(|server| *server != NO_SERVER).map(usize::from)
    }

    /// How long connecting to the server took, milliseconds, capped; `None` if it was not connected.
    pub fn connect_ms(&self) -> Option<u16> {
        self.connect.checked_sub(1)
    }

    /// When the first byte from the server reached the client, milliseconds after it began.
    pub fn first_byte_ms(&self) -> Option<u32> {
        self.first_byte.checked_sub(1)
    }

    /// Why it ended; `None` for what no version of this program writes.
    pub fn ending(&self) -> Option<Ending> {
        Ending::of_code(self.ending)
    }

    /// Whether it is a UDP flow.
    pub fn is_udp(&self) -> bool {
        self.is_udp != 0
    }
}

/// What its writer has counted of a ring.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct LogCounters {
    /// Entries written.
    pub entries: Counter,
    /// Entries dropped, because control had not come to those before.
    pub dropped: Counter,
}

impl Counted for LogCounters {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { entries, dropped } = self;
        visit(&["log", "entries"], entries);
        visit(&["log", "dropped"], dropped);
    }
}

/// How far a ring's writer and its reader are, each on a cache line of its own.
#[repr(C, align(128))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct LogCursor {
    /// Entries ever written.
    head: AtomicU64,
    apart: [AtomicU64; 7],
    /// Entries ever read.
    tail: AtomicU64,
}

/// An entry's words.
pub type LogCell = [AtomicU64; WORDS];

/// A ring.
#[derive(Clone, Copy)]
pub struct LogRing {
    cursor: &'static LogCursor,
    cells: &'static [LogCell],
}

impl LogRing {
    pub(super) fn new(cursor: &'static LogCursor, cells: &'static [LogCell]) -> Self {
        Self { cursor, cells }
    }

    fn cell(&self, number: u64) -> &'static LogCell {
        &self.cells[number as usize % RING_ENTRIES]
    }

    fn read(&self, number: u64) -> LogEntry {
        let cell = self.cell(number);
        let words: [u64; WORDS] = std::array::from_fn(|index| cell[index].load(Relaxed));
        zerocopy::transmute!(words)
    }

    /// Whether there is room for one more entry, of a flow that was not turned away; asked by the ring's one writer.
    pub fn has_room(&self) -> bool {
        let head = self.cursor.head.load(Relaxed);
        head.wrapping_sub(self.cursor.tail.load(Acquire)) < RING_ENTRIES as u64
    }

    /// Entries that were ever read.
    pub fn entries_read(&self) -> u64 {
        self.cursor.tail.load(Acquire)
    }

    /// Writes an entry, unless there is no room; by the ring's one writer.
    fn push(&self, entry: LogEntry, counters: &LogCounters) {
        let is_refused = matches!(entry.ending(), Some(Ending::Refused(_)));
        let room = if is_refused { ROOM_FOR_REFUSED } else { RING_ENTRIES };
        let head = self.cursor.head.load(Relaxed);
        let unread = head.wrapping_sub(self.cursor.tail.load(Acquire));
        if unread >= room as u64 {
            return counters.dropped.add(1);
        }
        let words: [u64; WORDS] = zerocopy::transmute!(entry);
        for (cell, word) in self.cell(head).iter().zip(words) {
            cell.store(word, Relaxed);
        }
        self.cursor.head.store(head.wrapping_add(1), Release);
        counters.entries.add(1);
    }

    /// The newest entry; what was not written yet is of no flow.
    fn newest(&self) -> LogEntry {
        self.read(self.cursor.head.load(Acquire).wrapping_sub(1))
    }

    /// The oldest entries that were not read, at most so many; by the ring's one reader, who says
    /// ([`Self::advance`]) when they are done with.
    pub fn unread(&self, most: usize) -> Vec<LogEntry> {
        let (head, tail) = (self.cursor.head.load(Acquire), self.cursor.tail.load(Relaxed));
        let count = head.wrapping_sub(tail);
        // More than there is room for: somebody wrote where they should not. There is nothing to be believed.
        let first = if count > RING_ENTRIES as u64 { head } else { tail };
        self.cursor.tail.store(first, Release);
        let count = head.wrapping_sub(first).min(most as u64);
        (0..count).map(|index| self.read(first.wrapping_add(index))).collect()
    }

    /// Gives the room of so many entries back to the writer.
    pub fn advance(&self, count: usize) {
        let tail = self.cursor.tail.load(Relaxed);
        self.cursor.tail.store(tail.wrapping_add(count as u64), Release);
    }
}

impl Table {
    /// A worker's ring of entries for the access log.
    pub fn log_ring(&self, seat: u32, worker: u32) -> LogRing {
        self.log_ring_at(self.lane(seat, worker))
    }

    /// The supervisor's.
    pub fn supervisors_log_ring(&self) -> LogRing {
        self.log_ring_at(self.all_workers())
    }

    /// All rings.
    pub fn log_rings(&self) -> impl Iterator<Item = LogRing> {
        (0..=self.all_workers()).map(|place| self.log_ring_at(place))
    }

    fn log_ring_at(&self, place: usize) -> LogRing {
        let cursors: &[LogCursor] = self.memory.slice(self.layout.log_cursors, self.all_workers() + 1);
        let offset = self.layout.log_cells + place * RING_ENTRIES * size_of::<LogCell>();
        LogRing::new(&cursors[place], self.memory.slice(offset, RING_ENTRIES))
    }

    /// Tells of the end of the flow whose record is at `fd`, once: see [`Self::note_told`]. By the writer of the ring.
    pub fn log_end(&self, ring: LogRing, counters: &LogCounters, fd: Fd, record: &Record) {
        if record.is_marked(mark::LOGGED) {
            return;
        }
        ring.push(LogEntry::of(self, fd, record), counters);
        fault::point(Point::LogPushed);
        record.mark(mark::LOGGED, true);
    }

    /// Notes of the flows of a dead pool that their ends were told, where their teller may have died before it did: of
    /// each ring's writer that can only be the last one. By the supervisor, before anybody else has these flows, or
    /// writes to the dead pool's rings.
    pub fn note_told(&self, epoch: u32) {
        for entry in self.log_rings().map(|ring| ring.newest()) {
            let fd = Fd::from_raw(entry.fd);
            let is_left = self.tag(fd).is_some_and(|cell| cell.get().epoch == epoch);
            let record = self.record(fd).filter(|record| is_left && record.generation() == entry.generation);
            record.into_iter().for_each(|record| record.mark(mark::LOGGED, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Dimensions, Kind, Part, Rejection, State, Tag};

    fn table() -> Table {
        let dimensions = Dimensions::SMALL;
        Table::create(dimensions).unwrap().1
    }

    /// A connection that begins at this number, with facts.
    fn connection(table: &Table, number: i32, ending: Ending) -> (Fd, &'static Record) {
        let (fd, upstream) = (Fd::from_raw(number), Fd::from_raw(number + 1));
        let record = table.record(fd).unwrap();
        record.begin(State::Established, 0, 3, 100);
        record.set_client("10.1.2.3:53".parse().unwrap());
        record.set_server(Some(9));
        let own = table.record(upstream).unwrap();
        own.set_owner(fd, Part::Upstream);
        own.facts().begin(100);
        own.facts().add_bytes(Direction::Down, 7, 130);
        own.facts().set_connect_ms(Some(2));
        record.set_upstream(Some(upstream));
        record.set_ending(ending);
        (fd, record)
    }

    #[test]
    fn an_entry_tells_what_the_table_knows() {
        let (table, counters) = (table(), LogCounters::new_zeroed());
        let (fd, record) = connection(&table, 8, Ending::Idle);
        table.log_end(table.log_ring(1, 0), &counters, fd, record);
        let [entry] = table.log_ring(1, 0).unread(9)[..] else { panic!("one entry") };
        assert_eq!((entry.bytes, entry.begun_ms, entry.port, entry.listener), ([0, 7], 100, 53, 3));
        assert_eq!((entry.server(), entry.connect_ms(), entry.first_byte_ms()), (Some(9), Some(2), Some(30)));
        assert_eq!((entry.ending(), entry.is_udp()), (Some(Ending::Idle), false));
        assert!(table.log_ring(0, 0).unread(9).is_empty());
    }

    #[test]
    fn a_connection_that_is_months_old_has_its_age() {
        let (table, counters) = (table(), LogCounters::new_zeroed());
        let (fd, record) = connection(&table, 8, Ending::Idle);
        record.set_lap(record.lap().wrapping_sub(2));
        table.log_end(table.log_ring(1, 0), &counters, fd, record);
        let [entry] = table.log_ring(1, 0).unread(9)[..] else { panic!("one entry") };
        let since = entry.ended_ms.wrapping_sub(100);
        assert_eq!(entry.duration_ms(), (2 << 32) + u64::from(since));
    }

    #[test]
    fn who_died_between_telling_and_noting_it_is_told_of_once() {
        let (table, counters) = (table(), LogCounters::new_zeroed());
        for ring in [table.log_ring(1, 0), table.supervisors_log_ring()] {
            let (fd, record) = connection(&table, 8, Ending::Idle);
            table.tag(fd).unwrap().set(Tag::new(Kind::Client, 7));
            table.log_end(ring, &counters, fd, record);
            let told = counters.entries.get();
            record.mark(mark::LOGGED, false);
            table.note_told(6);
            assert!(!record.is_marked(mark::LOGGED), "another pool's");
            table.note_told(7);
            table.log_end(table.supervisors_log_ring(), &counters, fd, record);
            assert_eq!(counters.entries.get(), told);
            // The next one at the same number is another.
            let (_, record) = connection(&table, 8, Ending::Idle);
            table.note_told(7);
            assert!(!record.is_marked(mark::LOGGED));
        }
    }

    #[test]
    fn a_full_ring_drops_and_refusals_fill_half() {
        let (table, counters) = (table(), LogCounters::new_zeroed());
        let ring = table.log_ring(0, 0);
        let push = |ending, times| {
            for _ in 0..times {
                let (fd, record) = connection(&table, 8, ending);
                table.log_end(ring, &counters, fd, record);
            }
        };
        push(Ending::Refused(Rejection::Limit), RING_ENTRIES);
        assert_eq!(counters.dropped.get(), (RING_ENTRIES / 2) as u64);
        push(Ending::ClientEnded, RING_ENTRIES);
        assert_eq!(counters.dropped.get(), RING_ENTRIES as u64);
        let mut read = 0;
        loop {
            let entries = ring.unread(1000);
            ring.advance(entries.len());
            match entries.len() {
                0 => break,
                count => read += count,
            }
        }
        assert_eq!(read, RING_ENTRIES);
        push(Ending::ClientEnded, 1);
        assert_eq!(ring.unread(9).len(), 1);
        ring.advance(1_000_000);
        assert_eq!(ring.unread(9).len(), 0, "what nobody wrote is not read");
        push(Ending::ClientEnded, 1);
        assert_eq!(ring.unread(9).len(), 1);
    }
}
