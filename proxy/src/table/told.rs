//! What PROXY headers told of flows. One cell for each descriptor number, 64 bytes, beside the record there;
//! who receives no headers touches none of them.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed},
};

use super::octets;

/// Told by a PROXY header. It is the present flow's if its record has [`super::flag::TOLD`], which is set last.
#[repr(C, align(64))]
#[derive(Debug, zerocopy::FromZeros, zerocopy::KnownLayout)]
pub struct ToldCell {
    source: [AtomicU32; 4],
    asked: [AtomicU32; 4],
    source_port: AtomicU16,
    asked_port: AtomicU16,
    taken: AtomicU32,
    rest: [AtomicU32; 6],
}

/// What is kept in an [`ToldCell`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The client, and where it connected to; `None` if the header told nothing.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// TCP: bytes of the header, which are taken off the stream.
    pub taken: u32,
}

impl ToldCell {
    /// What was told. Nonsense if the record has no [`super::flag::TOLD`].
    pub fn get(&self) -> Told {
        let source = address(&self.source, &self.source_port);
        let ends = (source, address(&self.asked, &self.asked_port));
        Told { ends: Some(ends).filter(|_| !source.ip().is_unspecified()), taken: self.taken.load(Relaxed) }
    }

    /// Writes it, before the flag. A client without an address (`0.0.0.0`) is none.
    pub fn set(&self, told: &Told) {
        let nobody = SocketAddr::from(([0; 4], 0));
        let (source, asked) = told.ends.unwrap_or((nobody, nobody));
        set_address(&self.source, &self.source_port, source);
        set_address(&self.asked, &self.asked_port, asked);
        self.taken.store(told.taken, Relaxed);
    }
}

fn address(words: &[AtomicU32; 4], port: &AtomicU16) -> SocketAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    (Ipv6Addr::from(octets).to_canonical(), port.load(Relaxed)).into()
}

fn set_address(words: &[AtomicU32; 4], port: &AtomicU16, address: SocketAddr) {
    for (bytes, word) in octets(address.ip()).as_chunks::<4>().0.iter().zip(words) {
        word.store(u32::from_ne_bytes(*bytes), Relaxed);
    }
    port.store(address.port(), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn what_was_told_comes_back() {
        assert_eq!(size_of::<ToldCell>(), 64);
        let cell = ToldCell::new_zeroed();
        for (source, asked) in [("192.0.2.7:4711", "10.0.0.1:443"), ("[2001:db8::7]:1", "[::1]:2")] {
            let ends = Some((source.parse().unwrap(), asked.parse().unwrap()));
            for told in [Told { ends, taken: 28 }, Told { ends: None, taken: 16 }] {
                cell.set(&told);
                assert_eq!(cell.get(), told);
            }
        }
    }
}
