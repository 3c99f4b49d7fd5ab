//! What the figures were measured on.

use std::fs;
use std::thread::available_parallelism;

use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model, as the kernel calls it.
    pub processor: String,
    /// Processors that may be used.
    pub processors: usize,
    /// Distribution and version.
    pub system: String,
}

impl Machine {
    /// This one. What cannot be found out is `unknown`.
    pub fn find() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str, sign| value(text, key, sign).unwrap_or_else(|| "unknown".into());
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: value(&read("/proc/cpuinfo"), "model name", ':'),
            processors: available_parallelism().map_or(1, usize::from),
            system: value(&read("/etc/os-release"), "PRETTY_NAME", '='),
        }
    }
}

/// What the first line says that begins with the key.
fn value(text: &str, key: &str, sign: char) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(sign)?.1.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_key() {
        let cpus = "processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: other\n";
        assert_eq!(value(cpus, "model name", ':').as_deref(), Some("Some CPU: fast"));
        assert_eq!(
            value("NAME=\"x\"\nPRETTY_NAME=\"Debian 12\"", "PRETTY_NAME", '=').as_deref(),
            Some("Debian 12")
        );
        assert_eq!(value(cpus, "absent", ':'), None);
    }
}
