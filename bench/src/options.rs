//! What a run may be told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cases::Case;

/// How much is measured, of what.
#[derive(Args)]
pub struct Options {
    /// How often each case is run with each target; figures are medians over the rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// How long each run is measured, 0.05 to 600
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// How often a run is repeated at most that other work on the machine disturbed
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub repeats: u32,
    /// Cases to run, by default all
    #[arg(long, value_name = "CASE,...", value_delimiter = ',')]
    pub only: Vec<Case>,
    /// What to run beside proxy, by default all that is installed
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// A binary of proxy, by default its release build; several are compared with each other, too
    #[arg(long, value_name = "PATH", required = true)]
    pub proxy: Vec<PathBuf>,
    /// Where to write table.md, results.json and plot.svg; not below /run, which the run has for itself
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What is run beside proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// No proxy: the limits of load generator and server
    Direct,
    /// HAProxy as it comes
    Haproxy,
    /// HAProxy with splicing forced
    HaproxySplice,
    /// nginx with its stream module
    Nginx,
}

impl Options {
    /// The cases that were chosen, each once, in the order in which they are run.
    pub fn cases(&self) -> Vec<Case> {
        let is_chosen = |case: &Case| self.only.is_empty() || self.only.contains(case);
        Case::ALL.into_iter().filter(is_chosen).collect()
    }

    /// The same of the peers.
    pub fn peers(&self) -> Vec<Peer> {
        let is_chosen = |peer: &Peer| self.peers.is_empty() || self.peers.contains(peer);
        Peer::value_variants().iter().copied().filter(is_chosen).collect()
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0.05 to 600".into()),
    }
}
