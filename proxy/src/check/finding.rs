//! What a check has found.

use std::fmt;

use crate::config::ConfigError;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `run` will work.
    Ok,
    /// It will, but not as well as it could.
    Warn,
    /// It will not.
    Fail,
}

/// One line of `proxy check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, with what was seen.
    pub what: String,
    /// What is wrong with it, and what to do; empty if nothing.
    pub problem: String,
}

impl Finding {
    /// All is well.
    pub fn ok(what: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.into(), problem: String::new() }
    }

    /// Something could be better.
    pub fn warn(what: impl Into<String>, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { level: Level::Warn, what: what.into(), problem: format!("{problem}; {remedy}") }
    }

    /// `run` would not work.
    pub fn fail(what: impl Into<String>, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { level: Level::Fail, what: what.into(), problem: format!("{problem}; {remedy}") }
    }

    /// `run` would not work, for a reason that names its own remedy.
    pub fn fail_by(what: impl Into<String>, error: impl fmt::Display) -> Self {
        Self { level: Level::Fail, what: what.into(), problem: error.to_string() }
    }
}

impl From<&ConfigError> for Finding {
    fn from(error: &ConfigError) -> Self {
        Self::fail(&error.setting, &error.problem, &error.remedy)
    }
}

/// For the log and the error of `run`: without the level.
impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem.as_str() {
            "" => formatter.write_str(&self.what),
            problem => write!(formatter, "{}: {problem}", self.what),
        }
    }
}

/// The line of `proxy check`.
pub fn line(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok  ",
        Level::Warn => "warn",
        Level::Fail => "FAIL",
    };
    match finding.problem.as_str() {
        "" => format!("{level} {}", finding.what),
        problem => format!("{level} {} — {problem}", finding.what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_why_and_what_to_do() {
        assert_eq!(line(&Finding::ok("kernel 6.1.0")), "ok   kernel 6.1.0");
        let finding = Finding::fail("kernel 5.4.0", "5.14 is needed", "boot a newer one");
        assert_eq!(line(&finding), "FAIL kernel 5.4.0 — 5.14 is needed; boot a newer one");
        assert_eq!(finding.to_string(), "kernel 5.4.0: 5.14 is needed; boot a newer one");
    }
}
