//! Bars of processor time for a unit of work, relative to the best peer's, in each case. SVG, made by hand: it is
//! some rectangles and words. Pure.

use std::fmt::Write as _;

use super::summary::{Figures, Row, Summary, WorkFigures};
use super::table::figure;
use crate::cases::Case;

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long one of 1 is.
const LEFT: f64 = 150.0;
const UNIT: f64 = 240.0;
/// The longest bar; what is longer is cut, and its number says how long it is.
const MOST: f64 = 1.8;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;
const HEAD: f64 = 30.0;
const TOP: f64 = 44.0;

/// Colours for light and dark pages; the page itself shows through.
const STYLE: &str = "
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; }
  .faint { fill: #57606a; font-size: 12px; }
  .peer { fill: #afb8c1; }
  .ours { fill: #0969da; }
  .one { stroke: #57606a; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .faint { fill: #8d96a0; }
    .peer { fill: #545d68; }
    .ours { fill: #4493f8; }
    .one { stroke: #8d96a0; }
  }
";

/// The plot. A case without ratios, and a target that takes no processor time, has no bars.
pub fn plot(summaries: &[Summary]) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for summary in summaries {
        let bars: Vec<_> = summary.rows.iter().filter_map(bar).collect();
        if !bars.is_empty() {
            y = group(&mut body, summary.case, &bars, y);
        }
    }
    let title = "Processor time for the same work, × the best other proxy (shorter is better)";
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"{WIDTH}\" role=\"img\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n{body}</svg>\n"
    )
}

struct Bar<'a> {
    name: &'a str,
    class: &'static str,
    ratio: f64,
    cost: f64,
}

fn bar(row: &Row) -> Option<Bar<'_>> {
    let Figures::Work(WorkFigures { cost: Some(cost), cost_ratio: Some(ratio), .. }) = row.figures else {
        return None;
    };
    let class = if row.is_ours { "ours" } else { "peer" };
    Some(Bar { name: &row.target, class, ratio, cost })
}

/// Draws a case from `y` on, and answers where the next one begins.
fn group(body: &mut String, case: Case, bars: &[Bar], y: f64) -> f64 {
    let unit = case.cost().name;
    let (name, what) = (case.name(), case.describe());
    let line = y + 14.0;
    // A String takes whatever is written.
    let _ = writeln!(
        body,
        "<text class=\"title\" x=\"8\" y=\"{line}\">{name}</text>\
         <text class=\"faint\" x=\"60\" y=\"{line}\">{what}</text>"
    );
    let first = y + HEAD - 6.0;
    for (index, Bar { name, class, ratio, cost }) in bars.iter().enumerate() {
        let top = first + index as f64 * STEP;
        let (length, middle) = (ratio.min(MOST) * UNIT, top + 13.0);
        let (label, cost) = (LEFT - 8.0, figure(*cost));
        let _ = writeln!(
            body,
            "<text x=\"{label}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{middle}\">{ratio:.2} <tspan class=\"faint\">{cost} {unit}</tspan></text>",
            // Beside the bar, and never on the line at 1.
            LEFT + length.max(UNIT) + 8.0
        );
    }
    let end = first + bars.len() as f64 * STEP;
    let one = LEFT + UNIT;
    let _ = writeln!(
        body,
        "<line class=\"one\" x1=\"{one}\" x2=\"{one}\" y1=\"{}\" y2=\"{}\"/>",
        first - 3.0,
        end - 3.0
    );
    end + 12.0
}
