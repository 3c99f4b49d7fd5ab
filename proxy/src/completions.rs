//! `proxy completions SHELL`: what a shell completes the command line by.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// Prints the shell's script to standard output.
pub fn run(shell: Shell) -> ExitCode {
    // Not straight to standard output: clap_complete panics if that fails, as when a reader went away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "proxy", &mut script);
    match io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "proxy: cannot write the completions: {error}");
            ExitCode::FAILURE
        }
    }
}
