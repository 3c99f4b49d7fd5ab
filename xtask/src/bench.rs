//! `cargo xtask bench`: proxy beside other proxies on the same work (`bench/`).

use std::process::Command;

use anyhow::Result;

use crate::shell;

/// Builds the run, and proxy unless there are binaries of it among the arguments, for release, and starts it.
pub fn run(args: &[String]) -> Result<()> {
    let is_help = args.iter().any(|word| word == "--help" || word == "-h");
    let is_given = args.iter().any(|word| word == "--proxy" || word.starts_with("--proxy="));
    if !is_help {
        shell::need_root("measuring (namespaces, BPF)", "bench")?;
    }
    let mut build = shell::cargo();
    build.args(["build", "--release", "--package", "proxy-bench"]);
    let built = shell::target().join("release");
    let mut bench = Command::new(built.join("proxy-bench"));
    bench.arg("run").args(args);
    if !is_help && !is_given {
        build.args(["--package", "proxy"]);
        bench.arg("--proxy").arg(built.join("proxy"));
    }
    shell::run(&mut build)?;
    shell::run(&mut bench)
}
