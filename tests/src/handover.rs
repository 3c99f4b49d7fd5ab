//! Upgrades and reloads of a running proxy: giving the order, and what must be true after it, whether it was
//! done or failed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::builder::Failure;
use crate::metrics::Metrics;
use crate::process::{Guard, Process, signal, wait_for};
use crate::proxy::Proxy;
use crate::status::Status;
use crate::table::numbers;
use crate::wait::{until, until_true};

/// The old processes must be gone so soon after the order was answered.
pub const GONE: Duration = Duration::from_secs(1);

/// An order is answered within this time, whatever the new binary does.
const ANSWERED: Duration = Duration::from_secs(90);

/// One that was done.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// How long nothing was relayed, as the proxy tells it.
    pub gap: Duration,
    /// From the order to its answer.
    pub took: Duration,
    /// From then until the old processes were seen last.
    pub gone: Duration,
}

/// Both kinds: the words of the command line.
pub const KINDS: [&[&str]; 2] = [&["upgrade"], &["reload"]];

/// Upgrades to the same binary (or what is now at its path).
#[track_caller]
pub fn upgrade(proxy: &Proxy) -> Handover {
    hand_over(proxy, &["upgrade"])
}

/// Upgrades to another binary.
#[track_caller]
pub fn upgrade_to(proxy: &Proxy, binary: &Path) -> Handover {
    hand_over(proxy, &["upgrade", "--binary", binary.to_str().expect("text")])
}

/// Takes the settings anew.
#[track_caller]
pub fn reload(proxy: &Proxy) -> Handover {
    hand_over(proxy, &["reload"])
}

/// Gives the order that these words are, waits until the successor serves, and asserts that it does: by other
/// processes, all of the old ones gone in time, counted, and with every counter at least what it was.
#[track_caller]
pub fn hand_over(proxy: &Proxy, words: &[&str]) -> Handover {
    let before = Before::of(proxy);
    let ordered = Instant::now();
    let answer = order(proxy, words);
    let answered = Instant::now();
    answer.says(0, &[words[0]]);
    let done = before.assert_done(proxy, words[0], ordered, answered);
    if words == ["upgrade"] {
        // Another version may count other things, and other settings have other listeners.
        let gone = proxy.metrics().gone_since(&before.metrics);
        assert!(gone.is_empty(), "counters that are gone: {gone:#?}");
    }
    done
}

/// The same by a signal to the supervisor, which nobody answers.
#[track_caller]
pub fn hand_over_by(proxy: &Proxy, what: Signal, kind: &str) -> Handover {
    let before = Before::of(proxy);
    let ordered = Instant::now();
    signal(before.status.supervisor.pid, what);
    let number = before.status.upgrade.number + 1;
    proxy.until_status("the successor serves", |s| s.upgrade.number == number && s.upgrade.state == "done");
    before.assert_done(proxy, kind, ordered, Instant::now())
}

/// Gives an order that fails: the old one goes on, in the same processes, and says why.
#[track_caller]
pub fn fails(proxy: &Proxy, words: &[&str], why: &[&str]) {
    let before = Before::of(proxy);
    order(proxy, words).says(1, why);
    before.assert_failed(proxy, why);
}

/// Gives an order, and waits for its answer, for long.
#[track_caller]
pub fn order(proxy: &Proxy, words: &[&str]) -> Failure {
    answer(begin_order(proxy, words))
}

/// Gives an order.
#[track_caller]
pub fn begin_order(proxy: &Proxy, words: &[&str]) -> Guard {
    let mut command = proxy.verb_command(words);
    Guard(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start proxy"))
}

/// What came of an order. It must fit into a pipe.
#[track_caller]
pub fn answer(mut order: Guard) -> Failure {
    use std::io::Read as _;
    let status = wait_for(&mut order.0, ANSWERED);
    let status = status.unwrap_or_else(|| panic!("no answer to the order in {ANSWERED:?}"));
    let mut text = String::new();
    order.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    order.0.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
    Failure { code: status.code(), text }
}

/// What was there before an order.
pub struct Before {
    /// The status.
    pub status: Status,
    metrics: Metrics,
    processes: Vec<Process>,
    descriptors: usize,
    errors: usize,
}

impl Before {
    /// What is there now, when nothing is missing.
    #[track_caller]
    pub fn of(proxy: &Proxy) -> Self {
        let status = proxy.until_status("protected", Status::protected);
        let processes = one_generation(proxy);
        let (descriptors, errors) = (descriptors(proxy), errors(proxy).len());
        Self { status, metrics: proxy.metrics(), processes, descriptors, errors }
    }

    /// Processes that were not there before: the candidate, and what it has made.
    pub fn new_ones(&self, proxy: &Proxy) -> Vec<Process> {
        let is_new = |process: &Process| !self.processes.contains(process);
        proxy.processes().into_iter().filter(is_new).collect()
    }

    /// The one of this number.
    #[track_caller]
    pub fn process(&self, pid: i32) -> Process {
        let found = self.processes.iter().find(|process| process.pid == pid);
        *found.unwrap_or_else(|| panic!("no {pid} in {:?}", self.processes))
    }

    #[track_caller]
    fn assert_done(&self, proxy: &Proxy, kind: &str, ordered: Instant, answered: Instant) -> Handover {
        let (mut gone, mut late) = (Duration::ZERO, None);
        until_true("the old processes are gone", || {
            // The last moment at which one was seen: between two looks the machine may stand still.
            let now = answered.elapsed();
            let left: Vec<_> = self.processes.iter().filter(|process| process.is_alive()).collect();
            if !left.is_empty() {
                gone = now;
            }
            if late.is_none() && gone > GONE {
                late = Some(left.iter().map(|process| process.describe()).collect::<Vec<_>>());
            }
            left.is_empty()
        });
        assert!(late.is_none(), "of the old processes lived on for {gone:?}: {late:#?}");
        let after = proxy.until_status("the successor is protected", Status::protected);
        let (old, new) = (&self.status.upgrade, &after.upgrade);
        assert_eq!((new.kind.as_str(), new.state.as_str(), &new.error), (kind, "done", &None), "{new:?}");
        assert_eq!(
            (new.number, new.done, new.failed),
            (old.number + 1, old.done + 1, old.failed),
            "counted on: {old:?}, {new:?}"
        );
        let pids = one_generation(proxy);
        assert!(!pids.iter().any(|pid| self.processes.contains(pid)), "all are new: {pids:?}");
        self.assert_counted_on(proxy);
        let errors = errors(proxy).split_off(self.errors);
        assert!(errors.is_empty(), "it was done with {errors:#?}");
        let gap = Duration::from_micros(new.gap_us);
        Handover { gap, took: answered.duration_since(ordered), gone }
    }

    /// The old one goes on, in the same processes, and says why.
    #[track_caller]
    pub fn assert_failed(&self, proxy: &Proxy, why: &[&str]) {
        let failed =
            |s: &Status| s.upgrade.number > self.status.upgrade.number && s.upgrade.state == "failed";
        let after = proxy.until_status("the failure is told", failed);
        let (old, new) = (&self.status.upgrade, &after.upgrade);
        assert_eq!((new.done, new.failed), (old.done, old.failed + 1), "{old:?}, {new:?}");
        let error = new.error.clone().unwrap_or_default().to_lowercase();
        assert!(why.iter().all(|word| error.contains(&word.to_lowercase())), "no {why:?} in: {error}");
        assert_eq!(one_generation(proxy), self.processes, "the old processes and no others");
        let is_as_before = || descriptors(proxy) == self.descriptors;
        until_true(&format!("there are {} descriptors again", self.descriptors), is_as_before);
        self.assert_counted_on(proxy);
    }

    /// However it ended: one generation serves, nobody else is there, and nothing was lost.
    #[track_caller]
    pub fn assert_ended(&self, proxy: &Proxy) -> Status {
        let has_ended = |s: &Status| s.protected() && ["done", "failed"].contains(&s.upgrade.state.as_str());
        let after = proxy.until_status("it is done or has failed", has_ended);
        one_generation(proxy);
        let now = proxy.metrics();
        for nothing in ["proxy_lost_flows_total", "proxy_takeover_audit_mismatches_total"] {
            assert_eq!(now.sum(nothing, &[]), 0.0, "{}", now.show(nothing));
        }
        after
    }

    /// No counter fell, and no flow was lost.
    #[track_caller]
    pub fn assert_counted_on(&self, proxy: &Proxy) {
        self.assert_ended(proxy);
        let fallen = proxy.metrics().fallen_since(&self.metrics);
        assert!(fallen.is_empty(), "counters that fell: {fallen:#?}");
    }
}

/// What the proxy called an error in its log.
fn errors(proxy: &Proxy) -> Vec<String> {
    let log = proxy.log();
    log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).map(str::to_owned).collect()
}

/// Descriptors of the table that supervisor and pools share, but for pipes, which pools keep in stock, and for
/// those that only keep numbers (of the null device), which the first supervisor has more of than a successor.
#[track_caller]
pub fn descriptors(proxy: &Proxy) -> usize {
    let links = numbers(proxy.status().supervisor.pid);
    links.iter().filter(|(_, link)| !link.starts_with("pipe:") && link != "/dev/null").count()
}

/// The processes of the proxy, as soon as they are those that its status tells of and no others.
#[track_caller]
pub fn one_generation(proxy: &Proxy) -> Vec<Process> {
    until("the processes are those of one generation", || {
        let status = proxy.try_status()?;
        let mut processes = proxy.processes();
        processes.sort();
        let pids: BTreeSet<i32> = processes.iter().map(|process| process.pid).collect();
        (pids.len() == 5 && pids == told(&status)).then_some(processes)
    })
}

/// Supervisor, twin, pools and control.
fn told(status: &Status) -> BTreeSet<i32> {
    let pools = status.pools.iter().filter_map(|pool| pool.pid);
    let others = [Some(status.supervisor.pid), status.supervisor.twin_pid, Some(status.control.pid)];
    others.into_iter().flatten().chain(pools).collect()
}
