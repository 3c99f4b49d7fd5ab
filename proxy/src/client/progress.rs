//! A line on stderr that tells how far something is.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Shortest time between two lines where they are not written over.
const PAUSE: Duration = Duration::from_secs(1);

/// The line. It is written over on a terminal, and elsewhere written anew when it has changed, at
/// most once a second.
#[derive(Default)]
pub struct Progress {
    shown: String,
    at: Option<Instant>,
}

impl Progress {
    /// Shows `line`.
    pub fn show(&mut self, line: String) {
        if line == self.shown {
            return;
        }
        let mut stderr = io::stderr();
        if !stderr.is_terminal() && self.at.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        // Nobody to see the progress is no reason not to go on.
        let _ =
            if stderr.is_terminal() { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
        (self.shown, self.at) = (line, Some(Instant::now()));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.shown.is_empty() && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
    }
}
