//! Programs that checks of servers run. Only a warning: they may be installed later, and until then servers are down.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::Finding;
use crate::config::{Config, rules::Check};

/// Those of all upstreams.
pub fn all(config: &Config) -> Vec<Finding> {
    let programs = config.upstreams.iter().filter_map(|upstream| {
        let Check::Exec { command } = &upstream.rules.health.as_ref()?.check else { return None };
        Some((upstream, command.first()?))
    });
    programs.map(|(upstream, program)| one(&upstream.name, Path::new(program))).collect()
}

fn one(upstream: &str, program: &Path) -> Finding {
    const CONSEQUENCE: &str = "until then the upstream's servers are down";
    let what = format!("upstream {upstream}: check {}", program.display());
    let warn =
        |problem: String, remedy| Finding::warn(what.clone(), problem, format!("{remedy}; {CONSEQUENCE}"));
    match fs::metadata(program) {
        Err(error) => warn(format!("it cannot be found ({error})"), "install it, or correct its path"),
        Ok(there) if !there.is_file() => warn("it is no file".into(), "give the path of a program"),
        // Who control runs as need not be who asks: so no right of anybody's is tried.
        Ok(there) if there.permissions().mode() & 0o111 == 0 => {
            warn("it is not executable".into(), "chmod +x it")
        }
        Ok(_) => Finding::ok(what),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_program_is_there_and_can_be_run() {
        assert_eq!(one("u", Path::new("/bin/sh")).level, Level::Ok);
        for (path, problem) in [
            ("/nonexistent/check", "cannot be found"),
            ("/etc", "is no file"),
            ("/etc/passwd", "is not executable; chmod +x it"),
        ] {
            let finding = one("u", Path::new(path));
            assert_eq!(finding.level, Level::Warn);
            assert!(finding.problem.contains(problem), "{finding}");
        }
    }
}
