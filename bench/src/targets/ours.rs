//! proxy: supervisor, both pools, twin and control, with all protections that are on by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cases::{LISTEN, METRICS};
use crate::isolation::DIRECTORY;

pub fn command(binary: &Path, server: SocketAddr) -> Command {
    let mut command = Command::new(binary);
    command.arg("run").arg("--control").arg(control());
    command.arg("--metrics").arg(METRICS.to_string());
    for scheme in ["tcp", "udp"] {
        command.arg("--listen").arg(format!("{scheme}://{LISTEN}"));
    }
    command.arg("--upstream").arg(server.to_string());
    command
}

/// Whether both pools are ready (`proxy status` ends with 0).
pub fn is_whole(binary: &Path) -> Result<bool> {
    Ok(status(binary)?.is_some())
}

/// The process of the primary pool.
pub fn primary(binary: &Path) -> Result<i32> {
    let status = status(binary)?.context("proxy is not whole")?;
    let pid = status["pools"][0]["pid"].as_i64().context("`proxy status` tells of no primary")?;
    Ok(i32::try_from(pid)?)
}

fn status(binary: &Path) -> Result<Option<Value>> {
    let mut command = Command::new(binary);
    command.args(["status", "--json", "--control"]).arg(control());
    let output = command.output().context("cannot run `proxy status`")?;
    if !output.status.success() {
        return Ok(None);
    }
    serde_json::from_slice(&output.stdout).map(Some).context("`proxy status` is not JSON")
}

fn control() -> PathBuf {
    Path::new(DIRECTORY).join("proxy.sock")
}
