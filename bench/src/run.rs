//! One run: server, target and load generator are started anew in a new network namespace, and ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cases::Case;
use crate::isolation::{self, DIRECTORY};
use crate::load::KILL;
use crate::sample::Sample;
use crate::targets::Target;
use crate::{cpu, isolation::itself};

/// A target must serve within so long.
const READY: Duration = Duration::from_secs(10);
/// One try to find out whether it does.
const TRY: Duration = Duration::from_millis(200);
/// How often to look whether something has happened.
const LOOK: Duration = Duration::from_millis(2);
/// A service that ended is started again after so long: systemd's `RestartSec` by default.
const RESTART: Duration = Duration::from_millis(100);
/// A load generator that says nothing for so long, beside what it measures, is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Runs a case with a target, and answers what has come of it.
pub fn run(case: Case, target: &Target, seconds: f64) -> Result<Sample> {
    let result = start_and_measure(case, target, seconds);
    end_all()?;
    result.with_context(|| format!("{} with {}", case.name(), target.name))
}

fn start_and_measure(case: Case, target: &Target, seconds: f64) -> Result<Sample> {
    isolation::new_network()?;
    let server = itself(["serve".into()])?.spawn().context("cannot start the server")?;
    wait_until("the server is not ready", || Ok(serves(case, case.server())))?;
    let mut service = Service::start(target, case)?;
    service.wait_ready(case)?;
    measure(case, target, seconds, &server, &mut service)
}

/// A target that is running, and is started again when it ends.
struct Service<'a> {
    target: &'a Target,
    server: SocketAddr,
    child: Option<Child>,
    ended: Option<Instant>,
}

impl<'a> Service<'a> {
    fn start(target: &'a Target, case: Case) -> Result<Self> {
        let mut service = Self { target, server: case.server(), child: None, ended: None };
        service.spawn()?;
        Ok(service)
    }

    fn spawn(&mut self) -> Result<()> {
        let Some(mut command) = self.target.command(self.server)? else { return Ok(()) };
        let log = File::create(log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start it")?);
        self.ended = None;
        Ok(())
    }

    /// Waits until it is whole and serves.
    fn wait_ready(&mut self, case: Case) -> Result<()> {
        wait_until("it is not ready", || self.look(case)).with_context(said)
    }

    /// Whether it is whole and serves; an error if it has ended.
    fn look(&mut self, case: Case) -> Result<bool> {
        if let Some(end) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
            bail!("it ended ({end})");
        }
        Ok(self.target.is_whole()? && serves(case, self.target.address(case)))
    }

    /// Kills what carries connections.
    fn kill(&self) -> Result<()> {
        let main = self.child.as_ref().context("nothing runs")?.id().cast_signed();
        for victim in self.target.victims(main)? {
            kill(Pid::from_raw(victim), Signal::SIGKILL).context("cannot kill it")?;
        }
        Ok(())
    }

    /// Starts it again if it has ended, as a service manager does.
    fn keep_up(&mut self) -> Result<()> {
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        match self.ended {
            None if child.try_wait()?.is_some() => self.ended = Some(Instant::now()),
            Some(ended) if ended.elapsed() >= RESTART => self.spawn()?,
            _ => {}
        }
        Ok(())
    }
}

/// Where a target's output goes.
fn log() -> PathBuf {
    Path::new(DIRECTORY).join("log")
}

/// The end of what it has said.
fn said() -> String {
    let text = fs::read_to_string(log()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    format!("it said: {}", lines[lines.len().saturating_sub(5)..].join("\n"))
}

/// Asks again and again, for [`READY`] at most, until the answer is yes.
fn wait_until(or_else: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + READY;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{or_else} within {READY:?}");
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether the address does what the case needs.
fn serves(case: Case, address: SocketAddr) -> bool {
    let try_it = if case == Case::Udp { echo_datagram } else { first_byte };
    try_it(address).is_ok()
}

fn first_byte(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, TRY)?;
    stream.set_read_timeout(Some(TRY))?;
    // Who sends without end does not read it.
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn echo_datagram(address: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(TRY))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    socket.recv(&mut [0]).map(drop)
}

/// Starts the load generator, does what it asks for, and takes what it says last.
fn measure(
    case: Case,
    target: &Target,
    seconds: f64,
    server: &Child,
    service: &mut Service,
) -> Result<Sample> {
    let address = target.address(case).to_string();
    let mut command = itself(["load".into()])?;
    command.args(["--case", case.name(), "--to", &address]).args(["--seconds", &seconds.to_string()]);
    command.args(["--server", &server.id().to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut load = command.spawn().context("cannot start the load generator")?;
    let lines = BufReader::new(load.stdout.take().context("no output")?).lines();
    let deadline = Instant::now() + STUCK + Duration::from_secs_f64(2.0 * seconds);
    listen_to(lines, service, deadline)
}

/// Kills when it is told to, keeps the service up, and answers the last line.
fn listen_to(
    lines: Lines<BufReader<ChildStdout>>,
    service: &mut Service,
    deadline: Instant,
) -> Result<Sample> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
    loop {
        match told.recv_timeout(LOOK) {
            Ok(line) if line == KILL => service.kill()?,
            Ok(line) => return serde_json::from_str(&line).context("the load generator says nonsense"),
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() < deadline => service.keep_up()?,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the load generator is stuck"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the load generator failed: see above"),
        }
    }
}

/// Kills and collects all processes of the namespace but this one. What was cloned meanwhile is met the next time.
fn end_all() -> Result<()> {
    wait_until("processes cannot be killed", || {
        for pid in cpu::processes()?.into_iter().filter(|pid| *pid != 1) {
            // One that has ended by itself is fine too.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        collect()
    })
}

/// Collects who has ended, and answers whether that is everybody: orphans are this process's children.
fn collect() -> Result<bool> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return Ok(true),
            Ok(WaitStatus::StillAlive) => return Ok(false),
            result => drop(result?),
        }
    }
}
