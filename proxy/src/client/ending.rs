//! `proxy drain` and `proxy stop`: ordered at once, done after a while.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{AskError, ask, progress::Progress, render::open};
use crate::{
    control::status::Status,
    orders::Order,
    procfs::{self, Process},
};

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// How long control may be away (it may just be restarting) before that counts as its end.
const ABSENCE: Duration = Duration::from_secs(10);

/// How long the proxy may take to end after its drain timeout.
const GRACE: Duration = Duration::from_secs(30);

/// Orders draining, and waits until no flow is left, however long it takes.
pub fn drain(path: &Path) -> Result<String, AskError> {
    ask::order(path, &Order::Drain)?;
    let mut progress = Progress::default();
    let mut seen = Instant::now();
    loop {
        match ask::status(path) {
            Ok(status) if status.draining == "drained" => break,
            Ok(status) if status.draining == "no" => {
                return Err(AskError::Refused("draining was called off: new connections are served".into()));
            }
            Ok(status) => {
                seen = Instant::now();
                progress.show(format!("draining: {} left", open(&status)));
            }
            Err(error) if seen.elapsed() > ABSENCE => return Err(error),
            Err(_) => {}
        }
        thread::sleep(LOOK);
    }
    Ok("drained: no connection and no flow is left, new ones are refused; `proxy stop` ends it".into())
}

/// Orders the end, and waits for it.
pub fn stop(path: &Path, now: bool) -> Result<String, AskError> {
    let status = ask::status(path)?;
    let supervisor = Running::of(&status);
    match ask::order(path, if now { &Order::StopNow } else { &Order::Stop }) {
        // It may end before its answer is on the way.
        Err(AskError::Closed { .. } | AskError::NotRunning { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    let drain_timeout = if now { Duration::ZERO } else { Duration::from_millis(status.drain_timeout_ms) };
    wait_for_end(path, &supervisor, drain_timeout + GRACE)?;
    Ok("stopped".into())
}

fn wait_for_end(path: &Path, supervisor: &Running, limit: Duration) -> Result<(), AskError> {
    let begun = Instant::now();
    let mut progress = Progress::default();
    loop {
        let answer = ask::status(path);
        if !supervisor.is_alive() && has_another_or_none(&answer, supervisor) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            let pid = supervisor.pid;
            return Err(AskError::Refused(format!(
                "the proxy has not ended within {} s (supervisor {pid}); see its log, or end it with \
                 `proxy stop --now`",
                limit.as_secs()
            )));
        }
        if let Ok(status) = answer {
            progress.show(format!("stopping: {} left", open(&status)));
        }
        thread::sleep(LOOK);
    }
}

/// Whether the control socket has no proxy behind it any more, or a new one.
fn has_another_or_none(answer: &Result<Status, AskError>, supervisor: &Running) -> bool {
    match answer {
        Ok(status) => status.supervisor.pid != supervisor.pid,
        Err(AskError::NotRunning { .. }) => true,
        Err(_) => false,
    }
}

/// The supervisor to be ended.
struct Running {
    pid: i32,
    /// `None` if it cannot be seen from here (`hidepid`, another process namespace).
    process: Option<Process>,
}

impl Running {
    fn of(status: &Status) -> Self {
        let pid = status.supervisor.pid;
        Self { pid, process: procfs::process(pid) }
    }

    fn is_alive(&self) -> bool {
        let now = procfs::process(self.pid).filter(|process| process.state != 'Z');
        match (self.process, now) {
            (Some(then), Some(now)) => then.started == now.started,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_dead_supervisor_is_not_alive_though_nobody_collected_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut status = Status::default();
        status.supervisor.pid = child.id() as i32;
        let running = Running::of(&status);
        assert!(running.is_alive());
        child.kill().unwrap();
        let begun = Instant::now();
        while running.is_alive() {
            assert!(begun.elapsed() < Duration::from_secs(10), "a killed process counts as alive");
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_reused_process_number_is_another_process() {
        let pid = std::process::id() as i32;
        let mut running = Running { pid, process: procfs::process(pid) };
        assert!(running.is_alive());
        running.process.as_mut().unwrap().started += 1;
        assert!(!running.is_alive());
    }

    #[test]
    fn the_socket_is_free_when_nobody_or_somebody_else_answers() {
        let running = Running { pid: 7, process: None };
        let mut status = Status::default();
        status.supervisor.pid = 7;
        assert!(!has_another_or_none(&Ok(status.clone()), &running));
        status.supervisor.pid = 8;
        assert!(has_another_or_none(&Ok(status), &running));
        let closed = AskError::Closed { path: "x".into() };
        assert!(!has_another_or_none(&Err(closed), &running));
    }
}
