//! The load generator: one thread, one epoll set, a file for each case. It measures too, in the same thread
//! and by the same clock: see [`meter`]. It takes less time for its work than any proxy does, or `direct`
//! would be no faster than they are.

mod bulk;
mod exchange;
mod kill;
mod meter;
mod ping;
mod short;
mod udp;

use std::io::{Write as _, stdout};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cases::Case;
use crate::sample::Sample;
use meter::Meter;

/// What it is told.
#[derive(Args)]
pub struct Arguments {
    #[arg(long)]
    case: Case,
    /// Where the target listens
    #[arg(long)]
    to: SocketAddr,
    /// How long is measured
    #[arg(long)]
    seconds: f64,
    /// The server's process, whose time is told apart
    #[arg(long)]
    server: i32,
}

/// Said by [`kill`] on standard output when the time has come.
pub const KILL: &str = "kill";

/// Does the work of the case, and says in a line of JSON what has come of it: a [`Sample`].
pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { case, to, seconds, server } = *arguments;
    let length = Duration::from_secs_f64(seconds);
    let meter = || Meter::new(length, server);
    let sample = match case {
        Case::Bulk => Sample::Work(bulk::run(to, meter())?),
        Case::Short => Sample::Work(short::run(to, meter())?),
        Case::Ping => Sample::Work(ping::run(to, meter())?),
        Case::Udp => Sample::Work(udp::run(to, meter())?),
        Case::Kill => Sample::Kill(kill::run(to, length)?),
    };
    say(&serde_json::to_string(&sample)?)
}

fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
