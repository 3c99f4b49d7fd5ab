//! What a worker's epoll set tells it of a ready descriptor: the 64 bits registered with it.

use crate::sys::Fd;

/// What is ready. The number of a descriptor is reused at once, so flows carry the generation of
/// their record; who reads an event compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The listening socket of this slot ([`proxy_common::slot`]).
    Listener(u32),
    /// The connection to a client.
    Client {
        /// Its descriptor, where the flow's record is.
        fd: Fd,
        /// The record's generation.
        generation: u32,
    },
    /// The connection to an upstream server.
    Upstream {
        /// The client's descriptor, where the flow's record is.
        client: Fd,
        /// The record's generation.
        generation: u32,
    },
    /// A UDP flow's socket.
    UdpFlow {
        /// Its descriptor, where the flow's record is.
        fd: Fd,
        /// The record's generation.
        generation: u32,
    },
    /// The worker's bell.
    Bell,
}

// From the top: generation (32 bits), kind (4), slot or descriptor number (28).
const INDEX_BITS: u32 = 28;
const INDEX: u32 = (1 << INDEX_BITS) - 1;

impl Token {
    /// The 64 bits. Slots and descriptor numbers are below 2^28: the kernel has no more than 2^20
    /// descriptors per process unless `fs.nr_open` was raised, and the flow table no room for them.
    pub fn encode(self) -> u64 {
        let (kind, index, generation) = match self {
            Self::Listener(slot) => (1, slot, 0),
            Self::Client { fd, generation } => (2, fd.raw() as u32, generation),
            Self::Upstream { client, generation } => (3, client.raw() as u32, generation),
            Self::UdpFlow { fd, generation } => (4, fd.raw() as u32, generation),
            Self::Bell => (5, 0, 0),
        };
        u64::from(generation) << 32 | u64::from(kind << INDEX_BITS | index & INDEX)
    }

    /// The token of 64 bits; `None` for bits that [`Self::encode`] never gives.
    pub fn decode(bits: u64) -> Option<Self> {
        let generation = (bits >> 32) as u32;
        let index = bits as u32 & INDEX;
        let fd = Fd::from_raw(index as i32);
        Some(match bits as u32 >> INDEX_BITS {
            1 => Self::Listener(index),
            2 => Self::Client { fd, generation },
            3 => Self::Upstream { client: fd, generation },
            4 => Self::UdpFlow { fd, generation },
            5 => Self::Bell,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_bits_and_garbage_is_none() {
        let (fd, generation) = (Fd::from_raw(0x0fff_fffe), 0xffff_fffd);
        let tokens = [
            Token::Listener(0x0fff_ffff),
            Token::Client { fd, generation },
            Token::Upstream { client: fd, generation },
            Token::UdpFlow { fd, generation },
            Token::Bell,
        ];
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(0), None);
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn the_layout_is_fixed_for_sets_outlive_pools() {
        let token = Token::UdpFlow { fd: Fd::from_raw(7), generation: 9 };
        assert_eq!(token.encode(), 9 << 32 | 4 << 28 | 7);
    }
}
