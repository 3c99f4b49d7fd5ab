//! Starting the successor.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    config::{Config, Listener},
    fault::{NEXT_VARIABLE, VARIABLE as FAULT_VARIABLE},
    handover::{
        FORMAT,
        line::{Line, VARIABLE},
        offer::{Offer, Offered, OfferedListener, OfferedServer},
    },
    supervisor::{Supervisor, setup::Setup},
    sys::{Fd, credentials, exec, socket::Protocol},
    table::HandoverKind,
};
use std::sync::atomic::Ordering::Relaxed;

use super::Candidate;

/// Where the running binary is, even if another one has been put there since.
const OWN_BINARY: &str = "/proc/self/exe";

/// The path that this process's binary was started by.
pub fn own_binary() -> PathBuf {
    let path = std::fs::read_link(OWN_BINARY).unwrap_or_default();
    // So the kernel marks one that was replaced or removed (d_path, fs/d_path.c).
    let bytes = path.as_os_str().as_encoded_bytes();
    match bytes.strip_suffix(b" (deleted)").map(std::str::from_utf8) {
        Some(Ok(path)) => path.into(),
        _ => path,
    }
}

impl Supervisor {
    /// Starts a successor and makes it the offer.
    pub(super) fn launch(
        &mut self,
        now: u64,
        kind: HandoverKind,
        binary: Option<PathBuf>,
    ) -> Result<Candidate> {
        let binary = binary.unwrap_or_else(|| self.handover.binary.clone());
        let offer = self.offer(kind, &binary);
        let (line, theirs) = Line::pair().context("cannot make a line to the successor")?;
        let started = match kind {
            HandoverKind::Reload => {
                start(Path::new(OWN_BINARY), theirs).context("cannot start the running binary again")
            }
            HandoverKind::Upgrade => start_binary(&binary, theirs),
        };
        theirs.close();
        let child = started.inspect_err(|_| line.close())?;
        let fds = offered(&self.setup).in_order();
        if let Err(error) = line.send(&offer.encode(), &fds) {
            exec::kill_group(child.pid);
            line.close();
            return Err(error).context("the successor does not listen");
        }
        Ok(Candidate { child, line, kind, started_at: now, ready_at: None })
    }

    fn offer(&self, kind: HandoverKind, binary: &Path) -> Offer {
        let setup = &self.setup;
        let (config, table) = (setup.config, setup.table);
        let listeners = (0..).zip(&config.listeners).map(|(number, listener)| OfferedListener {
            name: listener.name.clone(),
            is_udp: listener.address.protocol == Protocol::Udp,
            address: listener.address.address,
            upstream: upstream_name(config, listener),
            v6_only: listener.v6_only,
            sockets: sockets(setup, number).len(),
            open: table.open_at(number as usize),
        });
        let servers = config.servers.iter().enumerate().map(|(number, server)| OfferedServer {
            name: server.name.clone(),
            upstream: server.upstream.clone(),
            address: server.address,
            is_retired: server.is_retired,
            failures: table.servers()[number].failures.load(Relaxed),
            passed_over_until_ms: table.servers()[number].passed_over_until_ms.load(Relaxed),
            open: table.open_to(number),
        });
        Offer {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            number: table.supervisor().handover.number.get(),
            is_upgrade: kind == HandoverKind::Upgrade,
            binary: binary.into(),
            epochs: table.supervisor().epochs.load(Relaxed),
            control: config.control.clone(),
            metrics: config.metrics,
            listeners: listeners.collect(),
            servers: servers.collect(),
        }
    }
}

fn upstream_name(config: &Config, listener: &Listener) -> String {
    config
        .upstreams
        .get(listener.upstream as usize)
        .map_or_else(String::new, |upstream| upstream.name.clone())
}

fn offered(setup: &Setup) -> Offered<Fd> {
    Offered {
        decision: setup.decision_fd,
        control: [setup.control_socket.socket, setup.control_socket.lock],
        metrics: setup.metrics,
        sockets: (0..setup.config.listeners.len() as u32).map(|listener| sockets(setup, listener)).collect(),
    }
}

fn sockets(setup: &Setup, listener: u32) -> Vec<Fd> {
    let slots = setup.sockets.of_listener(listener).filter(|slot| setup.sockets.is_there(*slot));
    slots.map(|slot| setup.sockets.all[slot as usize]).collect()
}

/// Starts a binary that nobody but root, and whom this process runs as, can have written: whoever can give
/// orders must not be able to run what is not theirs to choose.
fn start_binary(path: &Path, line: Line) -> Result<crate::sys::process::Child> {
    let what = || format!("cannot upgrade to {}", path.display());
    let file = File::open(path).with_context(what)?;
    let about = file.metadata().with_context(what)?;
    let problem = if !about.is_file() {
        "it is no file"
    } else if about.mode() & 0o111 == 0 {
        "it is not executable; chmod 755 it"
    } else if about.mode() & 0o022 != 0 {
        "others than its owner can write to it; chmod go-w it"
    } else if about.uid() != 0 && about.uid() != credentials::user() {
        "it belongs neither to root nor to the user that the proxy was started by; chown it"
    } else {
        ""
    };
    if !problem.is_empty() {
        bail!("{}: {problem}", what());
    }
    // What was looked at is what is run, whatever comes to the path meanwhile.
    start(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), line).with_context(what)
}

fn start(program: &Path, line: Line) -> Result<crate::sys::process::Child> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let number = exec::LINE.to_string();
    // The time in which a watchdog is to be fed is for a process number that will not be the right one.
    let mut variables = vec![(VARIABLE, Some(OsStr::new(&number))), ("WATCHDOG_PID", None)];
    // Faults for this process are none for its successor.
    let next = std::env::var_os(NEXT_VARIABLE);
    variables.extend([(FAULT_VARIABLE, next.as_deref()), (NEXT_VARIABLE, None)]);
    Ok(exec::start(program, &arguments, &variables, line.fd())?)
}
