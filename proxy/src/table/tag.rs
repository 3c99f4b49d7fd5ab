//! Tags: for every descriptor number, whose it is and what for. The sweep closes what no tag names.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Release},
};

/// What a descriptor is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Nobody's.
    Free = 0,
    /// The supervisor's: listening sockets, epoll sets, bells, pidfds.
    Supervisor = 1,
    /// A TCP connection to a client. The record of the flow is at this number.
    Client = 2,
    /// A TCP connection to an upstream server; the client's record names it.
    Upstream = 3,
    /// A pipe, lent to a flow or at rest.
    Pipe = 4,
    /// A UDP flow's socket to an upstream server. The record of the flow is at this number.
    UdpFlow = 5,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_word_and_garbage_is_nobodys() {
        for kind in [Kind::Supervisor, Kind::Client, Kind::Upstream, Kind::Pipe, Kind::UdpFlow] {
            let tag = Tag::new(kind, 0xab_cdef);
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
        assert_eq!(Tag::decode(0xffff_ffff), Tag::FREE);
    }
}
