//! `cargo xtask ci`: everything that must pass before a merge. `cargo xtask lint`: the part of it
//! that needs neither root nor a BPF toolchain.

use anyhow::Result;

use crate::{build_ebpf, docs, shell, test};

/// Runs every check in turn; the first failure ends it.
pub fn run() -> Result<()> {
    shell::need_root("testing (network namespaces, BPF)", "ci")?;
    lint()?;
    build_ebpf::run(true)?;
    test::run(&[])
}

/// Format, lints, generated documents, licences.
pub fn lint() -> Result<()> {
    format()?;
    clippy()?;
    docs::run(true)?;
    licences()
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let deny = ["--", "--deny", "warnings"];
    shell::run(shell::cargo().args(["clippy", "--workspace", "--all-targets"]).args(deny))?;
    shell::run(shell::cargo().args(["clippy", "--package", "proxy", "--features", "fault-points"]).args(deny))
}

/// Licences, sources and doubled crates by cargo-deny, if it is there: to build it takes longer
/// than everything else together. Its advisories need a database from elsewhere and are left out.
fn licences() -> Result<()> {
    if !shell::installed("cargo-deny") {
        println!("skipped: licences and sources, since cargo-deny is not installed");
        return Ok(());
    }
    shell::run(shell::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
}
