//! A line on stderr that tells how far something is.

use std::io::{self, IsTerminal, Write};

/// The line. It is written over on a terminal, and elsewhere written anew when it changes.
#[derive(Default)]
pub struct Progress {
    shown: String,
}

impl Progress {
    /// Shows `line`.
    pub fn show(&mut self, line: String) {
        if line == self.shown {
            return;
        }
        let mut stderr = io::stderr();
        // Nobody to see the progress is no reason not to go on.
        let _ =
            if stderr.is_terminal() { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
        self.shown = line;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.shown.is_empty() && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
    }
}
