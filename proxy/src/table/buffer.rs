//! What is in a worker's buffer.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use zerocopy::{FromZeros, KnownLayout};

use super::{Direction, Holder, Part, Table, record::owner};
use crate::sys::Fd;

/// Buffers of a worker. It uses one; the others are there for what its predecessors left in theirs.
pub const BUFFERS: usize = 4;

/// Whose bytes are in a buffer, and how many were read into it. Written by the worker whose it is.
///
/// The order is what makes a death harmless: reserved, then named as the holder, then filled by the kernel, then noted.
/// What was not noted was not sent either.
#[repr(transparent)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct BufferCell(AtomicU64);

impl BufferCell {
    /// Of one direction of a connection, and empty.
    pub fn reserve(&self, client: Fd, direction: Direction) {
        self.note(client, direction, 0);
    }

    /// So many bytes are in it.
    pub fn note(&self, client: Fd, direction: Direction, count: usize) {
        let owner = u64::from(owner(client, Part::Pipe(direction)));
        self.0.store(owner << 32 | count as u64 & u64::from(u32::MAX), Release);
    }

    /// How many bytes were noted, if it is this direction's of that connection.
    pub fn noted(&self, client: Fd, direction: Direction) -> Option<usize> {
        let word = self.0.load(Acquire);
        let is_its = word >> 32 == u64::from(owner(client, Part::Pipe(direction)));
        is_its.then_some((word & u64::from(u32::MAX)) as usize)
    }

    /// Whose it is.
    fn user(&self) -> (Fd, Direction) {
        let owner = (self.0.load(Acquire) >> 32) as u32;
        let direction = if owner & 1 == 0 { Direction::Up } else { Direction::Down };
        (Fd::from_raw((owner >> 2) as i32), direction)
    }
}

impl Table {
    /// A buffer by its number; `None` if there is none of that number.
    pub fn buffer(&self, number: u32) -> Option<&'static BufferCell> {
        let (lane, index) = (number as usize / BUFFERS, number as usize % BUFFERS);
        let (seat, worker) = (lane / self.dimensions().workers, lane % self.dimensions().workers);
        (seat < proxy_common::lease::SEATS).then(|| &self.worker(seat as u32, worker as u32).buffers[index])
    }

    /// The first buffer of a worker that holds nothing, by its number. (One of a dead predecessor's may.)
    pub fn free_buffer(&self, seat: u32, worker: u32) -> Option<u32> {
        let first = (self.lane(seat, worker) * BUFFERS) as u32;
        (first..first + BUFFERS as u32).find(|number| !self.is_holder(*number))
    }

    /// Whether any buffer holds something. Between two turns: only what a dead worker has left, and its heir could not
    /// pass on or pour into a pipe yet.
    pub fn has_held_buffers(&self) -> bool {
        let all = proxy_common::lease::SEATS * self.dimensions().workers * BUFFERS;
        (0..all as u32).any(|number| self.is_holder(number))
    }

    fn is_holder(&self, number: u32) -> bool {
        let Some((client, direction)) = self.buffer(number).map(BufferCell::user) else { return true };
        self.record(client).is_some_and(|record| record.holder(direction) == Holder::Buffer(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Dimensions;

    #[test]
    fn what_is_held_is_not_free() {
        let (_, table) = Table::create(Dimensions { workers: 2, ..Dimensions::SMALL }).unwrap();
        let first = table.free_buffer(1, 1).unwrap();
        assert_eq!(first as usize, 3 * BUFFERS);
        let (client, cell) = (Fd::from_raw(9), table.buffer(first).unwrap());
        cell.reserve(client, Direction::Down);
        assert_eq!(table.free_buffer(1, 1), Some(first), "reserved, and not named yet");
        table.record(client).unwrap().set_holder(Direction::Down, Holder::Buffer(first));
        cell.note(client, Direction::Down, 77);
        assert_eq!(table.free_buffer(1, 1), Some(first + 1));
        assert!(table.has_held_buffers());
        assert_eq!(cell.noted(client, Direction::Down), Some(77));
        assert_eq!(cell.noted(client, Direction::Up), None);
        assert_eq!(cell.noted(Fd::from_raw(8), Direction::Down), None);
        table.record(client).unwrap().set_holder(Direction::Down, Holder::None);
        assert_eq!(table.free_buffer(1, 1), Some(first));
        assert!(!table.has_held_buffers());
        assert!(table.buffer(4 * BUFFERS as u32).is_none());
    }
}
