//! Tags: for every descriptor number, whose it is and what for. The sweep closes what no tag names.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::fault::{self, Point};

/// What a descriptor is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Nobody's.
    Free = 0,
    /// The supervisor's, since its start: listening sockets, maps, the control socket. (What it opens
    /// later has no tag and needs none, being neither socket nor pipe: epoll sets, bells, pidfds.)
    Supervisor = 1,
    /// A TCP connection to a client. The record of the flow is at this number.
    Client = 2,
    /// A TCP connection to an upstream server; the client's record names it.
    Upstream = 3,
    /// A pipe, lent to a flow or at rest.
    Pipe = 4,
    /// A UDP flow's socket to an upstream server. The record of the flow is at this number.
    UdpFlow = 5,
    /// Being closed by the worker whose number is in the low six bits ([`TagCell::close_with`]).
    Closing = 0x40,
}

/// A kind and the epoch of the pool that owns the descriptor (0: the supervisor).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What for.
    pub kind: Kind,
    /// Whose, 24 bits.
    pub epoch: u32,
}

impl Tag {
    /// Nobody's.
    pub const FREE: Self = Self { kind: Kind::Free, epoch: 0 };
    /// The supervisor's.
    pub const SUPERVISOR: Self = Self { kind: Kind::Supervisor, epoch: 0 };

    /// A pool's.
    pub const fn new(kind: Kind, epoch: u32) -> Self {
        Self { kind, epoch: epoch & 0xff_ffff }
    }

    fn encode(self) -> u32 {
        self.epoch << 8 | self.kind as u32
    }

    /// A word that is no tag (a wild write) reads as nobody's.
    fn decode(word: u32) -> Self {
        let kind = match word & 0xff {
            1 => Kind::Supervisor,
            2 => Kind::Client,
            3 => Kind::Upstream,
            4 => Kind::Pipe,
            5 => Kind::UdpFlow,
            0x40..0x80 => Kind::Closing,
            _ => return Self::FREE,
        };
        Self { kind, epoch: word >> 8 }
    }
}

/// A tag in the table.
#[repr(transparent)]
#[derive(Debug, zerocopy::FromZeros, zerocopy::KnownLayout)]
pub struct TagCell(AtomicU32);

impl TagCell {
    /// The tag.
    pub fn get(&self) -> Tag {
        Tag::decode(self.0.load(Acquire))
    }

    /// Sets the tag, after everything that was written before.
    pub fn set(&self, tag: Tag) {
        self.0.store(tag.encode(), Release);
    }

    /// Closes the descriptor, which a worker owns, by `close`.
    ///
    /// The number may not look like nobody's before it is closed, or a sweep at that moment would
    /// close it too, and one of the two would hit whoever has got the number since. After the
    /// close it may be somebody else's, whose tag must stay.
    pub fn close_with(&self, epoch: u32, worker: u32, close: impl FnOnce()) {
        let closing = Tag::new(Kind::Closing, epoch).encode() | worker & 0x3f;
        self.0.store(closing, Release);
        fault::point(Point::CloseTagged);
        close();
        fault::point(Point::CloseClosed);
        // Failing means that it is somebody else's.
        let _ = self.0.compare_exchange(closing, Tag::FREE.encode(), AcqRel, Relaxed);
    }

    /// Forgets that a pool, now dead, was closing the descriptor. Whether it has, and whose the
    /// number is then, is not known.
    pub fn forget_closing(&self, epoch: u32) {
        let word = self.0.load(Acquire);
        if Tag::decode(word) == Tag::new(Kind::Closing, epoch) {
            let _ = self.0.compare_exchange(word, Tag::FREE.encode(), AcqRel, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn tags_survive_the_word_and_garbage_is_nobodys() {
        for kind in [Kind::Supervisor, Kind::Client, Kind::Upstream, Kind::Pipe, Kind::UdpFlow] {
            let tag = Tag::new(kind, 0xab_cdef);
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
        assert_eq!(Tag::decode(0xffff_ffff), Tag::FREE);
    }

    #[test]
    fn a_number_is_nobodys_only_after_its_close() {
        let cell = TagCell::new_zeroed();
        cell.set(Tag::new(Kind::Client, 7));
        cell.close_with(7, 63, || assert_eq!(cell.get(), Tag::new(Kind::Closing, 7)));
        assert_eq!(cell.get(), Tag::FREE);
    }

    #[test]
    fn the_tag_of_who_got_the_number_stays() {
        let (cell, next) = (TagCell::new_zeroed(), Tag::new(Kind::Upstream, 7));
        cell.close_with(7, 1, || cell.set(next));
        assert_eq!(cell.get(), next);
        // Another worker of the same pool got it and is closing it in its turn.
        cell.close_with(7, 1, || {
            cell.0.store(Tag::new(Kind::Closing, 7).encode() | 2, Release);
        });
        assert_eq!(cell.get(), Tag::new(Kind::Closing, 7));
        cell.forget_closing(8);
        assert_ne!(cell.get(), Tag::FREE);
        cell.forget_closing(7);
        assert_eq!(cell.get(), Tag::FREE);
        cell.set(next);
        cell.forget_closing(7);
        assert_eq!(cell.get(), next);
    }
}
