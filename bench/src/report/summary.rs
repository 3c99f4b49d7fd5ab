//! Figures of each case, over all rounds. Pure.

use serde::Serialize;

use super::statistics::median;
use crate::cases::Case;
use crate::rounds::Outcome;
use crate::sample::{Kill, Sample, Work};
use crate::targets::Target;

/// A case.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Which.
    pub case: Case,
    /// By target, those that did the work.
    pub rows: Vec<Row>,
}

/// A target in a case: medians.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub target: String,
    /// Whether it is proxy.
    pub is_ours: bool,
    /// Runs that succeeded.
    pub runs: usize,
    /// What it came to.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What a row has.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of work.
    Work(WorkFigures),
    /// Of killing.
    Kill(Kill),
}

/// Of work. Ratios are to the best peer of the case, if there is one; if not, to the first build of proxy.
#[derive(Clone, Debug, Serialize)]
pub struct WorkFigures {
    /// In the case's unit.
    pub rate: f64,
    /// To who has the highest rate.
    pub rate_ratio: Option<f64>,
    /// In the case's unit; none if there is no proxy.
    pub cost: Option<f64>,
    /// To who has the lowest cost.
    pub cost_ratio: Option<f64>,
    /// To the first build of proxy, of further ones.
    pub cost_ratio_to_first: Option<f64>,
    /// Microseconds; 0 if not measured.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// Failed or lost, of 100.
    pub failed_percent: f64,
    /// Percent of one processor: target, load generator, server, other.
    pub shares: [f64; 4],
}

/// Of all cases that were run.
pub fn all(targets: &[Target], outcomes: &[Outcome]) -> Vec<Summary> {
    let cases = Case::ALL.into_iter().filter(|case| outcomes.iter().any(|outcome| outcome.case == *case));
    cases.map(|case| Summary { case, rows: rows(case, targets, outcomes) }).collect()
}

fn rows(case: Case, targets: &[Target], outcomes: &[Outcome]) -> Vec<Row> {
    let all = Runs { case, outcomes };
    let peers: Vec<&str> = baselines(targets).filter(|name| !all.works(name).is_empty()).collect();
    let best = |worth: fn(&Work) -> f64| {
        let worth_of = |name: &&str| all.median(name, worth).unwrap_or(f64::INFINITY);
        peers.iter().copied().min_by(|one, other| worth_of(one).total_cmp(&worth_of(other)))
    };
    let (cheapest, fastest) = (best(cost), best(|work| -rate(work)));
    let first = targets.iter().find(|target| target.is_ours()).map(|target| target.name.as_str());
    let row = |target: &Target| {
        let runs = all.samples(&target.name).count();
        let figures = match all.samples(&target.name).next()? {
            Sample::Kill(_) => Figures::Kill(all.kill(&target.name)),
            Sample::Work(_) => Figures::Work(all.work(target, cheapest, fastest, first)?),
        };
        Some(Row { target: target.name.clone(), is_ours: target.is_ours(), runs, figures })
    };
    targets.iter().filter_map(row).collect()
}

/// Whom ratios may be to: the peers, or without any the first build of proxy.
fn baselines(targets: &[Target]) -> impl Iterator<Item = &str> {
    let has_peers = targets.iter().any(Target::is_peer);
    let first = targets.iter().position(Target::is_ours);
    let is_baseline = move |(index, target): &(usize, &Target)| {
        if has_peers { target.is_peer() } else { first == Some(*index) }
    };
    targets.iter().enumerate().filter(is_baseline).map(|(_, target)| target.name.as_str())
}

/// Units of work a second.
pub fn rate(work: &Work) -> f64 {
    work.units as f64 / work.seconds
}

/// Seconds of the target's processor time for a unit of work.
pub fn cost(work: &Work) -> f64 {
    work.cpu.target / work.units as f64
}

/// The runs of one case.
struct Runs<'a> {
    case: Case,
    outcomes: &'a [Outcome],
}

impl<'a> Runs<'a> {
    fn outcomes(&self, target: &str) -> impl Iterator<Item = &'a Outcome> {
        self.outcomes.iter().filter(move |outcome| outcome.case == self.case && outcome.target == target)
    }

    fn samples(&self, target: &str) -> impl Iterator<Item = &'a Sample> {
        self.outcomes(target).map(|outcome| &outcome.sample)
    }

    /// By round.
    fn works(&self, target: &str) -> Vec<(u32, &'a Work)> {
        let work = |outcome: &'a Outcome| match &outcome.sample {
            Sample::Work(work) => Some((outcome.round, work)),
            Sample::Kill(_) => None,
        };
        self.outcomes(target).filter_map(work).collect()
    }

    fn median(&self, target: &str, figure: fn(&Work) -> f64) -> Option<f64> {
        median(self.works(target).into_iter().map(|(_, work)| figure(work)).collect())
    }

    /// The median of the ratios of those rounds that both have done.
    fn ratio(&self, target: &str, to: &str, figure: fn(&Work) -> f64) -> Option<f64> {
        let others = self.works(to);
        let ratio = |(round, work): (u32, &Work)| {
            let (_, other) = others.iter().find(|(other, _)| *other == round)?;
            Some(figure(work) / figure(other))
        };
        let ratios: Vec<f64> = self.works(target).into_iter().filter_map(ratio).collect();
        median(ratios).filter(|ratio| ratio.is_finite())
    }

    fn work(
        &self,
        target: &Target,
        cheapest: Option<&str>,
        fastest: Option<&str>,
        first: Option<&str>,
    ) -> Option<WorkFigures> {
        let name = target.name.as_str();
        let is_proxy = target.is_ours() || target.is_peer();
        let share = |of: fn(&Work) -> f64| self.median(name, of).unwrap_or_default();
        let first = first.filter(|first| target.is_ours() && *first != name);
        Some(WorkFigures {
            rate: self.median(name, rate)? * self.case.rate().factor,
            rate_ratio: fastest.and_then(|best| self.ratio(name, best, rate)),
            cost: self.median(name, cost).filter(|_| is_proxy).map(|cost| cost * self.case.cost().factor),
            cost_ratio: cheapest.filter(|_| is_proxy).and_then(|best| self.ratio(name, best, cost)),
            cost_ratio_to_first: first.and_then(|first| self.ratio(name, first, cost)),
            p50_us: share(|work| work.p50_us),
            p99_us: share(|work| work.p99_us),
            failed_percent: share(|work| 100.0 * work.failed as f64 / (work.failed + work.units) as f64),
            shares: [
                share(|work| 100.0 * work.cpu.target / work.seconds),
                share(|work| 100.0 * work.cpu.load / work.seconds),
                share(|work| 100.0 * work.cpu.server / work.seconds),
                share(|work| 100.0 * work.cpu.other / work.seconds),
            ],
        })
    }

    fn kill(&self, target: &str) -> Kill {
        let kills: Vec<&Kill> = self
            .samples(target)
            .filter_map(|sample| if let Sample::Kill(kill) = sample { Some(kill) } else { None })
            .collect();
        let middle =
            |of: fn(&Kill) -> f64| median(kills.iter().map(|kill| of(kill)).collect()).unwrap_or_default();
        Kill {
            attempts: middle(|kill| kill.attempts as f64).round() as u64,
            failed: middle(|kill| kill.failed as f64).round() as u64,
            streams: middle(|kill| kill.streams as f64).round() as u64,
            lost: middle(|kill| kill.lost as f64).round() as u64,
            gap_ms: middle(|kill| kill.gap_ms),
            stall_ms: middle(|kill| kill.stall_ms),
        }
    }
}
