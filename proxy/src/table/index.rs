//! The flow index: finds a UDP flow by its key, for every worker of both pools.
//!
//! A cell names a flow by descriptor number and generation, or is 0. A key's hash gives the few cells where its
//! flow may be named, and some bits of it are in the cell, so that records of other keys' flows, each of them a line
//! of memory that is in no cache, are hardly ever looked at. A cell proves nothing: who reads one looks at the flow's
//! record ([`Found`]), so that nothing has to be tidied up behind a worker that dies, and a wild write hides a flow at
//! worst.
//!
//! Of one key, one flow may ever be found, or its server would see two ports. Workers that begin one at the
//! same time may be stopped or die anywhere, so nobody waits for anybody: a flow is first **claimed**, which
//! `find` passes by, then everybody else's claim is struck out, then it is **settled**, unless its own claim was
//! struck out meanwhile. Of two claims, the later one's owner sees the earlier: settled, and it gives way; or
//! claimed, and it strikes it out.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, SeqCst},
};

use siphasher::sip::SipHasher13;

use crate::sys::Fd;

/// Cells that share a cache line.
const GROUP: usize = 8;
/// Groups in which a key's flow may be, one after the other.
const REACH: usize = 3;
/// Claims that were struck out before a worker gives up.
const ATTEMPTS: usize = 16;
// A cell: the generation in the upper half; in the lower one this bit, ten bits of the hash, and the descriptor number
// plus 1.
const SETTLED: u64 = 1 << 31;
const HASH: u64 = 0x3ff << NUMBER_BITS;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
const NUMBER_BITS: u32 = 21;

/// A flow, as a cell names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its descriptor, where its record is.
    pub fd: Fd,
    /// The record's generation.
    pub generation: u32,
}

impl Entry {
    fn claim(self, hash: u64) -> u64 {
        u64::from(self.generation) << 32 | bits_of(hash) | ((self.fd.raw() as u64 + 1) & NUMBER)
    }

    fn decode(word: u64) -> Option<Self> {
        let number = (word & NUMBER).checked_sub(1)?;
        Some(Self { fd: Fd::from_raw(number as i32), generation: (word >> 32) as u32 })
    }
}

/// The bits of a hash that are in a cell: others than those that give the cells.
fn bits_of(hash: u64) -> u64 {
    hash >> (u64::BITS - HASH.count_ones()) << NUMBER_BITS
}

/// What an entry turns out to be. Once gone, it stays so: a generation does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The flow of the key that is looked for.
    Wanted,
    /// The flow of another key.
    Other,
    /// No flow: the cell is free.
    Gone,
}

/// How entering a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entering {
    /// It is the flow of its key now, or was already.
    Entered,
    /// This one is.
    Taken(Entry),
    /// There are too many flows with hashes like this one's.
    Full,
    /// Others that begin a flow of this key were in the way again and again.
    Contended,
}

/// The index. Copies name the same memory.
#[derive(Clone, Copy)]
pub struct Index {
    keys: &'static [AtomicU64],
    cells: &'static [AtomicU64],
}

impl Index {
    /// Flows have numbers below this.
    pub const NUMBERS: u64 = NUMBER;

    /// Words of its hash keys.
    pub(super) const KEYS: usize = 2;

    /// Cells for flows with numbers below `descriptors`: twice as many, a power of two.
    pub(super) fn cells_for(descriptors: usize) -> usize {
        (2 * descriptors).max(REACH * GROUP).next_power_of_two()
    }

    /// In this memory: two words, and as many cells as [`Self::cells_for`] says.
    pub(super) fn new(keys: &'static [AtomicU64], cells: &'static [AtomicU64]) -> Self {
        Self { keys, cells }
    }

    /// Sets the keys of the hash, before anything is entered. Whoever knows them can send from such
    /// addresses that their flows fill one group and are refused.
    pub(super) fn set_keys(&self, keys: [u64; Self::KEYS]) {
        self.keys.iter().zip(keys).for_each(|(word, key)| word.store(key, Relaxed));
    }

    /// The hash of a key, SipHash-1-3 as in every pool that uses this table.
    pub fn hash(&self, key: &[u8]) -> u64 {
        let [first, second] = [0, 1].map(|word| self.keys[word].load(Relaxed));
        SipHasher13::new_with_keys(first, second).hash(key)
    }

    /// The flow of a key.
    pub fn find(&self, hash: u64, is_wanted: impl Fn(Entry) -> bool) -> Option<Entry> {
        let is_settled = |word: &u64| word & (SETTLED | HASH) == SETTLED | bits_of(hash);
        let settled = self.near(hash).map(|cell| cell.load(Acquire)).filter(is_settled);
        settled.filter_map(Entry::decode).find(|entry| is_wanted(*entry))
    }

    /// Makes `entry` the flow of its key, unless there is one. Its record must say so already; after
    /// anything but [`Entering::Entered`] no cell names it.
    pub fn enter(&self, hash: u64, entry: Entry, judge: impl Fn(Entry) -> Found) -> Entering {
        for _ in 0..ATTEMPTS {
            if let Some(end) = self.try_enter(hash, entry, &judge) {
                return end;
            }
            // Two that strike each other out in step are brought out of it.
            (0..fastrand::u32(..64)).for_each(|_| std::hint::spin_loop());
        }
        Entering::Contended
    }

    /// Forgets a flow.
    pub fn remove(&self, hash: u64, entry: Entry) {
        for cell in self.near(hash) {
            let word = cell.load(Relaxed);
            if Entry::decode(word) == Some(entry) {
                strike_out(cell, word);
            }
        }
    }

    /// One attempt; `None` if the claim was struck out.
    fn try_enter(&self, hash: u64, entry: Entry, judge: &impl Fn(Entry) -> Found) -> Option<Entering> {
        if let Some(found) = self.find(hash, |other| judge(other) == Found::Wanted) {
            if found != entry {
                self.remove(hash, entry);
                return Some(Entering::Taken(found));
            }
            return Some(Entering::Entered);
        }
        let claim = entry.claim(hash);
        let Some(cell) = self.claim(hash, entry, judge) else { return Some(Entering::Full) };
        for other in self.near(hash) {
            let word = other.load(SeqCst);
            let Some(rival) = Entry::decode(word).filter(|rival| *rival != entry) else { continue };
            if word & HASH != bits_of(hash) || judge(rival) != Found::Wanted {
                continue;
            }
            if word & SETTLED != 0 {
                self.remove(hash, entry);
                return Some(Entering::Taken(rival));
            }
            if !strike_out(other, word) {
                // It was settled a moment ago, most likely.
                self.remove(hash, entry);
                return None;
            }
        }
        let is_settled = cell.compare_exchange(claim, claim | SETTLED, SeqCst, Relaxed).is_ok();
        is_settled.then_some(Entering::Entered)
    }

    /// The cell of a claim: the one where it is already (a worker may have died over it), or one that is free. Cells of
    /// flows that have ended come last, for that can be seen only in the flow's record.
    fn claim(&self, hash: u64, entry: Entry, judge: &impl Fn(Entry) -> Found) -> Option<&'static AtomicU64> {
        let (claim, mut cells) = (entry.claim(hash), self.near(hash));
        let take = |is_free: &dyn Fn(u64) -> bool, cell: &AtomicU64| {
            let word = cell.load(Acquire);
            is_free(word) && cell.compare_exchange(word, claim, SeqCst, Relaxed).is_ok()
        };
        let is_gone = |word| Entry::decode(word).is_none_or(|other| judge(other) == Found::Gone);
        let there = cells.clone().find(|cell| cell.load(Acquire) == claim);
        let empty = || cells.clone().find(|cell| take(&|word| word == 0, cell));
        there.or_else(empty).or_else(|| cells.find(|cell| take(&is_gone, cell)))
    }

    /// The cells in which flows of this hash may be.
    fn near(&self, hash: u64) -> impl Iterator<Item = &'static AtomicU64> + Clone + use<> {
        let cells = self.cells;
        let groups = cells.len() / GROUP;
        let group = move |step| (hash as usize).wrapping_add(step) % groups;
        (0..REACH).flat_map(move |step| &cells[group(step) * GROUP..][..GROUP])
    }
}

/// Frees a cell if this is in it still.
fn strike_out(cell: &AtomicU64, word: u64) -> bool {
    cell.compare_exchange(word, 0, SeqCst, Relaxed).is_ok()
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
