//! The index by itself: cells in memory, flows that are what the test says they are.

use std::sync::{
    Barrier, Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use super::*;

const HASH: u64 = 5 | 7 << 60;

fn index(cells: usize) -> Index {
    let words = |count: usize| -> &'static [AtomicU64] {
        Box::leak((0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into_boxed_slice())
    };
    Index::new(words(Index::KEYS), words(cells))
}

fn entry(fd: i32, generation: u32) -> Entry {
    Entry { fd: Fd::from_raw(fd), generation }
}

fn all(_: Entry) -> bool {
    true
}

fn wanted(_: Entry) -> Found {
    Found::Wanted
}

/// A claim that its worker did not come to settle.
fn claimed(index: &Index, hash: u64, entry: Entry) {
    index.claim(hash, entry, &|_| Found::Other).unwrap();
}

#[test]
fn what_is_entered_is_found_and_what_is_removed_is_not() {
    let index = index(32);
    let flow = entry(7, u32::MAX);
    assert_eq!(index.enter(HASH, flow, wanted), Entering::Entered);
    assert_eq!(index.enter(HASH, flow, wanted), Entering::Entered, "again is harmless");
    assert_eq!(index.find(HASH, all), Some(flow));
    assert_eq!(index.find(HASH, |_| false), None, "a cell proves nothing");
    assert_eq!(index.enter(HASH, entry(8, 0), wanted), Entering::Taken(flow));
    index.remove(HASH, entry(7, 0));
    assert_eq!(index.find(HASH, all), Some(flow), "of another generation");
    index.remove(HASH, flow);
    assert!(index.cells.iter().all(|cell| cell.load(SeqCst) == 0));
}

#[test]
fn number_zero_and_the_largest_are_numbers_too() {
    let index = index(32);
    for fd in [0, Index::NUMBERS as i32 - 1] {
        assert_eq!(index.enter(HASH, entry(fd, 0), |_| Found::Other), Entering::Entered);
        assert_eq!(index.find(HASH, |found| found.fd.raw() == fd), Some(entry(fd, 0)));
    }
}

#[test]
fn groups_overflow_into_the_next_ones_and_are_full_in_the_end() {
    let index = index(Index::cells_for(40));
    for fd in 0..(GROUP * REACH) as i32 {
        assert_eq!(index.enter(HASH, entry(fd, 1), |_| Found::Other), Entering::Entered);
    }
    assert_eq!(index.enter(HASH, entry(99, 1), |_| Found::Other), Entering::Full);
    assert_eq!(index.find(HASH, |found| found.fd.raw() == 23), Some(entry(23, 1)));
    // One of them ends and nobody tidies up.
    let judge = |other: Entry| if other.fd.raw() == 11 { Found::Gone } else { Found::Other };
    assert_eq!(index.enter(HASH, entry(99, 1), judge), Entering::Entered);
    assert_eq!(index.find(HASH, |found| found.fd.raw() == 99), Some(entry(99, 1)));
    assert_eq!(index.find(HASH, |found| found.fd.raw() == 11), None, "its cell was free");
}

/// Nobody's record is looked at whose hash is another one.
#[test]
fn flows_of_other_hashes_are_passed_by_unseen() {
    let index = index(Index::cells_for(40));
    let others = (0..GROUP as u64).map(|other| (HASH ^ (1 + other) << 55, entry(other as i32, 1)));
    for (hash, other) in others.clone() {
        assert_eq!(index.enter(hash, other, |_| unreachable!("{other:?}")), Entering::Entered);
    }
    let own = entry(99, 1);
    let judge = |found: Entry| if found == own { Found::Wanted } else { unreachable!("{found:?}") };
    assert_eq!(index.enter(HASH, own, judge), Entering::Entered);
    assert_eq!(index.find(HASH, |found| judge(found) == Found::Wanted), Some(own));
    for (hash, other) in others {
        assert_eq!(index.find(hash, |found| found == other), Some(other));
        index.remove(hash, other);
    }
    assert_eq!(index.cells.iter().filter(|cell| cell.load(SeqCst) != 0).count(), 1);
}

#[test]
fn a_claim_is_not_found_and_gives_way() {
    let index = index(32);
    let (left, new) = (entry(3, 1), entry(4, 1));
    claimed(&index, HASH, left);
    assert_eq!(index.find(HASH, all), None, "nobody may use it yet");
    assert_eq!(index.enter(HASH, new, wanted), Entering::Entered);
    assert!(
        index.near(HASH).all(|cell| cell.load(SeqCst) != left.claim(HASH)),
        "its worker cannot settle it"
    );
    assert_eq!(index.enter(HASH, left, wanted), Entering::Taken(new), "its worker goes on");
    assert_eq!(index.cells.iter().filter(|cell| cell.load(SeqCst) != 0).count(), 1);
}

#[test]
fn an_heir_settles_what_was_claimed() {
    let index = index(32);
    let left = entry(3, 1);
    claimed(&index, HASH, left);
    assert_eq!(index.enter(HASH, left, wanted), Entering::Entered);
    assert_eq!(index.find(HASH, all), Some(left));
    assert_eq!(index.cells.iter().filter(|cell| cell.load(SeqCst) != 0).count(), 1);
}

#[test]
fn garbage_is_no_flow() {
    let index = index(32);
    index.cells.iter().for_each(|cell| cell.store(u64::MAX, SeqCst));
    assert_eq!(index.find(HASH, |found| found.fd.raw() < 1000), None);
    let judge = |other: Entry| if other.fd.raw() < 1000 { Found::Wanted } else { Found::Gone };
    assert_eq!(index.enter(HASH, entry(1, 1), judge), Entering::Entered);
}

#[test]
fn the_hash_depends_on_its_keys() {
    let index = index(32);
    let unkeyed = index.hash(b"key");
    index.set_keys([1, 2]);
    assert_ne!(index.hash(b"key"), unkeyed);
    assert_ne!(index.hash(b"key"), index.hash(b"kez"));
    // Of the reference implementation; pools of different binaries share a table.
    index.set_keys([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    assert_eq!(index.hash(b""), 0xabac_0158_050f_c4dc);
}

#[test]
fn workers_that_begin_one_key_at_once_agree_on_one_flow() {
    const WORKERS: i32 = 4;
    const ROUNDS: u32 = 3000;
    let index = index(32);
    let (barrier, round) = (Barrier::new(WORKERS as usize), AtomicU32::new(0));
    // What each worker found before it entered its own flow, was told then, and found afterwards.
    let seen = Mutex::new(vec![Vec::new(); ROUNDS as usize + 1]);
    let judge =
        |found: Entry| if found.generation == round.load(SeqCst) { Found::Wanted } else { Found::Gone };
    let look = || index.find(HASH, |found| judge(found) == Found::Wanted);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (barrier, round, seen) = (&barrier, &round, &seen);
            scope.spawn(move || {
                for generation in 1..=ROUNDS {
                    if barrier.wait().is_leader() {
                        round.store(generation, SeqCst);
                    }
                    barrier.wait();
                    let (own, before) = (entry(worker, generation), look());
                    let flow = match index.enter(HASH, own, judge) {
                        Entering::Entered => Some(own),
                        Entering::Taken(flow) => Some(flow),
                        Entering::Full | Entering::Contended => None,
                    };
                    barrier.wait();
                    let all = before.map(Some).into_iter().chain([flow, look()]);
                    seen.lock().unwrap()[generation as usize].extend(all);
                }
            });
        }
    });
    for flows in &seen.lock().unwrap()[1..] {
        // One may give up, for it does not wait; the others agree, and it finds their flow afterwards.
        let mut found = flows.iter().flatten();
        let flow = found.next().expect("not everybody gives up");
        assert!(found.all(|other| other == flow), "{flows:?}");
    }
}
