//! The verbs that talk to a running proxy through its control socket.

mod ask;
mod columns;
mod ending;
mod handover;
mod order;
mod progress;
mod render;
mod servers;
mod sessions;
mod status;
mod takeovers;
mod upstream;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::cli::Verb;
use crate::orders::Order;

pub use ask::AskError;

/// Does what a verb says, and answers the exit code: 0 done, 1 not done; `status` has more.
///
/// `run`, `check` and `completions` are not for a running proxy: they are a usage error here.
pub fn run(verb: &Verb) -> ExitCode {
    let result = match verb {
        Verb::Status(args) => return status::run(args),
        Verb::Upstream(args) => return upstream::run(args),
        Verb::Sessions(verb) => return sessions::run(verb),
        Verb::Failover(args) => order::run(&args.control, &Order::Failover),
        Verb::Failback(args) => order::run(&args.control, &Order::Failback),
        Verb::Reload(args) => handover::reload(&args.control),
        Verb::Upgrade(args) => handover::upgrade(&args.control.control, args.binary.as_deref()),
        Verb::Drain(args) => ending::drain(&args.control),
        Verb::Stop(args) => ending::stop(&args.control.control, args.now),
        Verb::Run(_) | Verb::Check(_) | Verb::Completions(_) => return ExitCode::from(2),
    };
    match result {
        Ok(line) => say(&line),
        Err(error) => complain(&error),
    }
}

/// Prints what happened.
fn say(line: &str) -> ExitCode {
    // A reader that went away does not undo what was done.
    let _ = writeln!(io::stdout(), "{line}");
    ExitCode::SUCCESS
}

/// Prints what failed.
fn complain(error: &AskError) -> ExitCode {
    let _ = writeln!(io::stderr(), "proxy: {error}");
    ExitCode::FAILURE
}
