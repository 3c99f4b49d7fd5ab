//! What is told of a connection or flow: bytes and times. Of a TCP connection they are at the number of its
//! upstream socket, whose record is no flow's; of a UDP flow in an array of their own, for its record is full.

use std::{
    net::SocketAddr,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use zerocopy::{FromZeros, KnownLayout};

use super::{Direction, Part, Record, Table, flag};
use crate::sys::Fd;

/// Words of the body of the record at an upstream socket's number, but for the last one, which says whose it is.
mod word {
    pub const BYTES: usize = 0;
    pub const ACCEPTED: usize = 4;
    pub const CONNECT: usize = 5;
    pub const FIRST_BYTE: usize = 6;
    pub const HEADER: usize = 7;
    pub const BEGUN: usize = 8;
    pub const COUNT: usize = 9;
}

/// Facts of a TCP connection. Written by its owner.
#[derive(Clone, Copy)]
pub struct Facts<'a>(&'a [AtomicU32]);

impl Record {
    /// At the number of an upstream socket: the facts of its connection.
    pub fn facts(&self) -> Facts<'_> {
        Facts(&self.body()[..word::COUNT])
    }
}

impl Table {
    /// The facts of the TCP connection at `client`; `None` if it has no upstream socket (yet).
    pub fn facts(&self, client: Fd, record: &Record) -> Option<Facts<'static>> {
        let own = self.record(record.upstream()?)?;
        own.is_owned_by(client, Part::Upstream).then(|| own.facts())
    }

    /// The client of the flow whose record is at `fd`: the one that a PROXY header told of, else the peer.
    pub fn client_of(&self, fd: Fd, record: &Record) -> SocketAddr {
        if !record.has(flag::UDP) {
            return record.client();
        }
        let told = self.told(fd).and_then(|told| told.ends);
        told.map_or_else(|| record.udp_client(), |(source, _)| source)
    }

    /// When the TCP connection at `client` was accepted, milliseconds of the monotonic clock, wrapping.
    pub fn accepted_ms(&self, client: Fd, record: &Record) -> u32 {
        self.facts(client, record).map_or_else(|| record.opened_ms(), |facts| facts.accepted_ms())
    }
}

impl Facts<'_> {
    /// Begins them for a connection that was accepted then, milliseconds of the monotonic clock, wrapping.
    pub fn begin(&self, accepted_ms: u32) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
        self.0[word::ACCEPTED].store(accepted_ms, Release);
    }

    /// Notes when its connect began, microseconds of the monotonic clock, wrapping after 71 minutes.
    pub fn set_begun_us(&self, begun_us: u32) {
        self.0[word::BEGUN].store(begun_us.max(1), Relaxed);
    }

    /// When its connect began; `None`: under another supervisor.
    pub fn begun_us(&self) -> Option<u32> {
        Some(self.0[word::BEGUN].load(Relaxed)).filter(|begun_us| *begun_us > 0)
    }

    /// When the connection was accepted.
    pub fn accepted_ms(&self) -> u32 {
        self.0[word::ACCEPTED].load(Acquire)
    }

    /// Bytes that have reached the server (up), or the client (down), without a PROXY header of ours. (Two
    /// words: who is not their writer may read one too late, every 4 GiB.)
    pub fn bytes(&self, direction: Direction) -> u64 {
        let word =
            |index: usize| u64::from(self.0[word::BYTES + 2 * direction as usize + index].load(Relaxed));
        word(0) | word(1) << 32
    }

    /// Sets them.
    pub fn set_bytes(&self, direction: Direction, bytes: u64) {
        for index in 0..2 {
            let word = (bytes >> (32 * index)) as u32;
            self.0[word::BYTES + 2 * direction as usize + index].store(word, Relaxed);
        }
    }

    /// Adds to them. The first from the server are noted with their time.
    pub fn add_bytes(&self, direction: Direction, bytes: usize, now_ms: u32) {
        if bytes == 0 {
            return;
        }
        self.set_bytes(direction, self.bytes(direction).wrapping_add(bytes as u64));
        if direction == Direction::Down && self.0[word::FIRST_BYTE].load(Relaxed) == 0 {
            self.set_first_byte_ms(Some(now_ms.wrapping_sub(self.accepted_ms())));
        }
    }

    /// How long connecting to the server took, milliseconds, capped; `None` while it is not connected.
    pub fn connect_ms(&self) -> Option<u16> {
        self.0[word::CONNECT].load(Relaxed).checked_sub(1).map(|time| time as u16)
    }

    /// Sets it.
    pub fn set_connect_ms(&self, time: Option<u32>) {
        let word = time.map_or(0, |time| time.min(u32::from(u16::MAX)) + 1);
        self.0[word::CONNECT].store(word, Relaxed);
    }

    /// When the first byte from the server reached the client, milliseconds after the connection was accepted.
    pub fn first_byte_ms(&self) -> Option<u32> {
        self.0[word::FIRST_BYTE].load(Relaxed).checked_sub(1)
    }

    /// Sets it.
    pub fn set_first_byte_ms(&self, time: Option<u32>) {
        self.0[word::FIRST_BYTE].store(time.map_or(0, |time| time.saturating_add(1)), Relaxed);
    }

    /// Version and bytes of the PROXY header that the server is sent before the client's bytes; 0 bytes: none.
    pub fn header(&self) -> (u16, u16) {
        ((self.header_word() >> 16) as u16, self.header_word() as u16)
    }

    /// Sets it, before the first byte is sent.
    pub fn set_header(&self, (version, bytes): (u16, u16)) {
        self.set_header_word(u32::from(version) << 16 | u32::from(bytes));
    }

    /// [`Self::header`] as one word.
    pub fn header_word(&self) -> u32 {
        self.0[word::HEADER].load(Acquire)
    }

    /// Sets it.
    pub fn set_header_word(&self, word: u32) {
        self.0[word::HEADER].store(word, Release);
    }
}

/// Facts of a UDP flow, by the number of its socket. Any worker may send by a flow, so several may add.
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct UdpFacts {
    bytes: [AtomicU64; 2],
    datagrams: [AtomicU32; 2],
    opened_ms: AtomicU32,
    first_answer: AtomicU32,
}

impl UdpFacts {
    /// Begins them for a flow that begins now, milliseconds of the monotonic clock, wrapping.
    pub fn begin(&self, now_ms: u32) {
        self.bytes.iter().for_each(|word| word.store(0, Relaxed));
        self.datagrams.iter().for_each(|word| word.store(0, Relaxed));
        self.first_answer.store(0, Relaxed);
        self.opened_ms.store(now_ms, Release);
    }

    /// When the flow began.
    pub fn opened_ms(&self) -> u32 {
        self.opened_ms.load(Acquire)
    }

    /// Bytes sent on to the server (up), or the client (down).
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Relaxed)
    }

    /// Datagrams, likewise; wrapping.
    pub fn datagrams(&self, direction: Direction) -> u32 {
        self.datagrams[direction as usize].load(Relaxed)
    }

    /// Adds to both, and answers how many datagrams there were before: of several that add, one has met each count.
    /// The first from the server are noted with their time.
    pub fn add(&self, direction: Direction, bytes: u64, datagrams: u64, now_ms: u32) -> u32 {
        if datagrams == 0 {
            return self.datagrams(direction);
        }
        self.bytes[direction as usize].fetch_add(bytes, Relaxed);
        let before = self.datagrams[direction as usize].fetch_add(datagrams as u32, Relaxed);
        if direction == Direction::Down && self.first_answer.load(Relaxed) == 0 {
            self.set_first_answer_ms(Some(now_ms.wrapping_sub(self.opened_ms())));
        }
        before
    }

    /// When the first answer went to the client, milliseconds after the flow began.
    pub fn first_answer_ms(&self) -> Option<u32> {
        self.first_answer.load(Relaxed).checked_sub(1)
    }

    /// Sets it.
    pub fn set_first_answer_ms(&self, time: Option<u32>) {
        self.first_answer.store(time.map_or(0, |time| time.saturating_add(1)), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_begin_anew_and_leave_the_owner_alone() {
        let (record, client) = (Record::new_zeroed(), Fd::from_raw(7));
        record.set_owner(client, Part::Upstream);
        record.facts().set_header((2, 28));
        record.facts().begin(100);
        let facts = record.facts();
        facts.add_bytes(Direction::Up, usize::MAX, 150);
        assert_eq!((facts.first_byte_ms(), facts.connect_ms()), (None, None));
        facts.add_bytes(Direction::Down, 5, 160);
        facts.add_bytes(Direction::Down, 5, 170);
        facts.set_connect_ms(Some(70_000));
        assert_eq!((facts.bytes(Direction::Up), facts.bytes(Direction::Down)), (u64::MAX, 10));
        assert_eq!((facts.first_byte_ms(), facts.connect_ms()), (Some(60), Some(u16::MAX)));
        assert_eq!((facts.accepted_ms(), facts.header()), (100, (0, 0)));
        assert!(record.is_owned_by(client, Part::Upstream));
    }

    #[test]
    fn a_flow_s_first_answer_has_its_time() {
        let facts = UdpFacts::new_zeroed();
        facts.begin(u32::MAX);
        facts.add(Direction::Up, 10, 1, 5);
        assert_eq!(facts.add(Direction::Down, 30, 2, 9), 0);
        assert_eq!(facts.add(Direction::Down, 0, 0, 12), 2);
        assert_eq!((facts.bytes(Direction::Down), facts.datagrams(Direction::Down)), (30, 2));
        assert_eq!((facts.bytes(Direction::Up), facts.first_answer_ms()), (10, Some(10)));
        assert_eq!(size_of::<UdpFacts>(), 32);
    }
}
