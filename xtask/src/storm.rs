//! `cargo xtask storm`: a storm of faults on the proxy (`tests/src/storm/`), as long as one likes.

use std::env;
use std::ffi::OsString;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::shell;

/// Builds proxy and the storm, and runs it.
pub fn run(seed: Option<u64>, minutes: f64, clients: usize, debug: bool) -> Result<()> {
    shell::need_root("a storm (network namespace, BPF)", "storm")?;
    let profile = if debug { "debug" } else { "release" };
    let mut build = shell::cargo();
    build.args(["build", "--package", "proxy", "--package", "proxy-tests", "--bins"]);
    if !debug {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    let built = shell::target().join(profile);
    let proxy = env::var_os("PROXY_BIN").unwrap_or_else(|| OsString::from(built.join("proxy")));
    let seed = seed.unwrap_or_else(of_now);
    shell::run(
        Command::new(built.join("storm"))
            .args(["--seed", &seed.to_string()])
            .args(["--minutes", &minutes.to_string()])
            .args(["--clients", &clients.to_string()])
            .env("PROXY_BIN", proxy),
    )
}

fn of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
