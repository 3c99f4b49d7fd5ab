//! A run does all of its work, and leaves nothing running. What it measures on a machine that runs tests says nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// In the environment of all processes of a test's run, with the test's name.
const MARK: &str = "PROXY_BENCH_TEST";

/// The binary under test: `PROXY_BIN`, or the one beside this package's.
fn proxy() -> PathBuf {
    let built = || Path::new(env!("CARGO_BIN_EXE_proxy-bench")).with_file_name("proxy");
    let path = env::var_os("PROXY_BIN").map_or_else(built, PathBuf::from);
    assert!(path.is_file(), "no {}: run `cargo build` first, or set PROXY_BIN", path.display());
    path
}

/// One round with nothing but proxy and no proxy, so many seconds for each case.
fn bench(test: &str, seconds: &str) -> Command {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_proxy-bench"));
    bench.args(["run", "--rounds", "1", "--seconds", seconds, "--repeats", "0", "--peers", "direct"]);
    bench.arg("--proxy").arg(proxy()).env(MARK, test);
    bench
}

/// How many processes of the test's run there are.
fn left(test: &str) -> usize {
    let mark = format!("{MARK}={test}");
    let is_marked =
        |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| fs::read(entry.path().join("environ")).is_ok_and(is_marked)).count()
}

#[test]
fn every_case_counts_work() {
    let directory = tempfile::tempdir().unwrap();
    let output = bench("every-case", "0.2").arg("--out").arg(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout);
    for file in ["table.md", "results.json", "plot.svg"] {
        assert!(directory.path().join(file).is_file(), "no {file}");
    }
    let results = fs::read(directory.path().join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4 + 5, "{said}");
    for run in runs {
        let (sample, is_ours) = (&run["sample"], run["target"] == "proxy");
        let work = if run["case"] == "kill" { &sample["attempts"] } else { &sample["units"] };
        assert!(work.as_u64().unwrap() > 0, "{run}");
        assert!(
            run["case"] == "kill" || is_ours == (sample["cpu"]["target"].as_f64().unwrap() > 0.0),
            "{run}"
        );
    }
    assert_eq!(table.matches("| **proxy** |").count(), 5, "{table}");
    assert_eq!(left("every-case"), 0);
}

#[test]
fn what_it_has_started_ends_with_it() {
    let mut run = bench("interrupted", "600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Itself, the one in the namespaces, server and load generator.
    while left("interrupted") < 4 {
        assert!(Instant::now() < deadline, "{} processes only", left("interrupted"));
        thread::sleep(Duration::from_millis(5));
    }
    // (What a shell starts in the background ignores SIGINT.)
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGTERM).unwrap();
    run.wait().unwrap();
    while left("interrupted") > 0 {
        assert!(Instant::now() < deadline, "{} processes are left", left("interrupted"));
        thread::sleep(Duration::from_millis(5));
    }
}
