//! The proxy with fault points compiled in: its pools die where a test wants them to.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::builder::built;

/// The environment variable that arms fault points (`proxy/src/fault.rs`).
pub const VARIABLE: &str = "PROXY_FAULT";

/// Points that only a successor's pools pass, in a handover.
pub const OF_A_HANDOVER: [&str; 5] =
    ["import.done", "claim.begun", "claim.walked", "claim.done", "claim.granted"];

/// The binary with fault points. It is built at the first call, in a directory of its own, so that no
/// other test gets it; `cargo xtask test` has built it before.
#[track_caller]
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

#[track_caller]
fn build() -> PathBuf {
    // target/debug/proxy is where others are.
    let debug = built("proxy");
    let target = debug.ancestors().nth(2).expect("target").join("fault-points");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "proxy", "--features", "fault-points"]);
    cargo.arg("--target-dir").arg(&target);
    let status = cargo.status().expect("start cargo");
    assert!(status.success(), "the proxy with fault points cannot be built: {status}");
    target.join("debug/proxy")
}
