//! HAProxy: a master and a worker with a thread for each processor, as its service has it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::installed;
use crate::cases::LISTEN;

const PROGRAM: &str = "haproxy";

pub fn version() -> Result<String> {
    installed(PROGRAM, "-v", "haproxy")
}

pub fn command(settings: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    // -W: master and worker; -db: in the foreground.
    command.args(["-W", "-db", "-f"]).arg(settings);
    command
}

pub fn settings(server: SocketAddr, is_splicing: bool) -> String {
    let splice = if is_splicing { "    option splice-request\n    option splice-response\n" } else { "" };
    format!(
        "global
    maxconn 4000

defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
{splice}
listen bench
    bind {LISTEN} backlog 4096
    server server {server}
"
    )
}
