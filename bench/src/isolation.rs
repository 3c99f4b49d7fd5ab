//! Namespaces: everything runs where nothing else does, and ends when the first process there does.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

/// Files of the run are here, in a file system that is gone with it.
pub const DIRECTORY: &str = "/run";

/// Network settings of the namespace: sockets of short connections that are over must not use up the ports,
/// nor a queue be shorter than what is asked for.
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/ip_local_port_range", "10000 65535"),
    ("net/ipv4/tcp_max_tw_buckets", "4096"),
    ("net/core/somaxconn", "65535"),
];

/// Starts this program again, with the same arguments, as the first process of a process namespace, and answers
/// how it ended. When it ends, by Ctrl-C too, the kernel kills whatever it has started (pid_namespaces(7)).
pub fn run_inside() -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("namespaces and the kernel program of proxy need root");
    }
    unshare(CloneFlags::CLONE_NEWPID).context("cannot make a process namespace")?;
    let arguments = ["inside".into()].into_iter().chain(env::args_os().skip(2));
    let mut inside = itself(arguments)?.spawn().context("cannot start anew")?;
    let end = inside.wait().context("cannot wait for the run")?;
    Ok(ExitCode::from(end.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// This program, as another of its parts.
pub fn itself(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.args(arguments);
    Ok(command)
}

/// In the first process: dies with who started it, sees its own processes only, has files of its own, and as many
/// descriptors as may be.
pub fn enter() -> Result<()> {
    ensure!(std::process::id() == 1, "this is no process namespace of its own");
    set_pdeathsig(Signal::SIGKILL)?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    let none = None::<&Path>;
    mount(none, "/", none, private, none).context("cannot make mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("cannot mount /proc")?;
    let mode = Some("mode=0755");
    mount(Some("tmpfs"), DIRECTORY, Some("tmpfs"), MsFlags::empty(), mode)
        .with_context(|| format!("cannot mount on {DIRECTORY}"))?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of descriptors")
}

/// Goes to a new network namespace with a loopback interface that is up.
pub fn new_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    for (name, value) in SETTINGS {
        fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("cannot set {name}"))?;
    }
    let end = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    ensure!(end.context("cannot run ip (package iproute2)")?.success(), "cannot bring lo up");
    Ok(())
}
