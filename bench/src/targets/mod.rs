//! What is measured: proxy, its peers, and no proxy at all. Each is started as a user would, by its defaults.

mod haproxy;
mod nginx;
mod ours;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cases::{Case, LISTEN};
use crate::isolation::DIRECTORY;
use crate::options::{Options, Peer};

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it is called in tables.
    pub name: String,
    /// Its version, in its own words.
    pub version: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Haproxy { is_splicing: bool },
    Nginx,
    Ours(PathBuf),
}

/// Those that were chosen, proxy last. What is not installed is left out, and it is said how to get it.
pub fn chosen(options: &Options) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for peer in options.peers() {
        match Target::peer(peer) {
            Ok(target) => targets.push(target),
            Err(error) => eprintln!("left out: {error:#}"),
        }
    }
    for (index, path) in options.proxy.iter().enumerate() {
        targets.push(Target::ours(index, path)?);
    }
    Ok(targets)
}

impl Target {
    fn peer(peer: Peer) -> Result<Self> {
        let (name, version, kind) = match peer {
            Peer::Direct => ("direct", "no proxy".into(), Kind::Direct),
            Peer::Haproxy => ("haproxy", haproxy::version()?, Kind::Haproxy { is_splicing: false }),
            Peer::HaproxySplice => {
                ("haproxy-splice", haproxy::version()?, Kind::Haproxy { is_splicing: true })
            }
            Peer::Nginx => ("nginx", nginx::version()?, Kind::Nginx),
        };
        Ok(Self { name: name.into(), version, kind })
    }

    fn ours(index: usize, path: &Path) -> Result<Self> {
        let path = path.canonicalize().with_context(|| format!("no {}", path.display()))?;
        let name = if index == 0 { "proxy".into() } else { format!("proxy-{}", index + 1) };
        let version = first_line(Command::new(&path).arg("--version"))?;
        Ok(Self { name, version: format!("{version}, {}", path.display()), kind: Kind::Ours(path) })
    }

    /// Whether it is another proxy.
    pub fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Haproxy { .. } | Kind::Nginx)
    }

    /// Whether it is a build of proxy.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// Whether it can do the work of the case. HAProxy relays no UDP; where nothing serves, nothing can be killed.
    pub fn takes(&self, case: Case) -> bool {
        match self.kind {
            Kind::Direct => case != Case::Kill,
            Kind::Haproxy { .. } => case != Case::Udp,
            Kind::Nginx | Kind::Ours(_) => true,
        }
    }

    /// What clients connect to.
    pub fn address(&self, case: Case) -> SocketAddr {
        if self.kind == Kind::Direct { case.server() } else { LISTEN }
    }

    /// What to start, before this server; `None` if there is nothing to start. Its settings file is written.
    pub fn command(&self, server: SocketAddr) -> Result<Option<Command>> {
        let path = settings_path();
        if let Some(text) = self.settings(server) {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(self.command_with(&path, server))
    }

    fn command_with(&self, settings: &Path, server: SocketAddr) -> Option<Command> {
        match &self.kind {
            Kind::Direct => None,
            Kind::Haproxy { .. } => Some(haproxy::command(settings)),
            Kind::Nginx => Some(nginx::command(settings)),
            Kind::Ours(binary) => Some(ours::command(binary, server)),
        }
    }

    /// The command as one would type it; `settings` stands for its settings file.
    pub fn command_line(&self, server: SocketAddr) -> Option<String> {
        let command = self.command_with(Path::new("settings"), server)?;
        let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
        let words = std::iter::once(program).chain(command.get_args());
        Some(words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    /// Its settings file, if it has one.
    pub fn settings(&self, server: SocketAddr) -> Option<String> {
        match self.kind {
            Kind::Direct | Kind::Ours(_) => None,
            Kind::Haproxy { is_splicing } => Some(haproxy::settings(server, is_splicing)),
            Kind::Nginx => Some(nginx::settings(server)),
        }
    }

    /// Whether it is as it will be. That it serves is found out by trying.
    pub fn is_whole(&self) -> Result<bool> {
        match &self.kind {
            Kind::Ours(binary) => ours::is_whole(binary),
            _ => Ok(true),
        }
    }

    /// The processes that carry connections: those that `kill` kills. `main` is the one that was started.
    pub fn victims(&self, main: i32) -> Result<Vec<i32>> {
        let victims = match &self.kind {
            Kind::Direct => Vec::new(),
            Kind::Haproxy { .. } | Kind::Nginx => children(main)?,
            Kind::Ours(binary) => vec![ours::primary(binary)?],
        };
        if victims.is_empty() {
            bail!("{}: no process that carries connections", self.name);
        }
        Ok(victims)
    }
}

/// Where a target's settings file is.
fn settings_path() -> PathBuf {
    Path::new(DIRECTORY).join("settings")
}

/// The children of a process (those of its first thread).
fn children(pid: i32) -> Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// The first line that a command says, on whichever output.
fn first_line(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

/// The version of a program of a Debian package; an error says what to install.
fn installed(program: &str, flag: &str, packages: &str) -> Result<String> {
    match Command::new(program).arg(flag).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{program} is not installed: apt-get install {packages}")
        }
        _ => first_line(Command::new(program).arg(flag)),
    }
}

#[cfg(test)]
impl Target {
    /// One that is not started, of the kind that its name says.
    pub fn named(name: &str) -> Self {
        let kind = match name {
            "direct" => Kind::Direct,
            "haproxy" => Kind::Haproxy { is_splicing: false },
            "nginx" => Kind::Nginx,
            _ => Kind::Ours(name.into()),
        };
        Self { name: name.into(), version: String::new(), kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::ECHO;

    #[test]
    fn a_program_that_is_not_there_is_told_with_its_package() {
        let error = installed("no-such-program", "-v", "some-package").unwrap_err();
        assert!(error.to_string().contains("apt-get install some-package"), "{error}");
    }

    #[test]
    fn settings_name_both_addresses() {
        for settings in [haproxy::settings(ECHO, true), nginx::settings(ECHO)] {
            assert!(
                settings.contains(&ECHO.to_string()) && settings.contains(&LISTEN.to_string()),
                "{settings}"
            );
        }
        assert!(!haproxy::settings(ECHO, false).contains("splice"));
    }
}
