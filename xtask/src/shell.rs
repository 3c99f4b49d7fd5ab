//! What the verbs share: running commands, finding the workspace, asking for root.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Says what it runs, runs it to its end, and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = tell(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Shows the command, and answers how one would type it.
pub fn tell(command: &Command) -> String {
    let line = line(command);
    eprintln!("$ {line}");
    line
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether a program of this name is in the PATH.
pub fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Fails for an ordinary user, with the line to type instead. Loading the kernel program, making
/// network namespaces and giving up rights all need root. HOME is kept so that rustup finds its
/// toolchains, PATH so that cargo is found.
pub fn need_root(what: &str, verb: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "{what} needs root. Run it like this:\n\n    \
         sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {verb}\n"
    );
}
