//! `cargo xtask reloads`: many reloads under live sessions (`tests/src/reloads/`).

use std::env;
use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::{shell, tools};

/// Builds proxy and the run for release, fetches the programs, and runs it.
pub fn run(minutes: f64, count: usize) -> Result<()> {
    shell::need_root("reloading (network namespace, BPF)", "reloads")?;
    let tools = tools::install()?;
    let mut build = shell::cargo();
    build.args(["build", "--release", "--package", "proxy", "--package", "proxy-tests", "--bins"]);
    shell::run(&mut build)?;
    let built = shell::target().join("release");
    let proxy = env::var_os("PROXY_BIN").unwrap_or_else(|| OsString::from(built.join("proxy")));
    shell::run(
        Command::new(built.join("reloads"))
            .args(["--minutes", &minutes.to_string()])
            .args(["--count", &count.to_string()])
            .env("PATH", tools.path)
            .env("PROXY_TEST_LIBRARIES", tools.libraries)
            .env("PROXY_BIN", proxy),
    )
}
