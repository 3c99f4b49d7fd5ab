//! What a run has come to: tables, a plot, and all of it in JSON.

mod plot;
pub mod statistics;
mod summary;
pub mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::cases::Case;
use crate::machine::Machine;
use crate::options::Options;
use crate::rounds::Outcome;
use crate::targets::Target;
use summary::Summary;

/// Prints the tables, and writes all that there is if a directory is given.
pub fn run(machine: &Machine, options: &Options, targets: &[Target], outcomes: &[Outcome]) -> Result<()> {
    let summaries = summary::all(targets, outcomes);
    let page = page(machine, options, targets, &summaries);
    println!("{page}");
    let Some(directory) = &options.out else { return Ok(()) };
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let results = json!({
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "targets": targets.iter().map(described).collect::<Vec<_>>(),
        "summary": &summaries,
        "runs": outcomes,
    });
    write(directory, "table.md", &page)?;
    write(directory, "results.json", &serde_json::to_string_pretty(&results)?)?;
    write(directory, "plot.svg", &plot::plot(&summaries))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

fn described(target: &Target) -> serde_json::Value {
    let server = Case::Ping.server();
    json!({
        "name": target.name,
        "version": target.version,
        "command": target.command_line(server),
        "settings": target.settings(server),
    })
}

/// The whole report, in Markdown.
fn page(machine: &Machine, options: &Options, targets: &[Target], summaries: &[Summary]) -> String {
    let Machine { kernel, processor, processors, system } = machine;
    let (rounds, seconds) = (options.rounds, options.seconds);
    let head = format!(
        "Linux {kernel}, {system}, {processors} processors ({processor}); {rounds} rounds of {seconds} s. \
         Figures are medians over the rounds; *× best* are medians of the ratios, within each round, to the other \
         proxy that is best in that case. *CPU* is the processor time of all processes of the target. The last \
         columns are percent of one processor, of target, load generator, server and everything else: where the \
         first three make up the whole machine the rate is what all of them cost together, and where the last is \
         not near 0 something else disturbed the run.\n"
    );
    let tables = summaries.iter().map(table::table);
    [head].into_iter().chain(tables).chain([commands(targets)]).collect::<Vec<_>>().join("\n")
}

/// What was run, and how it was set up.
fn commands(targets: &[Target]) -> String {
    let mut text = String::from("### What was run\n");
    for target in targets {
        let server = Case::Ping.server();
        text += &format!("\n{}: {}\n", target.name, target.version);
        if let Some(line) = target.command_line(server) {
            text += &format!("\n```\n{line}\n```\n");
        }
        if let Some(settings) = target.settings(server) {
            text += &format!("\n```\n{settings}```\n");
        }
    }
    text
}

#[cfg(test)]
mod tests;
