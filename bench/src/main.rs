//! proxy beside other proxies, on the same work: `cargo xtask bench` builds and starts it.
//!
//! One process starts the others, each a process of this very binary or a proxy: a server ([`serve`]), a load
//! generator ([`load`]) and between the two the target ([`targets`]). All of them are in namespaces of their own
//! ([`isolation`]), so that ports are free, and nothing is left over, however it ends. [`rounds`] says what is run
//! when, [`run`] runs it once, [`report`] makes tables and the plot of what came of it.
//!
//! A figure is fit for use only beside another one of the same run: machines, kernels and what else they do
//! differ more than proxies do. So all targets take turns, ratios are those within a round, and the measure is
//! processor time for a unit of work ([`cpu`]), which other work on the machine disturbs least.
#![forbid(unsafe_code)]

mod cases;
mod cpu;
mod isolation;
mod load;
mod machine;
mod options;
mod report;
mod rounds;
mod run;
mod sample;
mod serve;
mod set;
mod targets;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

/// What the run's own processes are.
#[derive(Subcommand)]
enum Part {
    /// proxy beside other proxies, on the same work: processor time for a unit of it, rates, latencies
    #[command(override_usage = "cargo xtask bench [OPTIONS]")]
    Run(options::Options),
    /// The same, in the namespaces that are made for it
    #[command(hide = true)]
    Inside(options::Options),
    /// The server behind the targets
    #[command(hide = true)]
    Serve,
    /// The load generator
    #[command(hide = true)]
    Load(load::Arguments),
}

fn main() -> ExitCode {
    let end = match Cli::parse().part {
        Part::Run(_) => isolation::run_inside(),
        Part::Inside(options) => rounds::run(&options).map(|()| ExitCode::SUCCESS),
        Part::Serve => serve::run().map(|()| ExitCode::SUCCESS),
        Part::Load(arguments) => load::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    end.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}
