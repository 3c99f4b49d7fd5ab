//! What is run when: in each round every case, in each case every target, each time another one first.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::cases::Case;
use crate::isolation;
use crate::machine::Machine;
use crate::options::Options;
use crate::report;
use crate::run;
use crate::sample::Sample;
use crate::targets::{self, Target};

/// A run is disturbed if others had so much of a processor.
pub const NOISE: f64 = 0.1;

/// One run's place and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Counted from 1.
    pub round: u32,
    /// What was done.
    pub case: Case,
    /// By whose name.
    pub target: String,
    /// The figures.
    pub sample: Sample,
}

/// Runs everything, and reports. A run that fails is told, and left out.
pub fn run(options: &Options) -> Result<()> {
    isolation::enter()?;
    let (cases, targets) = (options.cases(), targets::chosen(options)?);
    let plan = plan(options.rounds, &cases, &targets);
    let minutes = plan.len() as f64 * (1.2 * options.seconds + 0.4) / 60.0;
    eprintln!("{} runs, {minutes:.1} minutes if nothing else disturbs them", plan.len());
    let mut outcomes = Vec::new();
    for (number, (round, case, target)) in plan.iter().enumerate() {
        let (done, all) = (number + 1, plan.len());
        eprint!("{done:>4}/{all}  round {round}  {:<5}  {:<14}  ", case.name(), target.name);
        match quietest(*case, target, options) {
            Ok(sample) => {
                eprintln!("{}", report::table::in_a_line(*case, &sample));
                outcomes.push(Outcome { round: *round, case: *case, target: target.name.clone(), sample });
            }
            Err(error) => eprintln!("FAILED: {error:#}"),
        }
    }
    if outcomes.is_empty() {
        bail!("no run succeeded");
    }
    report::run(&Machine::find(), options, &targets, &outcomes)
}

/// Runs once, and again if other work on the machine disturbed it; the one that was disturbed least counts.
fn quietest(case: Case, target: &Target, options: &Options) -> Result<Sample> {
    let mut best = run::run(case, target, options.seconds)?;
    for _ in 0..options.repeats {
        if best.noise() < NOISE {
            break;
        }
        let next = run::run(case, target, options.seconds)?;
        if next.noise() < best.noise() {
            best = next;
        }
    }
    Ok(best)
}

/// All runs in their order.
fn plan<'a>(rounds: u32, cases: &[Case], targets: &'a [Target]) -> Vec<(u32, Case, &'a Target)> {
    let mut plan = Vec::new();
    for round in 1..=rounds {
        for case in cases.iter().copied() {
            let mut able: Vec<_> = targets.iter().filter(|target| target.takes(case)).collect();
            let first = (round - 1) as usize % able.len().max(1);
            able.rotate_left(first);
            plan.extend(able.into_iter().map(|target| (round, case, target)));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_target_and_nobody_does_what_it_cannot() {
        let targets = ["direct", "haproxy", "nginx"].map(Target::named);
        let plan = plan(3, &[Case::Ping, Case::Udp, Case::Kill], &targets);
        let order = |round, case| -> Vec<&str> {
            let runs = plan.iter().filter(|run| (run.0, run.1) == (round, case));
            runs.map(|run| run.2.name.as_str()).collect()
        };
        assert_eq!(order(1, Case::Ping), ["direct", "haproxy", "nginx"]);
        assert_eq!(order(2, Case::Ping), ["haproxy", "nginx", "direct"]);
        assert_eq!(order(3, Case::Ping), ["nginx", "direct", "haproxy"]);
        assert_eq!(order(2, Case::Udp), ["nginx", "direct"]);
        assert_eq!(order(3, Case::Kill), ["haproxy", "nginx"]);
        assert_eq!(plan.len(), 3 * (3 + 2 + 2));
    }
}
