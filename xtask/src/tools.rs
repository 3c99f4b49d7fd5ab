//! The programs that the tests start: monitoring, and real servers with their clients.
//!
//! What is not installed is fetched from Debian and unpacked below target/, and not installed: that
//! would start a Prometheus, a PostgreSQL, an sshd and more, which nobody asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Programs, and Debian's packages that hold them.
const NEEDED: [(&str, &str); 17] = [
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("postgres", "postgresql"),
    ("psql", "postgresql"),
    ("redis-server", "redis-server"),
    ("sshd", "openssh-server"),
    ("sftp", "openssh-client"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("haproxy", "haproxy"),
    ("dnsdist", "dnsdist"),
    ("ip", "iproute2"),
];

/// Where the programs are.
pub struct Tools {
    /// The PATH that finds them.
    pub path: OsString,
    /// Directories of shared libraries that come with them, as in `LD_LIBRARY_PATH`.
    pub libraries: OsString,
}

/// Makes sure that the programs are there.
pub fn install() -> Result<Tools> {
    let unpacked = shell::target().join("tools");
    let missing = missing(&unpacked);
    if !missing.is_empty() {
        fetch(&missing, &unpacked).with_context(|| {
            format!("the tests need programs of the Debian packages {missing:?}: install them")
        })?;
    }
    let libraries = ["lib", "usr/lib"].map(|lib| sorted(&unpacked.join(lib), "-linux-gnu"));
    let join = |all| env::join_paths(all).context("a directory has a colon in its name");
    Ok(Tools { path: join(directories(&unpacked))?, libraries: join(libraries.concat())? })
}

/// The packages of programs that are nowhere, each once.
fn missing(unpacked: &Path) -> Vec<&'static str> {
    let directories = directories(unpacked);
    let is_there = |program: &str| directories.iter().any(|d| d.join(program).is_file());
    let needed = NEEDED.iter().filter(|(program, _)| !is_there(program));
    let mut packages: Vec<_> = needed.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// The PATH, and where Debian puts servers, which is in no user's PATH. PostgreSQL comes first: in the PATH
/// there may be wrappers of its programs, which need more than is fetched.
fn directories(unpacked: &Path) -> Vec<PathBuf> {
    let roots = [Path::new("/"), unpacked];
    let versions = roots.into_iter().flat_map(|root| sorted(&root.join("usr/lib/postgresql"), ""));
    let path = env::var_os("PATH").unwrap_or_default();
    let others = roots.into_iter().flat_map(|root| ["usr/bin", "usr/sbin"].map(|bin| root.join(bin)));
    versions.map(|version| version.join("bin")).chain(env::split_paths(&path)).chain(others).collect()
}

/// What is in the directory and has a name with this ending. Nothing if there is no such directory.
fn sorted(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    found.sort();
    found
}

/// Downloads packages, with all that they need and this machine does not have, and unpacks them.
fn fetch(packages: &[&str], to: &Path) -> Result<()> {
    if !shell::installed("apt-get") || !shell::installed("dpkg-deb") {
        bail!("this is no Debian");
    }
    let archives = to.join("archives");
    fs::create_dir_all(archives.join("partial"))?;
    // The lists of a fresh machine or container are often empty or old.
    if download(packages, &archives).is_err() {
        shell::run(apt().arg("update"))?;
        download(packages, &archives)?;
    }
    println!("unpacking to {}", to.display());
    for file in sorted(&archives, ".deb") {
        unpack(&file, to).with_context(|| format!("cannot unpack {}", file.display()))?;
        fs::remove_file(&file)?;
    }
    Ok(())
}

fn unpack(file: &Path, to: &Path) -> Result<()> {
    let end = Command::new("dpkg-deb").arg("--extract").args([file, to]).status()?;
    if end.success() { Ok(()) } else { bail!("dpkg-deb: {end}") }
}

fn download(packages: &[&str], archives: &Path) -> Result<()> {
    let directory = format!("Dir::Cache::archives={}", archives.display());
    let only = ["install", "--download-only", "--no-install-recommends", "--yes", "-o", &directory];
    shell::run(apt().args(only).args(packages))
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // Root's downloads go through the user _apt, who cannot write below target/.
    apt.args(["-q", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root"]);
    apt
}
