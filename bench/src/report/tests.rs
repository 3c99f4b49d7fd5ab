//! From outcomes to figures, tables and the plot.

use super::*;
use crate::sample::{Kill, Sample, Shares, Work};
use summary::Figures;

fn outcome(round: u32, case: Case, target: &str, units: u64, cpu: f64) -> Outcome {
    let cpu = Shares { target: cpu, load: 0.5, server: 0.25, other: 0.01 };
    let work = Work { seconds: 2.0, units, failed: 0, p50_us: 100.0, p99_us: 2500.0, cpu };
    Outcome { round, case, target: target.into(), sample: Sample::Work(work) }
}

fn killed(target: &str, failed: u64, lost: u64) -> Outcome {
    let kill = Kill { attempts: 1000, failed, streams: 16, lost, gap_ms: 12.34, stall_ms: 3.0 };
    Outcome { round: 1, case: Case::Kill, target: target.into(), sample: Sample::Kill(kill) }
}

fn targets() -> Vec<Target> {
    ["direct", "haproxy", "nginx", "proxy", "proxy-2"].map(Target::named).into()
}

fn work(summary: &Summary, target: &str) -> summary::WorkFigures {
    let row = summary.rows.iter().find(|row| row.target == target).unwrap();
    let Figures::Work(work) = &row.figures else { panic!("{row:?}") };
    work.clone()
}

/// Ours takes half of nginx's time in each round, though rounds differ tenfold.
fn two_rounds() -> Vec<Outcome> {
    let round = |round: u32, scale: f64| {
        let of = |target, units, cpu| outcome(round, Case::Short, target, units, cpu * scale);
        let peers = [of("direct", 9000, 0.0), of("haproxy", 2000, 1.2), of("nginx", 1000, 0.4)];
        peers.into_iter().chain([of("proxy", 4000, 0.8), of("proxy-2", 4000, 0.4)])
    };
    round(1, 1.0).chain(round(2, 10.0)).collect()
}

#[test]
fn ratios_are_within_a_round_and_to_the_best_peer() {
    let summaries = summary::all(&targets(), &two_rounds());
    let short = &summaries[0];
    let ours = work(short, "proxy");
    assert_eq!(ours.cost_ratio, Some(0.5), "to nginx, the cheapest");
    assert_eq!(ours.rate_ratio, Some(2.0), "to haproxy, the fastest");
    assert_eq!((ours.rate, ours.shares), (2000.0, [220.0, 25.0, 12.5, 0.5]));
    assert_eq!(ours.cost_ratio_to_first, None);
    assert_eq!(work(short, "proxy-2").cost_ratio_to_first, Some(0.5));
    let direct = work(short, "direct");
    assert_eq!((direct.cost, direct.cost_ratio, direct.rate_ratio), (None, None, Some(4.5)));
}

#[test]
fn without_peers_ratios_are_to_the_first_build() {
    let ours: Vec<_> = targets().into_iter().filter(|target| !target.is_peer()).collect();
    let summaries = summary::all(&ours, &two_rounds());
    assert_eq!(work(&summaries[0], "proxy").cost_ratio, Some(1.0));
    assert_eq!(work(&summaries[0], "proxy-2").cost_ratio, Some(0.5));
}

#[test]
fn a_round_that_one_of_two_has_not_done_does_not_count() {
    let mut outcomes = two_rounds();
    outcomes.retain(|outcome| outcome.round == 2 || outcome.target != "proxy");
    outcomes.push(outcome(3, Case::Short, "proxy", 1, 99.0));
    assert_eq!(work(&summary::all(&targets(), &outcomes)[0], "proxy").cost_ratio, Some(0.5));
}

#[test]
fn a_table_has_a_cell_for_each_column() {
    let mut outcomes = two_rounds();
    outcomes.extend([killed("nginx", 3, 16), killed("proxy", 0, 0)]);
    outcomes.push(outcome(1, Case::Bulk, "proxy", 4_000_000_000, 0.8));
    let summaries = summary::all(&targets(), &outcomes);
    for summary in &summaries {
        let table = table::table(summary);
        let lines: Vec<_> = table.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 2 + summary.rows.len(), "{table}");
        let cells = |line: &&str| line.matches('|').count();
        assert!(lines.iter().all(|line| cells(line) == cells(&lines[0])), "{table}");
    }
    let tables = summaries.iter().map(table::table).collect::<String>();
    for line in [
        "| **proxy** | 16.0 | – | 0.200 | – | 0 | 40 | 25 | 12 | 0 |",
        "| nginx | 1000 | 3 | 12.3 | 16 | 16 | – |",
        "| **proxy** | 1000 | 0 | 12.3 | 16 | 0 | 3.00 |",
    ] {
        assert!(tables.contains(line), "no {line} in {tables}");
    }
}

#[test]
fn figures_have_three_digits_that_matter() {
    let figures = [0.0, 0.1234, 0.9999, 1.234, 12.34, 99.96, 123.4, 1234.5, 1_234_567.0].map(table::figure);
    assert_eq!(figures, ["0", "0.123", "1.00", "1.23", "12.3", "100", "123", "1,234", "1,234,567"]);
}

#[test]
fn a_plot_has_a_bar_for_each_proxy_in_each_case_with_ratios() {
    let mut outcomes = two_rounds();
    outcomes.extend([killed("nginx", 3, 16), killed("proxy", 0, 0)]);
    let svg = plot::plot(&summary::all(&targets(), &outcomes));
    assert_eq!(
        (svg.matches("<rect class=\"peer\"").count(), svg.matches("<rect class=\"ours\"").count()),
        (2, 2)
    );
    assert!(svg.contains("width=\"120.0\""), "a half is half as long as one: {svg}");
    assert!(!svg.contains("NaN") && !svg.contains("direct") && svg.contains("prefers-color-scheme: dark"));
}
