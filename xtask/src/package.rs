//! `cargo xtask package`: a Debian package and a tarball of the release build, with the same files.
//!
//! What goes where is said once, in `[package.metadata.deb]` of proxy/Cargo.toml; the tarball is made of the
//! package's contents.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{man, shell};

const CARGO_DEB: &str = "3.8.0";

/// Shells, and their files' names.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "proxy.bash"), ("zsh", "_proxy"), ("fish", "proxy.fish")];

/// Builds all of it and says where it is.
pub fn run() -> Result<()> {
    shell::run(shell::cargo().args(["build", "--release", "--locked", "--package", "proxy"]))?;
    let release = shell::target().join("release");
    generate(&release.join("proxy"), &release.join("packaged"))?;
    let to = shell::target().join("package");
    if to.exists() {
        fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
    }
    fs::create_dir_all(&to)?;
    let package = debian(&to)?;
    let tarball = tarball(&package, &to)?;
    println!("{}\n{}", package.display(), tarball.display());
    Ok(())
}

/// Writes manual pages and completions.
fn generate(binary: &Path, to: &Path) -> Result<()> {
    let pages = man::write(Some(to.join("man")))?;
    // By Debian's policy; without name and time, so that the same source gives the same bytes.
    shell::run(Command::new("gzip").args(["--recursive", "--force", "--best", "--no-name"]).arg(pages))?;
    for (shell, name) in COMPLETIONS {
        let file = File::create(to.join(name)).with_context(|| format!("cannot write {name}"))?;
        shell::run(Command::new(binary).args(["completions", shell]).stdout(file))?;
    }
    Ok(())
}

/// Runs cargo-deb, installing it below target/ if it is not there. Answers the package.
fn debian(to: &Path) -> Result<PathBuf> {
    let tools = shell::target().join("tools");
    let cargo_deb = tools.join("bin/cargo-deb");
    let version = Command::new(&cargo_deb).arg("--version").output();
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(CARGO_DEB)) {
        let install = ["install", "cargo-deb", "--locked", "--force", "--version", CARGO_DEB, "--root"];
        shell::run(shell::cargo().args(install).arg(&tools))?;
    }
    let mut make = Command::new(cargo_deb);
    make.current_dir(shell::root()).args(["--package", "proxy", "--no-build", "--locked", "--output"]);
    shell::run(make.arg(to))?;
    let made = fs::read_dir(to)?.flatten().map(|entry| entry.path());
    made.into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("cargo-deb made nothing")
}

/// The package's files and a note on how to install them, in a directory of their own.
fn tarball(package: &Path, to: &Path) -> Result<PathBuf> {
    let name = format!("proxy-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let tree = to.join(&name);
    if !shell::installed("dpkg-deb") {
        bail!("there is no dpkg-deb to unpack {} by: install the package dpkg", package.display());
    }
    shell::run(Command::new("dpkg-deb").arg("--extract").args([package, &tree]))?;
    fs::copy(shell::root().join("packaging/INSTALL"), tree.join("INSTALL"))?;
    let file = to.join(format!("{name}.tar.gz"));
    let owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--create", "--gzip", "--file"];
    shell::run(Command::new("tar").args(owner).arg(&file).arg("--directory").arg(to).arg(&name))?;
    fs::remove_dir_all(&tree)?;
    Ok(file)
}
