//! Using a socket that another worker owns, and closing one that others may be using.
//!
//! A descriptor number is reused at once, so a send by a number that its owner closes meanwhile would
//! go out by somebody else's socket. A worker therefore says which number it uses and THEN looks again
//! whether the flow is there; who ends a flow says that it is gone and THEN looks whether anybody uses it
//! (Dekker: both sides store and then load, sequentially consistent). A worker that dies is made to use
//! nothing by the supervisor.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Release, SeqCst},
    fence,
};

use super::Table;
use crate::sys::Fd;
use proxy_common::lease::SEATS;

/// While it lives, the descriptor is not closed if it was open and its flow established after it was
/// declared. A worker can use one at a time.
pub struct Using<'a>(&'a AtomicU32);

impl<'a> Using<'a> {
    /// Says in a worker's word that it uses a descriptor.
    pub fn declare(word: &'a AtomicU32, fd: Fd) -> Self {
        word.store(encode(fd), SeqCst);
        fence(SeqCst);
        Self(word)
    }
}

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.store(0, Release);
    }
}

fn encode(fd: Fd) -> u32 {
    fd.raw() as u32 + 1
}

impl Table {
    /// Whether any worker uses a descriptor. To be asked after the record of its flow was freed.
    pub fn is_used(&self, fd: Fd) -> bool {
        fence(SeqCst);
        let words = (0..SEATS as u32).flat_map(|seat| self.workers(seat)).map(|block| &block.using);
        words.map(|word| word.load(SeqCst)).any(|word| word == encode(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Dimensions, State};

    fn table() -> Table {
        let dimensions = Dimensions { workers: 2, ..Dimensions::SMALL };
        Table::create(dimensions).unwrap().1
    }

    #[test]
    fn what_a_worker_uses_is_used_until_it_lets_go() {
        let (table, fd) = (table(), Fd::from_raw(0));
        assert!(!table.is_used(fd));
        let using = Using::declare(&table.worker(1, 1).using, fd);
        assert!(table.is_used(fd) && !table.is_used(Fd::from_raw(1)));
        drop(using);
        assert!(!table.is_used(fd));
    }

    /// The one that ends a flow and the one that uses it, until they have met so many times.
    #[test]
    fn nothing_is_closed_under_a_users_feet() {
        const MEETINGS: u32 = 2000;
        let (table, fd) = (table(), Fd::from_raw(9));
        let (closed, met, broken) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let record = table.record(fd).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while met.load(SeqCst) < MEETINGS {
                    record.begin(State::Established, 0, 0, 0);
                    std::thread::yield_now();
                    record.set_state(State::Free);
                    while table.is_used(fd) {
                        std::thread::yield_now();
                    }
                    closed.store(record.generation(), SeqCst);
                }
            });
            while met.load(SeqCst) < MEETINGS {
                let generation = record.generation();
                let _using = Using::declare(&table.worker(1, 0).using, fd);
                if record.is_established(generation) {
                    std::thread::yield_now();
                    met.fetch_add(1, SeqCst);
                    broken.fetch_add(u32::from(closed.load(SeqCst) >= generation), SeqCst);
                }
            }
        });
        assert_eq!(broken.load(SeqCst), 0, "closed while it was used");
    }
}
