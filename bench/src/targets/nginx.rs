//! nginx with its stream module: a master, and a worker for each processor with a listening socket of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::installed;
use crate::cases::LISTEN;
use crate::isolation::DIRECTORY;

const PROGRAM: &str = "nginx";
const PACKAGES: &str = "nginx libnginx-mod-stream";
/// Where the packages of Debian and Ubuntu have it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub fn version() -> Result<String> {
    let version = installed(PROGRAM, "-v", PACKAGES)?;
    if !Path::new(MODULE).exists() {
        bail!("nginx has no stream module: apt-get install {PACKAGES}");
    }
    Ok(version)
}

pub fn command(settings: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-e", "stderr", "-c"]).arg(settings);
    command
}

pub fn settings(server: SocketAddr) -> String {
    format!(
        "load_module {MODULE};
daemon off;
pid {DIRECTORY}/nginx.pid;
error_log stderr error;
worker_processes auto;
worker_rlimit_nofile 20000;

events {{
    worker_connections 8000;
}}

stream {{
    server {{
        listen {LISTEN} reuseport backlog=4096;
        listen {LISTEN} udp reuseport;
        proxy_pass {server};
    }}
}}
"
    )
}
