//! The previous commit's proxy, from which and to which the tests upgrade.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::shell;

/// Builds it, if that has not been done before. Answers where it is; None if there is no such commit here, as in
/// a shallow clone.
pub fn build() -> Result<Option<PathBuf>> {
    let Some(commit) = commit() else {
        println!("skipped: upgrades from the previous commit, which is not here (a shallow clone, or none?)");
        return Ok(None);
    };
    let directory = shell::target().join("previous");
    let (binary, note) = (directory.join("proxy"), directory.join("commit"));
    if binary.is_file() && fs::read_to_string(&note).is_ok_and(|built| built == commit) {
        return Ok(Some(binary));
    }
    let source = directory.join("source");
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| format!("cannot remove {}", source.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
    let archive = directory.join("source.tar");
    shell::run(git().args(["archive", "--format=tar", "--output"]).args([archive.as_os_str()]).arg(&commit))?;
    shell::run(
        Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&source),
    )?;
    // Where the proxy with fault points is built: what both depend on is the same, and compiled once.
    let target = shell::target().join("fault-points");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "--package", "proxy", "--manifest-path"]).arg(source.join("Cargo.toml"));
    shell::run(cargo.arg("--target-dir").arg(&target))?;
    fs::copy(target.join("debug/proxy"), &binary)
        .with_context(|| format!("cannot copy the previous proxy to {}", binary.display()))?;
    fs::write(&note, commit).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(Some(binary))
}

/// The commit before the one that is checked out.
fn commit() -> Option<String> {
    let output = git().args(["rev-parse", "--verify", "--quiet", "HEAD~1"]).stderr(Stdio::inherit()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}

/// git in this workspace, whoever owns it: as root it would refuse another user's.
fn git() -> Command {
    let mut git = Command::new("git");
    git.current_dir(shell::root()).args(["-c", "safe.directory=*"]);
    git
}
