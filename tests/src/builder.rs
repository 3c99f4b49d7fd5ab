//! What to start the proxy with, and how it ended if it was not meant to run.

use std::env;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::process::{self, wait_for};
use crate::proxy::{METRICS, Proxy, RUN};
use crate::sys;
use crate::wait::DEADLINE;

/// Leases for tests that are not about them: on a busy machine a healthy worker may be silent for
/// longer than the default of 100 ms, and new traffic goes elsewhere for a moment.
const CALM: [&str; 4] = ["--lease", "1s", "--fence-after", "10s"];

/// The binary under test: `PROXY_BIN`, or `proxy` in the target directory of this test.
#[track_caller]
pub fn binary() -> PathBuf {
    let path = env::var_os("PROXY_BIN").map_or_else(|| built("proxy"), PathBuf::from);
    assert!(path.is_file(), "no {}: run `cargo build` first, or set PROXY_BIN", path.display());
    path
}

/// A binary of this workspace, next to this test's own: target/debug/deps/TEST-HASH is where
/// cargo puts a test, target/debug/NAME where it puts a binary.
pub fn built(name: &str) -> PathBuf {
    let test = env::current_exe().expect("own path");
    test.ancestors().nth(2).expect("target/debug").join(name)
}

/// What to start a proxy with.
pub struct Builder {
    program: Vec<OsString>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Vec<OwnedFd>,
    directory: TempDir,
    control: Option<PathBuf>,
    metrics: bool,
}

impl Builder {
    /// The binary under test with a control socket, metrics, and long leases ([`CALM`]) unless
    /// `--lease` or `--fence-after` is given; no other flags.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Self {
            program: vec![binary().into()],
            flags: Vec::new(),
            environment: Vec::new(),
            descriptors: Vec::new(),
            directory: tempfile::tempdir().expect("temporary directory"),
            control: None,
            metrics: true,
        }
    }

    /// Adds `--listen`, such as `tcp://127.0.0.1:8080`.
    pub fn listen(self, address: &str) -> Self {
        self.flag("--listen", address)
    }

    /// Adds `--upstream`, such as `127.0.0.1:9001`.
    pub fn upstream(self, server: &str) -> Self {
        self.flag("--upstream", server)
    }

    /// Adds any flag with a value.
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a word to the command line as it is.
    pub fn word(mut self, word: &str) -> Self {
        self.flags.push(word.to_owned());
        self
    }

    /// Gives it this settings file.
    #[track_caller]
    pub fn settings(self, text: &str) -> Self {
        let path = self.directory.path().join("proxy.toml");
        std::fs::write(&path, text).expect("write settings");
        let path = path.to_str().expect("text").to_owned();
        self.flag("--config", &path)
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Gives it descriptors, by the numbers from 3 up.
    pub fn give(mut self, descriptors: Vec<OwnedFd>) -> Self {
        self.descriptors = descriptors;
        self
    }

    /// Starts it through another program, such as `setarch --uname-2.6`.
    pub fn through(mut self, words: &[&str]) -> Self {
        let words = words.iter().map(OsString::from);
        self.program = words.chain(self.program).collect();
        self
    }

    /// Uses another binary.
    pub fn binary(mut self, path: &Path) -> Self {
        self.program = vec![path.into()];
        self
    }

    /// Uses the control socket of another proxy instead of one of its own.
    pub fn control(mut self, path: &Path) -> Self {
        self.control = Some(path.to_owned());
        self
    }

    /// Starts no metrics listener.
    pub fn without_metrics(mut self) -> Self {
        self.metrics = false;
        self
    }

    fn control_path(&self) -> PathBuf {
        self.control.clone().unwrap_or_else(|| self.directory.path().join("proxy.sock"))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg(verb).args(&self.flags);
        if !self.flags.iter().any(|word| word == "--lease" || word == "--fence-after") {
            command.args(CALM);
        }
        command.envs(self.environment.iter().map(|(k, v)| (k, v))).env(RUN, self.directory.path());
        command.stdin(Stdio::null());
        sys::die_with_thread(&mut command);
        if !self.descriptors.is_empty() {
            sys::give(&mut command, &self.descriptors);
        }
        command
    }

    fn run_command(&self) -> Command {
        let mut command = self.command("run");
        command.arg("--control").arg(self.control_path());
        if self.metrics {
            command.args(["--metrics", METRICS]);
        }
        command
    }

    /// Starts it and waits until both pools are ready.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let mut command = self.run_command();
        // It says nothing there, and whoever waits for this process's output would wait for it too.
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("start proxy");
        let proxy = Proxy::new(child, self.control_path(), self.directory);
        proxy.wait_ready();
        proxy
    }

    /// Runs `proxy run`, which is expected to end by itself, and soon.
    #[track_caller]
    pub fn fails(self) -> Failure {
        ends(self.run_command())
    }

    /// Runs `proxy check` with the same flags.
    #[track_caller]
    pub fn check(self) -> Failure {
        ends(self.command("check"))
    }
}

/// How a command ended that was not meant to keep running.
#[derive(Debug)]
pub struct Failure {
    /// The exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// Everything that it printed: standard output, then standard error.
    pub text: String,
}

impl Failure {
    /// Asserts the exit code and that each of the words is in the message, whatever its case.
    #[track_caller]
    pub fn says(&self, code: i32, words: &[&str]) {
        let Self { code: got, text } = self;
        assert_eq!(*got, Some(code), "exit code; it said: {text}");
        let lower = text.to_lowercase();
        for word in words {
            assert!(lower.contains(&word.to_lowercase()), "no {word:?} in: {text}");
        }
        assert!(!lower.contains("panicked"), "a panic is no message: {text}");
    }
}

impl From<Output> for Failure {
    fn from(output: Output) -> Self {
        let (out, err) = (&output.stdout, &output.stderr);
        let text = [out, err].map(|bytes| String::from_utf8_lossy(bytes)).concat();
        Self { code: output.status.code(), text }
    }
}

/// Runs a command to its end, and fails if it does not end. Its output must fit into a pipe.
#[track_caller]
pub(crate) fn ends(mut command: Command) -> Failure {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("start proxy");
    if wait_for(&mut child, DEADLINE).is_none() {
        // Its children outlive the supervisor, and hold its standard error open.
        process::kill_with_children(child.id().cast_signed());
        let output = Failure::from(child.wait_with_output().expect("output"));
        panic!("still running after {DEADLINE:?}; it said: {}", output.text);
    }
    child.wait_with_output().expect("output").into()
}
