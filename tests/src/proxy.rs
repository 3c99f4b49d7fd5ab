//! The proxy under test: wait until it is ready, look at it, hurt it, and be sure that nothing of
//! it is left in the end.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::builder::{Builder, Failure, binary, ends};
use crate::metrics::{self, Metrics};
use crate::net::at;
use crate::process::{Guard, Process, signal, signal_thread, threads, wait_for};
use crate::status::Status;
use crate::wait::{until, until_true};

/// Where the tests' proxies export their metrics.
pub const METRICS: &str = "127.0.0.1:9100";

/// The environment variable that all processes of one proxy have, those of its successors too. Its value is the
/// directory of the proxy's control socket.
pub const RUN: &str = "PROXY_TEST_RUN";

/// Values of [`RUN`] of the proxies that were started and not ended yet.
static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// From now on a panic ends all proxies before it aborts: where no destructor runs, their twins would take
/// over from the supervisors that die with this process.
pub fn stop_all_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        tell(what);
        let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        live.iter().for_each(|run| kill_all(run));
    }));
}

/// Kills all processes of a proxy. It panics nowhere, for it is called in panics.
fn kill_all(run: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    // What dies may leave one that takes its place, or that is just being made.
    loop {
        let left = Process::all_with(RUN, run);
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        match (left.is_empty(), Instant::now() < end) {
            (true, _) => return,
            (false, true) => thread::sleep(Duration::from_millis(1)),
            (false, false) => return eprintln!("these processes of a proxy cannot be killed: {left:?}"),
        }
    }
}

/// Collects what the process logs, for as long as anybody holds its standard error.
fn capture(child: &mut Child) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let (to, from) = (Arc::clone(&log), child.stderr.take().expect("piped"));
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut log = to.lock().expect("lock");
            log.push_str(&line);
            log.push('\n');
        }
    });
    log
}

/// A running proxy. Dropping it ends its processes, all of them; a failing test prints its log.
pub struct Proxy {
    control: PathBuf,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
    directory: TempDir,
}

impl Proxy {
    /// A proxy with nothing but a control socket and metrics yet.
    #[track_caller]
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(mut child: Child, control: PathBuf, directory: TempDir) -> Self {
        LIVE.lock().expect("lock").insert(directory.path().to_owned());
        let log = capture(&mut child);
        let child = Mutex::new(child);
        Self { control, child, log, directory }
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        until_true("both pools are ready", || {
            if let Some(end) = self.ended() {
                panic!("proxy ended before it was ready: {end}; it said:\n{}", self.log());
            }
            self.try_status().is_some_and(|status| status.whole())
        });
    }

    /// All processes of it, whatever they are, the candidates of an upgrade among them.
    pub fn processes(&self) -> Vec<Process> {
        Process::all_with(RUN, self.directory.path())
    }

    /// The pid of the supervisor that was started (a twin or a successor may have taken its place).
    pub fn supervisor(&self) -> i32 {
        self.child.lock().expect("lock").id().cast_signed()
    }

    /// The control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Runs a verb of the command line against this proxy.
    #[track_caller]
    pub fn verb(&self, words: &[&str]) -> Failure {
        ends(self.verb_command(words))
    }

    /// The same, not started yet.
    pub fn verb_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words).arg("--control").arg(&self.control).stdin(Stdio::null());
        command
    }

    /// `proxy status --json`, if it answers now.
    pub fn try_status(&self) -> Option<Status> {
        let output = self.verb_command(&["status", "--json"]).output().expect("run proxy status");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// `proxy status --json`, as soon as it answers.
    #[track_caller]
    pub fn status(&self) -> Status {
        until("proxy status answers", || self.try_status())
    }

    /// The status, as soon as it satisfies the condition.
    #[track_caller]
    pub fn until_status(&self, what: &str, mut condition: impl FnMut(&Status) -> bool) -> Status {
        until(what, || self.try_status().filter(&mut condition))
    }

    /// The pid of the pool in this seat now.
    #[track_caller]
    pub fn pid(&self, seat: &str) -> i32 {
        self.status().pid(seat)
    }

    /// Sends a signal to the pool in this seat, and returns its pid.
    #[track_caller]
    pub fn signal(&self, seat: &str, what: Signal) -> i32 {
        let pid = self.pid(seat);
        signal(pid, what);
        pid
    }

    /// Sends a signal to the supervisor.
    #[track_caller]
    pub fn signal_supervisor(&self, what: Signal) {
        signal(self.supervisor(), what);
    }

    /// Blocks one worker thread of a pool for 3 s. Needs `PROXY_TEST_HOOKS=1`.
    #[track_caller]
    pub fn block_worker(&self, seat: &str, worker: usize) {
        let (pid, name) = (self.pid(seat), format!("worker-{worker}"));
        let all = threads(pid);
        let found = all.iter().find(|(_, thread)| *thread == name);
        let (tid, _) = found.unwrap_or_else(|| panic!("no {name} among {all:?}"));
        signal_thread(pid, *tid, Signal::SIGUSR1);
    }

    /// How the supervisor ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().expect("lock").try_wait().expect("wait")
    }

    /// Waits until the supervisor ends.
    #[track_caller]
    pub fn wait_end(&self) -> ExitStatus {
        until("proxy ends", || self.ended())
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("lock").clone()
    }

    /// Scrapes its metrics, as soon as they can be had.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.metrics_text())
    }

    /// Its metrics as they come.
    #[track_caller]
    pub fn metrics_text(&self) -> String {
        until("metrics can be had", || {
            let answer = self.get("/metrics").ok()?;
            (answer.code == 200).then_some(answer.body)
        })
    }

    /// A GET request to the metrics listener.
    pub fn get(&self, path: &str) -> std::io::Result<metrics::Answer> {
        metrics::get(at(METRICS), path)
    }

    /// Polls the metrics until a sum reaches so much. They may lag behind by a moment.
    #[track_caller]
    pub fn until_metric(&self, name: &str, labels: &[(&str, &str)], at_least: f64) -> Metrics {
        let what = format!("{name}{labels:?} reaches {at_least}");
        until(&what, || Some(self.metrics()).filter(|m| m.sum(name, labels) >= at_least))
    }

    /// Ends the supervisor in good order if it does so, and then whatever is left.
    fn end(&self) {
        if self.ended().is_some() && !self.processes().is_empty() {
            // A twin or a successor has taken its place.
            let mut stop = self.verb_command(&["stop", "--now"]);
            let stop = stop.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            wait_for(&mut Guard(stop.expect("start proxy stop")).0, Duration::from_secs(5));
        }
        let mut child = self.child.lock().expect("lock");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        if matches!(child.try_wait(), Ok(None)) {
            // The first one drains, the next one ends it; two that are pending at once would be one.
            let mut ends_within = |at_most| {
                let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
                wait_for(&mut child, at_most).is_some()
            };
            if !ends_within(Duration::from_millis(200)) && !ends_within(Duration::from_secs(5)) {
                eprintln!("the supervisor does not end on SIGTERM: killing it");
            }
        }
        kill_all(self.directory.path());
        let _ = child.wait();
        LIVE.lock().expect("lock").remove(self.directory.path());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let status = self.try_status();
            eprintln!("--- status of the proxy: {status:#?}");
        }
        self.end();
        if thread::panicking() {
            eprintln!("--- log of the proxy:\n{}---", self.log());
        }
    }
}
