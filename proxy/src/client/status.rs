//! `proxy status`.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    thread,
};

use super::{AskError, ask, complain, render::render};
use crate::{cli::StatusArgs, control::status::Status};

/// Both pools are ready.
const READY: u8 = 0;
/// Nobody serves.
const NOT_SERVING: u8 = 1;
/// One pool serves, the other could not stand in for it.
const DEGRADED: u8 = 3;

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The verb.
pub fn run(args: &StatusArgs) -> ExitCode {
    let path = &args.control.control;
    let Some(interval) = args.watch else {
        return once(path, args.json);
    };
    let terminal = io::stdout().is_terminal();
    loop {
        let mut text = show(path, args.json).unwrap_or_else(|error| format!("{error}\n"));
        match (terminal, args.json) {
            (true, _) => text.insert_str(0, CLEAR),
            (false, true) => {}
            (false, false) => text.push('\n'),
        }
        if print(&text).is_err() {
            // The reader has seen enough.
            return ExitCode::SUCCESS;
        }
        thread::sleep(interval);
    }
}

fn once(path: &Path, json: bool) -> ExitCode {
    let answer = ask::status_line(path).and_then(|line| Ok((ask::read_status(path, &line)?, line)));
    match answer {
        Ok((status, line)) => {
            let _ = print(&text(&status, &line, json));
            ExitCode::from(exit_code(&status))
        }
        Err(error) => complain(&error),
    }
}

fn show(path: &Path, json: bool) -> Result<String, AskError> {
    let line = ask::status_line(path)?;
    Ok(text(&ask::read_status(path, &line)?, &line, json))
}

/// JSON is passed on as it came: it may hold keys that this version does not know.
fn text(status: &Status, line: &str, json: bool) -> String {
    if json { format!("{line}\n") } else { render(status, wants_colours()) }
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Colours on a terminal, unless `NO_COLOR` is set (no-color.org).
pub fn wants_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn exit_code(status: &Status) -> u8 {
    let ready = status.pools.iter().filter(|pool| pool.state == "ready").count();
    match (&status.serving, status.draining.as_str()) {
        (None, _) | (_, "draining" | "drained") => NOT_SERVING,
        _ if ready < 2 || !status.supervisor.up => DEGRADED,
        _ => READY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{PoolStatus, SupervisorStatus};

    #[test]
    fn the_exit_code_tells_how_well_it_is() {
        let pool = |state: &str| PoolStatus { state: state.into(), ..PoolStatus::default() };
        let mut status = Status {
            supervisor: SupervisorStatus { up: true, ..SupervisorStatus::default() },
            serving: Some("primary".into()),
            pools: vec![pool("ready"), pool("ready")],
            draining: "no".into(),
            ..Status::default()
        };
        assert_eq!(exit_code(&status), READY);
        status.pools[1] = pool("starting");
        assert_eq!(exit_code(&status), DEGRADED);
        status.pools[1] = pool("ready");
        status.supervisor.up = false;
        assert_eq!(exit_code(&status), DEGRADED);
        status.draining = "draining".into();
        assert_eq!(exit_code(&status), NOT_SERVING);
        status.draining = "no".into();
        status.serving = None;
        assert_eq!(exit_code(&status), NOT_SERVING);
    }
}
