//! What holds bytes in flight.

use crate::sys::Fd;

/// What holds the bytes of one direction between its two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nothing is in flight.
    None,
    /// This pipe.
    Pipe(Fd),
    /// The buffer of this number ([`super::BufferCell`]): within a turn, and after a death in one.
    Buffer(u32),
}

impl Holder {
    // The top four bits are the kind.
    const KIND: u32 = 0xf000_0000;
    const PIPE: u32 = 0x1000_0000;
    const BUFFER: u32 = 0x2000_0000;

    pub(super) fn encode(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Pipe(fd) => Self::PIPE | fd.raw() as u32,
            Self::Buffer(number) => Self::BUFFER | number,
        }
    }

    pub(super) fn decode(word: u32) -> Self {
        match word & Self::KIND {
            Self::PIPE => Self::Pipe(Fd::from_raw((word & !Self::KIND) as i32)),
            Self::BUFFER => Self::Buffer(word & !Self::KIND),
            _ => Self::None,
        }
    }
}
