//! The algorithms: each picks one of the candidates, of which there is at least one. Pure.

use std::cmp::Ordering;

use super::{Candidate, mixed};

/// Of two random ones, the one with fewer open connections for its weight ("power of two random choices",
/// Mitzenmacher 2001); of two that have as many for theirs, the first. Both are drawn by weight. `open` is asked
/// for the two.
pub fn random_two(candidates: &[Candidate], open: impl Fn(usize) -> u64, random: u64) -> Option<usize> {
    let first = drawn(candidates, None, random)?;
    let Some(second) = drawn(candidates, Some(first), mixed(random)) else {
        return Some(candidates[first].server);
    };
    let [first, second] = [first, second].map(|index| candidates[index]);
    let is_less = busier(second, open(second.server), first, open(first.server)) == Ordering::Less;
    Some(if is_less { second.server } else { first.server })
}

/// The one with the fewest open connections for its weight; of several such, a random one by weight.
pub fn least_connections(
    candidates: &[Candidate],
    mut open: impl FnMut(usize) -> u64,
    random: u64,
) -> Option<usize> {
    let mut candidates = candidates.iter().copied();
    let mut best = candidates.next()?;
    let (mut best_open, mut tied, mut random) = (open(best.server), best.weight, random);
    for other in candidates {
        let other_open = open(other.server);
        match busier(other, other_open, best, best_open) {
            Ordering::Greater => continue,
            Ordering::Less => tied = other.weight,
            Ordering::Equal => {
                tied += other.weight;
                random = mixed(random);
                if below(random, tied) >= other.weight {
                    continue;
                }
            }
        }
        (best, best_open) = (other, other_open);
    }
    Some(best.server)
}

/// What [`round_robin`] has for a server that it has not met yet.
pub const FRESH: i64 = i64::MIN;

/// One after the other, each as often as its weight says and as evenly as can be: smooth weighted round robin, as
/// nginx has it (`ngx_http_upstream_round_robin.c`). `credits` are the servers', by number; they begin at random,
/// so that workers that begin at the same time do not go in step.
pub fn round_robin(candidates: &[Candidate], credits: &mut [i64], random: u64) -> Option<usize> {
    let total: u64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let (mut random, bound) = (random, total as i64);
    let mut best: Option<usize> = None;
    for Candidate { server, weight } in candidates.iter().copied() {
        let credit = credits.get_mut(server)?;
        if *credit == FRESH {
            random = mixed(random);
            *credit = below(random, total) as i64;
        }
        // When weights have become smaller, what is owed or due by the old ones is too much.
        *credit = (*credit).clamp(-bound, bound) + weight as i64;
        let credit = *credit;
        if best.is_none_or(|best| credit > credits[best]) {
            best = Some(server);
        }
    }
    credits[best?] -= bound;
    best
}

/// The same one for the same client: the highest score by weighted rendezvous hashing ("logarithmic method",
/// Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005). When a server goes, only its clients go
/// elsewhere; when a weight changes, a proportional part of them does. `key` is a hash of what a server is.
pub fn source_hash(
    candidates: &[Candidate],
    key: impl Fn(usize) -> Option<u64>,
    client: u64,
) -> Option<usize> {
    let score = |candidate: &Candidate| {
        let hash = mixed(client ^ key(candidate.server)?);
        // More than 0 and less than 1: 53 bits, as many as the fraction has.
        let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        Some((candidate.weight as f64 / -uniform.ln(), candidate.server))
    };
    let scores = candidates.iter().filter_map(score);
    scores.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, server)| server)
}

/// Compares open connections by weight.
fn busier(one: Candidate, one_open: u64, other: Candidate, other_open: u64) -> Ordering {
    let times = |open: u64, weight: u64| u128::from(open) * u128::from(weight);
    times(one_open, other.weight).cmp(&times(other_open, one.weight))
}

/// The index of a random one by weight, but for one of them; `None` if there is no other.
fn drawn(candidates: &[Candidate], but: Option<usize>, random: u64) -> Option<usize> {
    let others = || candidates.iter().enumerate().filter(|(index, _)| Some(*index) != but);
    let total = others().map(|(_, candidate)| candidate.weight).sum();
    let mut left = below(random, total);
    for (index, candidate) in others() {
        match left.checked_sub(candidate.weight) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    None
}

/// A number below `count` by random bits; 0 if that is 0.
fn below(random: u64, count: u64) -> u64 {
    ((u128::from(random) * u128::from(count)) >> 64) as u64
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
