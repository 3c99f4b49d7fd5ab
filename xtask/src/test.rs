//! `cargo xtask test`: all tests, and what they need.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::{env, time::Instant};

use anyhow::{Context, Result, bail};

use crate::failures::Failures;
use crate::{previous, shell, tools};

/// Runs all tests of the workspace, or those that `args` (of `cargo test`) choose.
pub fn run(args: &[String]) -> Result<()> {
    shell::need_root("testing (network namespaces, BPF)", "test")?;
    let start = Instant::now();
    let result = all(args);
    let seconds = start.elapsed().as_secs();
    match &result {
        Ok(()) => println!("cargo xtask test: all passed in {seconds} s"),
        Err(_) => println!("cargo xtask test: FAILED after {seconds} s"),
    }
    result
}

fn all(args: &[String]) -> Result<()> {
    let tools = tools::install()?;
    let previous = previous::build()?;
    // The tests start these binaries; `cargo test` alone would not build them.
    shell::run(shell::cargo().args(["build", "--package", "proxy", "--package", "xtask"]))?;
    // The crash matrix builds this one if it is not there (tests/src/faulty.rs); not in the time of a test.
    let faulty = ["build", "--package", "proxy", "--features", "fault-points", "--target-dir"];
    shell::run(shell::cargo().args(faulty).arg(shell::target().join("fault-points")))?;
    // --no-fail-fast: one failure does not hide another.
    let is_package = |word: &String| word == "--package" || word.starts_with("-p");
    let packages: &[_] = if args.iter().any(is_package) { &[] } else { &["--workspace"] };
    tell_failures(
        shell::cargo()
            .args(["test", "--no-fail-fast"])
            .args(packages)
            .args(args)
            .env("PATH", tools.path)
            .env("PROXY_TEST_LIBRARIES", tools.libraries)
            // What is tried at random is the same each time, unless somebody wants other cases (proptest's variable).
            .env("PROPTEST_RNG_SEED", env::var_os("PROPTEST_RNG_SEED").unwrap_or("1".into()))
            .env("PROXY_PREVIOUS", previous.unwrap_or_default())
            .env("PROXY_BIN", shell::target().join("debug/proxy")),
    )
}

/// Runs the tests, shows what they print as they print it, and says in the end which failed and why.
fn tell_failures(tests: &mut Command) -> Result<()> {
    shell::tell(tests);
    let mut child = tests.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut failures = Failures::default();
    for line in BufReader::new(child.stdout.take().context("no standard output")?).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        failures.read(&line);
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("cargo test: {status}\n{}", failures.summary());
    }
    Ok(())
}
