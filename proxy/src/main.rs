//! The `proxy` command.

use std::process::ExitCode;

use clap::Parser as _;
use proxy::{
    check,
    cli::{Cli, RunArgs, Verb},
    client, completions,
    config::Config,
    handover::line::{Line, Word},
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
    // There is one if a running proxy has started this one to hand over to it.
    let line = Line::from_environment();
    let refuse = |why: &str| match line {
        // The running proxy tells it; if it is gone, so is who wants to know.
        Some(line) => drop(line.say(&Word::Refused(why.into()))),
        None => eprintln!("proxy: {why}"),
    };
    let config = match Config::from_args(args) {
        Ok(config) => config,
        Err(error) => {
            // Who ends with an offer unread resets the line, and is not heard (unix_release_sock,
            // net/unix/af_unix.c). When it has come, the running proxy knows this process, too.
            line.map(Line::receive_document);
            refuse(&error.to_string());
            return ExitCode::from(USAGE);
        }
    };
    log::init(config.log_format);
    match supervisor::run(config, line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            refuse(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
