//! `cargo xtask man`: the manual pages, made of the command line's own description.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

/// Writes `proxy.1` and `proxy-VERB.1` to the directory, by default `target/man`. Answers it.
pub fn write(directory: Option<PathBuf>) -> Result<PathBuf> {
    let directory = directory.unwrap_or_else(|| shell::target().join("man"));
    let example = ["run", "--quiet", "--package", "proxy", "--example", "man", "--"];
    shell::run(shell::cargo().args(example).arg(&directory))?;
    Ok(directory)
}

/// The same, and says where they are.
pub fn run(directory: Option<PathBuf>) -> Result<()> {
    println!("the manual pages are in {}", write(directory)?.display());
    Ok(())
}
