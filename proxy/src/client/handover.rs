//! `proxy reload` and `proxy upgrade`: ordered at once, done when the successor serves.

use std::{
    path::{Path, absolute},
    thread,
    time::{Duration, Instant},
};

use super::{AskError, ask, progress::Progress};
use crate::{
    control::status::{Status, UpgradeStatus},
    orders::Order,
};

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// How long it may take. The supervisor is less patient with a successor.
const LIMIT: Duration = Duration::from_secs(90);

/// Has the settings taken anew.
pub fn reload(path: &Path) -> Result<String, AskError> {
    run(path, &Order::Reload)
}

/// Hands over to another binary.
pub fn upgrade(path: &Path, binary: Option<&Path>) -> Result<String, AskError> {
    let binary = binary.map(find_binary).transpose().map_err(AskError::Refused)?;
    run(path, &Order::Upgrade(binary))
}

/// The supervisor's working directory is another, so the path is made absolute; its symbolic links stay,
/// for it is what the next upgrade starts too.
fn find_binary(given: &Path) -> Result<String, String> {
    let wrong = |why: String| format!("--binary {}: {why}; give the path of a proxy binary", given.display());
    let path = absolute(given).map_err(|error| wrong(error.to_string()))?;
    let metadata = path.metadata().map_err(|error| wrong(format!("cannot be found ({error})")))?;
    if !metadata.is_file() {
        return Err(wrong("is no file".into()));
    }
    let is_sayable = |text: &String| !text.contains('\n') && text.trim_end() == text;
    let text = path.into_os_string().into_string().ok().filter(is_sayable);
    text.ok_or_else(|| wrong("has a line break, a blank at its end, or what is no UTF-8 in its name".into()))
}

fn run(path: &Path, order: &Order) -> Result<String, AskError> {
    let before = ask::status(path)?.upgrade.number;
    ask::order(path, order)?;
    let status = wait_for_end(path, order, before, LIMIT)?;
    let UpgradeStatus { state, error, gap_us, .. } = &status.upgrade;
    let (supervisor, word) = (&status.supervisor, order.word());
    if state == "failed" {
        let why = error.as_deref().unwrap_or("it is not known why");
        return Err(AskError::Refused(format!(
            "{word} failed, supervisor {} goes on: {why}",
            supervisor.pid
        )));
    }
    let done = if matches!(order, Order::Reload) { "reloaded" } else { "upgraded" };
    let (version, pid, gap) = (&supervisor.version, supervisor.pid, gap(*gap_us));
    Ok(format!("{done}: proxy {version}, supervisor {pid}, gap {gap}"))
}

/// Answers the status in which a handover later than `before` is over. Control is away for a moment when
/// the successor's takes its place, and may have been asked just then.
fn wait_for_end(path: &Path, order: &Order, before: u64, limit: Duration) -> Result<Status, AskError> {
    let begun = Instant::now();
    let mut progress = Progress::default();
    loop {
        let answer = ask::status(path);
        match answer {
            Ok(status) if is_over(&status.upgrade, before) => return Ok(status),
            Ok(status) => progress.show(format!("{}: {}", order.word(), stage(&status.upgrade, before))),
            Err(error) if begun.elapsed() > limit => return Err(error),
            Err(_) => {}
        }
        if begun.elapsed() > limit {
            let (word, seconds) = (order.word(), limit.as_secs());
            return Err(AskError::Refused(format!(
                "the {word} is not over after {seconds} s; see `proxy status` and the log of the proxy"
            )));
        }
        thread::sleep(LOOK);
    }
}

/// How far it is. What the last one before came to is not its.
fn stage(upgrade: &UpgradeStatus, before: u64) -> &str {
    if upgrade.number > before { &upgrade.state } else { "ordered" }
}

fn is_over(upgrade: &UpgradeStatus, before: u64) -> bool {
    upgrade.number > before && matches!(upgrade.state.as_str(), "done" | "failed")
}

/// The last one and how many there were, in a line; `None` if there was none.
pub fn describe(upgrade: &UpgradeStatus) -> Option<String> {
    let UpgradeStatus { number, kind, state, error, gap_us, done, failed } = upgrade;
    let how = match state.as_str() {
        "done" => format!("done, gap {}", gap(*gap_us)),
        "failed" => format!("failed: {}", error.as_deref().unwrap_or("it is not known why")),
        other => other.to_owned(),
    };
    (*number > 0).then(|| format!("upgrades and reloads {done}, failed {failed}   last: {kind} {how}"))
}

fn gap(microseconds: u64) -> String {
    format!("{:.1} ms", microseconds as f64 / 1000.0)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
