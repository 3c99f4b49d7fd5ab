//! The `proxy` command.

use std::process::ExitCode;

use clap::Parser as _;
use proxy::{
    check,
    cli::{Cli, RunArgs, Verb},
    client, completions,
    config::Config,
    log, supervisor,
};

/// Wrong usage or settings; clap ends with the same code.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Run(args) => run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Completions(args) => completions::run(args.shell),
        verb => client::run(&verb),
    }
}

fn run(args: &RunArgs) -> ExitCode {
    log::init(args.log_format);
    let config = match Config::from_args(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("proxy: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match supervisor::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
