//! Writes the manual pages, made of the command line's own description, into a directory. `cargo xtask man`
//! runs it: an example, so that neither proxy nor xtask depends on what makes them.

use std::{env, fs, io, path::Path};

use clap::CommandFactory as _;
use proxy::cli::Cli;

/// Writes `proxy.1`, and `proxy-VERB.1` for each verb.
///
/// # Errors
/// The directory cannot be made or written to.
pub fn write(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[allow(dead_code, reason = "the test of the pages has this file as a module")]
fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: man DIRECTORY");
    write(Path::new(&env::args_os().nth(1).ok_or_else(usage)?))
}
