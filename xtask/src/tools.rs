//! What the tests need besides Rust: `prometheus` and `promtool`.
//!
//! Debian's package is unpacked below target/ and not installed: that would start a Prometheus and
//! take port 9100 for its node exporter, which nobody asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::shell;

const NEEDED: [&str; 2] = ["promtool", "prometheus"];

/// Makes sure that the tools are there. Returns the PATH that finds them.
pub fn install() -> Result<OsString> {
    let directory = shell::target().join("tools");
    let unpacked = directory.join("usr/bin");
    let present = |tool: &&str| shell::installed(tool) || unpacked.join(tool).is_file();
    if !NEEDED.iter().all(present) {
        unpack("prometheus", &directory)?;
    }
    path_with(unpacked)
}

fn path_with(directory: PathBuf) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let all = env::split_paths(&path).chain([directory]);
    env::join_paths(all).context("a directory of the PATH has a colon in its name")
}

/// Downloads a Debian package and unpacks it below the directory.
fn unpack(package: &str, directory: &Path) -> Result<()> {
    if !shell::installed("apt-get") || !shell::installed("dpkg-deb") {
        bail!("{NEEDED:?} are not installed, and this is no Debian: install Prometheus");
    }
    fs::create_dir_all(directory)?;
    // The lists of a fresh machine or container are often empty or old.
    if download(package, directory).is_err() {
        shell::run(apt().arg("update"))?;
        download(package, directory)?;
    }
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(directory))?;
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn download(package: &str, directory: &Path) -> Result<()> {
    shell::run(apt().args(["download", package]).current_dir(directory))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // Root's downloads go through the user _apt, who cannot write below target/.
    apt.args(["-q", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root"]);
    apt
}
