//! Figures in words and tables. Pure.

use super::summary::{Figures, Row, Summary, WorkFigures, cost, rate};
use crate::cases::Case;
use crate::rounds::NOISE;
use crate::sample::{Kill, Sample, Work};

/// A case as a table in Markdown, with a heading.
pub fn table(summary: &Summary) -> String {
    let Summary { case, rows } = summary;
    let heading = format!("### {}: {}\n", case.name(), case.describe());
    let has_latencies = matches!(case, Case::Short | Case::Ping);
    let is_builds = rows.iter().filter(|row| row.is_ours).count() > 1;
    let columns = columns(*case, has_latencies, is_builds);
    let mut lines = vec![heading, line(&columns), line(&vec!["---".into(); columns.len()])];
    lines.extend(rows.iter().map(|row| line(&cells(row, has_latencies, is_builds))));
    lines.join("\n") + "\n"
}

fn columns(case: Case, has_latencies: bool, is_builds: bool) -> Vec<String> {
    let mut columns = vec![String::new()];
    if case == Case::Kill {
        let killed = ["new connections", "failed", "longest gap, ms", "streams", "lost", "longest stall, ms"];
        columns.extend(killed.map(String::from));
        return columns;
    }
    columns.extend([case.rate().name.into(), "× best".into()]);
    columns.extend([format!("CPU {}", case.cost().name), "× best".into()]);
    if is_builds {
        columns.push("CPU × first".into());
    }
    if has_latencies {
        columns.extend(["p50 µs".into(), "p99 µs".into()]);
    }
    columns.extend(["failed %", "target", "load", "server", "other"].map(String::from));
    columns
}

fn cells(row: &Row, has_latencies: bool, is_builds: bool) -> Vec<String> {
    let name = if row.is_ours { format!("**{}**", row.target) } else { row.target.clone() };
    let mut cells = vec![name];
    match &row.figures {
        Figures::Kill(kill) => cells.extend(kill_cells(kill)),
        Figures::Work(work) => cells.extend(work_cells(work, has_latencies, is_builds)),
    }
    cells
}

fn kill_cells(kill: &Kill) -> [String; 6] {
    let Kill { attempts, failed, streams, lost, gap_ms, stall_ms } = kill;
    let stall = if lost == streams { String::from("–") } else { figure(*stall_ms) };
    [attempts.to_string(), failed.to_string(), figure(*gap_ms), streams.to_string(), lost.to_string(), stall]
}

fn work_cells(work: &WorkFigures, has_latencies: bool, is_builds: bool) -> Vec<String> {
    let mut cells = vec![figure(work.rate), ratio(work.rate_ratio)];
    cells.extend([work.cost.map_or("–".into(), figure), ratio(work.cost_ratio)]);
    if is_builds {
        cells.push(ratio(work.cost_ratio_to_first));
    }
    if has_latencies {
        cells.extend([figure(work.p50_us), figure(work.p99_us)]);
    }
    cells.push(figure(work.failed_percent));
    cells.extend(work.shares.map(|percent| format!("{percent:.0}")));
    cells
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// A ratio, or a dash.
pub fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"))
}

/// A number with three digits that matter, or all before the point, in thousands.
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        0.0 => 0,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let groups: Vec<&[u8]> = whole.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(",") + rest
}

/// What one run has come to, for who watches.
pub fn in_a_line(case: Case, sample: &Sample) -> String {
    let noise = match sample.noise() {
        noise if noise >= NOISE => format!(" (others had {:.0} % of a processor)", 100.0 * noise),
        _ => String::new(),
    };
    match sample {
        Sample::Work(work) => work_in_a_line(case, work) + &noise,
        Sample::Kill(Kill { attempts, failed, streams, lost, gap_ms, .. }) => format!(
            "{failed} of {attempts} new connections failed, {lost} of {streams} streams lost, gap {} ms",
            figure(*gap_ms)
        ),
    }
}

fn work_in_a_line(case: Case, work: &Work) -> String {
    let (speed, price) = (case.rate(), case.cost());
    let mut text = format!("{:>8} {}", figure(rate(work) * speed.factor), speed.name);
    if work.cpu.target > 0.0 {
        text += &format!(", CPU {} {}", figure(cost(work) * price.factor), price.name);
    }
    if work.p99_us > 0.0 {
        text += &format!(", p99 {} µs", figure(work.p99_us));
    }
    text
}
