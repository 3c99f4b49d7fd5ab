//! `cargo xtask run`: the proxy on a demo upstream, or with the user's own arguments.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::demo::Demo;
use crate::shell;

/// How long the proxy may take to have both pools ready.
const READY: Duration = Duration::from_secs(15);
/// How long it may take until another supervisor answers.
const SUCCESSION: Duration = Duration::from_secs(5);

/// Builds proxy and becomes it, with the user's arguments.
pub fn proxy(args: &[String]) -> Result<()> {
    if args.first().is_some_and(|verb| verb == "run") {
        shell::need_root("proxy run", &format!("run -- {}", args.join(" ")))?;
    }
    let binary = build()?;
    let error = Command::new(&binary).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Builds proxy, starts it before a demo upstream, says what to try, and waits for Ctrl-C.
pub fn demo() -> Result<()> {
    shell::need_root("the demo", "run")?;
    let binary = build()?;
    let upstream = Demo::start().context("cannot start the demo upstream on 127.0.0.1")?;
    let directory = tempfile::Builder::new().prefix("proxy-demo-").tempdir()?;
    let place = Place {
        binary,
        control: directory.path().join("proxy.sock"),
        listen: free_or(8080)?,
        metrics: free_or(9100)?,
    };
    // A successor, and a twin, are children of a process that is dead by then.
    set_child_subreaper(true).context("cannot adopt processes")?;
    // Before the proxy starts, so that no Ctrl-C and no early death goes unseen.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
    let mut proxy = place.start(&upstream)?;
    let status = place.wait_ready(&mut proxy)?;
    println!("{}", place.what_to_try(&status));
    place.wait(&proxy, &mut signals)
}

/// The release build of proxy, or the binary that `PROXY_BIN` names.
fn build() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("PROXY_BIN") {
        return Ok(binary.into());
    }
    shell::run(shell::cargo().args(["build", "--release", "--package", "proxy"]))?;
    Ok(shell::target().join("release/proxy"))
}

/// The address on 127.0.0.1 with this port, or with a free one if something already has it.
fn free_or(port: u16) -> Result<SocketAddr> {
    match try_both((Ipv4Addr::LOCALHOST, port).into()) {
        Ok(address) => Ok(address),
        Err(error) => {
            let free = try_both((Ipv4Addr::LOCALHOST, 0).into()).context("no free port")?;
            println!("127.0.0.1:{port} cannot be had ({error}); taking {free} instead");
            Ok(free)
        }
    }
}

/// Binds TCP and UDP to the address and lets go again.
fn try_both(address: SocketAddr) -> std::io::Result<SocketAddr> {
    let address = TcpListener::bind(address)?.local_addr()?;
    UdpSocket::bind(address)?;
    Ok(address)
}

/// Where the demo's proxy is and what it listens on.
struct Place {
    binary: PathBuf,
    control: PathBuf,
    listen: SocketAddr,
    metrics: SocketAddr,
}

impl Place {
    /// In its own process group: Ctrl-C reaches us alone, and we end the proxy in good order.
    fn start(&self, upstream: &Demo) -> Result<Child> {
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("--control").arg(&self.control);
        command.arg("--metrics").arg(self.metrics.to_string());
        for scheme in ["tcp", "udp"] {
            command.arg("--listen").arg(format!("{scheme}://{}", self.listen));
        }
        for server in upstream.servers() {
            command.arg("--upstream").arg(server.to_string());
        }
        command.process_group(0).stdin(Stdio::null());
        command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))
    }

    fn status(&self) -> Result<Option<Value>> {
        let output = Command::new(&self.binary)
            .args(["status", "--json", "--control"])
            .arg(&self.control)
            .output()
            .context("cannot run `proxy status`")?;
        if !output.status.success() {
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout).map(Some).context("`proxy status` is not JSON")
    }

    /// Polls `proxy status` until both pools are ready. Ends the proxy if they do not get so.
    fn wait_ready(&self, proxy: &mut Child) -> Result<Value> {
        let deadline = Instant::now() + READY;
        while Instant::now() < deadline {
            if let Some(end) = proxy.try_wait()? {
                bail!("proxy ended before it was ready ({end}); its message is above");
            }
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        end(proxy)?;
        bail!("proxy was not ready within {READY:?}; its log is above");
    }

    /// Waits until the proxy ends, passing Ctrl-C on to it: once drains, twice ends at once. After an upgrade or a
    /// reload, or when a twin took a supervisor's place, the proxy is another process.
    fn wait(&self, proxy: &Child, signals: &mut Signals) -> Result<()> {
        let (mut supervisor, mut asked) = (Pid::from_raw(proxy.id().cast_signed()), false);
        for signal in signals.forever() {
            if signal != SIGCHLD {
                asked = true;
                terminate(supervisor)?;
            }
            let Some(end) = collect(supervisor) else { continue };
            if asked && end == End::Code(0) {
                return Ok(());
            }
            let Some(next) = self.successor(supervisor)? else { bail!("proxy ended: {end:?}") };
            println!("proxy goes on: supervisor {next}");
            supervisor = next;
        }
        Ok(())
    }

    /// Who supervises now, if anybody does.
    fn successor(&self, before: Pid) -> Result<Option<Pid>> {
        let deadline = Instant::now() + SUCCESSION;
        while Instant::now() < deadline {
            let status = self.status()?;
            let pid = status.and_then(|status| status["supervisor"]["pid"].as_i64());
            if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
                && pid != before
            {
                return Ok(Some(pid));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    fn what_to_try(&self, status: &Value) -> String {
        let sudo = if env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
        let Self { listen, metrics, .. } = self;
        let (ip, port) = (listen.ip(), listen.port());
        let proxy = relative(&self.binary).display().to_string();
        let control = self.control.display();
        let supervisor = &status["supervisor"]["pid"];
        let pid = &status["pools"][0]["pid"];
        format!(
            "
proxy is ready: supervisor {supervisor}, primary {pid}; two demo servers, A and B, are behind it.

  a request          curl http://{listen}/
  a datagram         echo hello | nc -u -w1 {ip} {port}
  who serves         {sudo}{proxy} status --control {control}
  metrics            curl http://{metrics}/metrics

Then break it, with this in another terminal:

  while sleep 0.1; do curl -sS -m1 http://{listen}/; done

  hang the primary   {sudo}kill -STOP {pid}
  kill the primary   {sudo}kill -9 {pid}
  upgrade it         {sudo}{proxy} upgrade --control {control}

The seat gets a new pool with a new pid each time; `status` shows it. Ctrl-C ends everything.
"
        )
    }
}

/// How a supervisor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Signal(Signal),
}

/// Collects the dead, and answers how the one with this number ended, if it is among them.
fn collect(supervisor: Pid) -> Option<End> {
    let mut end = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == supervisor => end = Some(End::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == supervisor => end = Some(End::Signal(signal)),
            Ok(WaitStatus::StillAlive) | Err(_) => return end,
            Ok(_) => {}
        }
    }
}

/// The path as seen from the working directory, if it is below it.
fn relative(path: &Path) -> &Path {
    let below = env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path)
}

fn terminate(supervisor: Pid) -> Result<()> {
    kill(supervisor, Signal::SIGTERM).context("cannot end proxy")
}

/// Ends the proxy at once.
fn end(proxy: &mut Child) -> Result<()> {
    let supervisor = Pid::from_raw(proxy.id().cast_signed());
    terminate(supervisor)?;
    terminate(supervisor)?;
    proxy.wait()?;
    Ok(())
}
