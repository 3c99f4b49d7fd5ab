//! Which upstream server a new connection or flow goes to. Pure: random bits, counts and times are given.

pub mod ejection;
pub mod pick;
mod sums;

pub use sums::Sums;

/// How a server stands to a flow that looks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// May be chosen.
    Fit,
    /// Failed of late: chosen only if no other is left.
    PassedOver,
    /// Has as many connections as it may have.
    Full,
    /// This connection has tried it in vain.
    Tried,
    /// Takes nothing new: vacant, drained, down.
    Out,
}

/// What comes of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// This server.
    Server(T),
    /// None now: those that could take it are full.
    Full,
    /// None.
    None,
}

/// A server that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number within the upstream.
    pub server: usize,
    /// Its share ([`share`]), more than 0.
    pub weight: u64,
}

/// Which servers are chosen among: those of the first rank that there are any of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Fit,
    FitBackup,
    /// Fail open: a server that seems down is better than none.
    PassedOver,
    PassedOverBackup,
}

/// The servers that one flow may go to. Kept from flow to flow, so that nothing is allocated for each.
#[derive(Debug, Default)]
pub struct Candidates {
    best: Option<Rank>,
    of_best: Vec<Candidate>,
    is_any_full: bool,
}

impl Candidates {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.best = None;
        self.of_best.clear();
        self.is_any_full = false;
    }

    /// Considers one more server.
    pub fn add(&mut self, candidate: Candidate, standing: Standing, is_backup: bool) {
        let rank = match (standing, is_backup) {
            (Standing::Fit, false) => Rank::Fit,
            (Standing::Fit, true) => Rank::FitBackup,
            (Standing::PassedOver, false) => Rank::PassedOver,
            (Standing::PassedOver, true) => Rank::PassedOverBackup,
            (Standing::Full, _) => return self.is_any_full = true,
            (Standing::Tried | Standing::Out, _) => return,
        };
        if self.best.is_none_or(|best| rank < best) {
            self.best = Some(rank);
            self.of_best.clear();
        }
        if self.best == Some(rank) {
            self.of_best.push(candidate);
        }
    }

    /// Those that are chosen among, at least one. A full server is no reason to try one that seems down: it will
    /// have room.
    pub fn all(&self) -> Choice<&[Candidate]> {
        match self.best {
            Some(Rank::PassedOver | Rank::PassedOverBackup) | None if self.is_any_full => Choice::Full,
            None => Choice::None,
            Some(_) => Choice::Server(&self.of_best),
        }
    }
}

/// A weight of 1, as a share.
const UNIT: u64 = 1000;

/// The share of a server that has been up again for `warm_ms` (`None`: for long) and gets all of its weight
/// after `slow_start_ms`: a tenth at first.
pub fn share(weight: u32, warm_ms: Option<u32>, slow_start_ms: u32) -> u64 {
    let per_mille = match warm_ms {
        Some(warm_ms) if warm_ms < slow_start_ms => {
            (u64::from(warm_ms) * UNIT / u64::from(slow_start_ms)).max(UNIT / 10)
        }
        _ => UNIT,
    };
    u64::from(weight) * per_mille
}

/// Other random bits, evenly spread whatever these are: the finalizer of SplitMix64 (Steele, Lea, Flood, "Fast
/// splittable pseudorandom number generators", 2014; the constants are David Stafford's variant 13).
pub fn mixed(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Fit, Full, Out, PassedOver, Tried};

    /// The servers that are chosen among; the backups are those from `backups` on.
    fn among(standings: &[Standing], backups: usize) -> Choice<Vec<usize>> {
        let mut candidates = Candidates::default();
        candidates.add(Candidate { server: 99, weight: 1 }, Fit, false);
        candidates.clear();
        for (server, standing) in standings.iter().enumerate() {
            candidates.add(Candidate { server, weight: 1 }, *standing, server >= backups);
        }
        match candidates.all() {
            Choice::Server(all) => Choice::Server(all.iter().map(|candidate| candidate.server).collect()),
            Choice::Full => Choice::Full,
            Choice::None => Choice::None,
        }
    }

    #[test]
    fn backups_come_after_fit_servers_and_before_passed_over_ones() {
        let all = |servers: &[usize]| Choice::Server(servers.to_vec());
        assert_eq!(among(&[Fit, PassedOver, Fit, Fit], 3), all(&[0, 2]));
        assert_eq!(among(&[PassedOver, Out, Tried, Fit, Fit], 3), all(&[3, 4]));
        assert_eq!(among(&[Full, Fit], 1), all(&[1]));
        assert_eq!(among(&[PassedOver, Out, PassedOver, PassedOver], 3), all(&[0, 2]));
        assert_eq!(among(&[Tried, Out, PassedOver], 2), all(&[2]));
    }

    #[test]
    fn who_finds_only_full_ones_waits_rather_than_go_where_it_failed() {
        assert_eq!(among(&[Full, PassedOver, Tried], 3), Choice::Full);
        assert_eq!(among(&[PassedOver, Full], 1), Choice::Full);
        assert_eq!(among(&[Tried, Out], 2), Choice::None);
        assert_eq!(among(&[], 0), Choice::None);
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_the_weight() {
        let shares = [0, 500, 1000, 5000, 9999, 10_000, u32::MAX].map(|warm| share(3, Some(warm), 10_000));
        assert_eq!(shares, [300, 300, 300, 1500, 2997, 3000, 3000]);
        assert_eq!((share(3, None, 10_000), share(3, Some(0), 0), share(0, Some(0), 9)), (3000, 3000, 0));
    }
}
