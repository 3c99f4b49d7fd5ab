//! `cargo xtask gap`: how long established connections wait at a takeover (`tests/src/gap/`).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Builds proxy and the measurement for release, and runs it.
pub fn run(connections: usize, active: usize, kills: usize) -> Result<()> {
    shell::need_root("measuring (network namespace, BPF)", "gap")?;
    let mut build = shell::cargo();
    build.args(["build", "--release", "--package", "proxy", "--package", "proxy-tests", "--bins"]);
    shell::run(&mut build)?;
    let built = shell::target().join("release");
    let proxy = env::var_os("PROXY_BIN").unwrap_or_else(|| OsString::from(built.join("proxy")));
    // Other work on the machine shows in the numbers.
    println!("load of the machine: {}", fs::read_to_string("/proc/loadavg")?.trim_end());
    shell::run(
        Command::new(built.join("gap"))
            .args(["--connections", &connections.to_string()])
            .args(["--active", &active.to_string()])
            .args(["--kills", &kills.to_string()])
            .env("PROXY_BIN", proxy),
    )
}
