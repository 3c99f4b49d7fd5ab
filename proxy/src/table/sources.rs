//! How many connections and flows each client has open, about: a count-min sketch (Cormode and Muthukrishnan,
//! 2005) of bounded size, however many clients there are.
//!
//! Every worker counts in rows of its own, which are cleared when it is dead; its heir counts what it adopts. A
//! client's count is the least of its cells' sums over all workers, row by row: never too low, and for 98 of 100
//! clients too high by at most three for every 32,768 connections and flows that are counted at all.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use super::octets;

const ROWS: usize = 4;
const COLUMN_BITS: u32 = 15;
const COLUMNS: usize = 1 << COLUMN_BITS;
const _: () = assert!(ROWS as u32 * COLUMN_BITS <= u64::BITS, "a row has bits of the hash of its own");

/// The sketch.
#[derive(Clone, Copy)]
pub struct Sources {
    cells: &'static [AtomicU32],
}

impl Sources {
    /// Cells of one worker.
    pub const CELLS: usize = ROWS * COLUMNS;

    /// Over the cells of all workers, one worker's after the other's; without any, nothing is counted.
    pub fn new(cells: &'static [AtomicU32]) -> Self {
        Self { cells }
    }

    /// What is hashed of a client, for a listener's group: its IPv4 address, or its IPv6 /64, for one who has that
    /// has all of its addresses.
    pub fn key(group: u32, client: IpAddr) -> [u8; 20] {
        const NETWORK: u128 = !0 << 64;
        let network = match client.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & NETWORK).octets(),
            v4 => octets(v4),
        };
        let mut key = [0; 20];
        key[..4].copy_from_slice(&group.to_le_bytes());
        key[4..].copy_from_slice(&network);
        key
    }

    /// Counts one more. Called by the worker whose lane it is.
    pub fn up(self, lane: usize, hash: u64) {
        self.change(lane, hash, |count| count.saturating_add(1));
    }

    /// Counts one less. Called by the worker whose lane it is.
    pub fn down(self, lane: usize, hash: u64) {
        self.change(lane, hash, |count| count.saturating_sub(1));
    }

    /// How many there are.
    pub fn count(self, hash: u64) -> u64 {
        let sum = |row| {
            let cells = self.cells.iter().skip(cell(row, hash)).step_by(Self::CELLS);
            cells.map(|cell| u64::from(cell.load(Relaxed))).sum()
        };
        (0..ROWS).map(sum).min().unwrap_or(0)
    }

    /// Forgets what a dead worker has counted.
    pub fn clear(self, lane: usize) {
        let cells = self.cells.iter().skip(lane * Self::CELLS).take(Self::CELLS);
        cells.for_each(|cell| cell.store(0, Relaxed));
    }

    fn change(self, lane: usize, hash: u64, by: fn(u32) -> u32) {
        for row in 0..ROWS {
            if let Some(cell) = self.cells.get(lane * Self::CELLS + cell(row, hash)) {
                cell.store(by(cell.load(Relaxed)), Relaxed);
            }
        }
    }
}

/// The place of a client's cell within a worker's.
fn cell(row: usize, hash: u64) -> usize {
    row * COLUMNS + (hash >> (row as u32 * COLUMN_BITS)) as usize % COLUMNS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(lanes: usize) -> Sources {
        let cells: Vec<_> = (0..lanes * Sources::CELLS).map(|_| AtomicU32::new(0)).collect();
        Sources::new(cells.leak())
    }

    #[test]
    fn a_client_is_an_address_or_a_slash_64() {
        let key = |group, client: &str| Sources::key(group, client.parse().unwrap());
        assert_eq!(key(1, "10.0.0.1"), key(1, "::ffff:10.0.0.1"));
        assert_ne!(key(1, "10.0.0.1"), key(1, "10.0.0.2"));
        assert_ne!(key(1, "10.0.0.1"), key(2, "10.0.0.1"));
        assert_eq!(key(1, "2001:db8::1"), key(1, "2001:db8::ffff:0:0:1"));
        assert_ne!(key(1, "2001:db8::1"), key(1, "2001:db8:0:1::1"));
        assert_ne!(key(1, "::1"), key(1, "0.0.0.1"));
    }

    #[test]
    fn workers_count_together_and_a_dead_ones_counts_go() {
        let sources = sources(3);
        for (lane, times) in [(0, 2), (2, 3)] {
            (0..times).for_each(|_| sources.up(lane, 77));
        }
        assert_eq!(sources.count(77), 5);
        sources.down(2, 77);
        sources.clear(0);
        assert_eq!(sources.count(77), 2);
        (0..9).for_each(|_| sources.down(2, 77));
        assert_eq!(sources.count(77), 0, "no less than nothing");
        sources.up(1, 77);
        assert_eq!(sources.count(77), 1);
    }

    #[test]
    fn without_cells_nothing_is_counted() {
        let sources = Sources::new(&[]);
        sources.up(0, 1);
        sources.down(5, 1);
        sources.clear(3);
        assert_eq!(sources.count(1), 0);
    }

    /// Never too low, rarely too high, and nothing is left when all have gone.
    #[test]
    fn counts_are_within_their_bound() {
        let (sources, mut random) = (sources(4), fastrand::Rng::with_seed(8));
        let clients: Vec<(u64, u64)> = (0..40_000).map(|_| (random.u64(..), random.u64(0..6))).collect();
        let lane = |hash: u64, nth: u64| ((hash + nth) % 4) as usize;
        let each = |change: fn(Sources, usize, u64)| {
            for (hash, count) in &clients {
                (0..*count).for_each(|nth| change(sources, lane(*hash, nth), *hash));
            }
        };
        each(Sources::up);
        let total: u64 = clients.iter().map(|(_, count)| count).sum();
        let over = clients.iter().map(|(hash, count)| sources.count(*hash).checked_sub(*count).unwrap());
        let over: Vec<u64> = over.collect();
        let bound = 3 * total / COLUMNS as u64;
        let beyond = over.iter().filter(|over| **over > bound).count();
        assert!(beyond * 50 < clients.len(), "{beyond} of {} are more than {bound} too high", clients.len());
        each(Sources::down);
        assert!(clients.iter().all(|(hash, _)| sources.count(*hash) == 0));
        assert!(sources.cells.iter().all(|cell| cell.load(Relaxed) == 0));
    }
}
