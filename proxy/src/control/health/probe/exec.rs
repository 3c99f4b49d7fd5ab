//! A check by a program.

use std::{io, process::Stdio};

use tokio::{io::AsyncReadExt as _, net::unix::pipe, process::Command};

use super::{Failure, MAX_ANSWER, MAX_SHOWN, Target};
use crate::sys::exec;

/// The processes of a check. Dropped, they are killed: the program itself, and what it has started and left.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        exec::kill_members(self.0);
    }
}

/// Runs a program with the server's address (or socket) and port as its last arguments, in an environment that has the search
/// path of this process and the server's names, and no other right than this process has. It has to exit with 0.
pub async fn run(command: &[String], target: &Target, [address, port]: [String; 2]) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else {
        return Err(Failure::Failed("no program is given".into()));
    };
    let (says, ours) = io::pipe()?;
    let mut prepared = std::process::Command::new(program);
    prepared.args(arguments).args([&address, &port]);
    prepared.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).current_dir("/");
    prepared.env("PROXY_UPSTREAM", &target.upstream).env("PROXY_SERVER", &target.server);
    prepared.env("PROXY_ADDRESS", &address).env("PROXY_PORT", &port);
    prepared.stdin(Stdio::null()).stdout(ours.try_clone()?).stderr(ours);
    exec::set_apart(&mut prepared);
    let mut prepared = Command::from(prepared);
    let cannot = |error| Failure::Failed(format!("cannot start {program}: {error}"));
    let mut child = prepared.spawn().map_err(cannot)?;
    // It has our end of the pipe, which would not end.
    drop(prepared);
    let group = Group(child.id().map_or(0, u32::cast_signed));
    let mut says = pipe::Receiver::from_owned_fd(says.into())?;
    let mut output = Output::default();
    let status = loop {
        tokio::select! {
            biased;
            more = output.read(&mut says), if output.is_open => more?,
            status = child.wait() => break status?,
        }
    };
    // It is collected, and its number may soon be another's; its group's is not while somebody is in it.
    drop(group);
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Failed(output.explain(program, status))),
    }
}

/// What a program says, to a limit; the rest is read and forgotten.
struct Output {
    is_open: bool,
    last: Vec<u8>,
    count: usize,
}

impl Default for Output {
    fn default() -> Self {
        Self { is_open: true, last: Vec::new(), count: 0 }
    }
}

impl Output {
    async fn read(&mut self, from: &mut pipe::Receiver) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let length = from.read(&mut buffer).await?;
        self.count += length;
        self.is_open = length > 0;
        self.last.extend_from_slice(&buffer[..length]);
        let surplus = self.last.len().saturating_sub(2 * MAX_SHOWN);
        self.last.drain(..surplus);
        match self.count > MAX_ANSWER {
            true => Err(io::Error::other("it says too much")),
            false => Ok(()),
        }
    }

    /// How it ended, and its last line.
    fn explain(&self, program: &str, status: std::process::ExitStatus) -> String {
        let text = String::from_utf8_lossy(&self.last);
        let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let separator = if line.is_empty() { "" } else { ": " };
        format!("{program} ended with {status}{separator}{}", line.trim().escape_debug())
    }
}
