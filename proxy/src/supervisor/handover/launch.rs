//! Starting the successor.

use std::{
    ffi::{OsStr, OsString},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use anyhow::{Context as _, Result};

use crate::{
    config::{Config, Listener, rules::ListenerRules},
    fault::{NEXT_VARIABLE, VARIABLE as FAULT_VARIABLE},
    handover::{
        FORMAT,
        line::{Line, VARIABLE},
        offer::{Offer, Offered, OfferedListener, OfferedServer},
    },
    slots::{self, Slot},
    supervisor::{Supervisor, setup::Setup},
    sys::{
        Fd,
        exec::{self, Program},
        process::{self, Child},
        socket::Protocol,
    },
    table::{HandoverKind, Kind, TagCell},
};

use super::{Candidate, binary};

impl Supervisor {
    /// Starts a successor and makes it the offer.
    pub(super) fn launch(
        &mut self,
        now: u64,
        kind: HandoverKind,
        binary: Option<PathBuf>,
    ) -> Result<Candidate> {
        let binary = binary.unwrap_or_else(|| self.handover.binary.clone());
        let (line, theirs) = Line::pair().context("cannot make a line to the successor")?;
        // At once, for this process may die before the next line.
        let cell = &self.setup.table.supervisor().handover.candidate;
        let note = |pid| _ = cell.claim(pid);
        self.setup.table.supervisor().expect_copies(now);
        let started = match kind {
            HandoverKind::Reload => {
                start(Path::new(binary::OWN), theirs, note).context("cannot start the running binary again")
            }
            HandoverKind::Upgrade => start_binary(&binary, theirs, note),
        };
        theirs.close();
        let made = started.and_then(|child| {
            let sent = line.send(&self.offer(kind, &binary).encode(), &offered(&self.setup).in_order());
            sent.context("it ended before it was ready").inspect_err(|_| {
                exec::kill_group(child.pid);
                process::forget(child);
            })?;
            Ok(Candidate { child, line, kind, started_at: now, ready_at: None })
        });
        made.inspect_err(|_| {
            cell.clear();
            line.close();
        })
    }

    fn offer(&self, kind: HandoverKind, binary: &Path) -> Offer {
        let setup = &self.setup;
        let (config, table) = (setup.config, setup.table);
        let (open, rules) = (open(setup), rules(config));
        let listeners = (0..).zip(&config.listeners).map(|(number, listener)| OfferedListener {
            name: listener.name.clone(),
            is_udp: listener.address.protocol == Protocol::Udp,
            address: listener.address.address,
            path: listener.address.path.map(Path::to_owned),
            upstream: upstream_name(config, listener),
            v6_only: listener.v6_only,
            sockets: sockets(setup, number).len(),
            open: open.0[number as usize],
            rules: rules.iter().position(|rules| Arc::ptr_eq(rules, &listener.rules)),
            accepts_proxy: networks(listener),
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
            rules,
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            upstream_rules: config.upstreams.iter().map(|upstream| Arc::clone(&upstream.rules)).collect(),
            servers: servers(setup, &open.1),
        }
    }
}

/// Peers of a listener that have to begin with a PROXY header.
fn networks(listener: &Listener) -> Vec<String> {
    let networks = listener.rules.accept_proxy.iter().flat_map(|accepts| &accepts.from);
    networks.map(ToString::to_string).collect()
}

/// The rules of all listeners, each once.
fn rules(config: &Config) -> Vec<Arc<ListenerRules>> {
    let mut all: Vec<Arc<ListenerRules>> = Vec::new();
    for Listener { rules, .. } in &config.listeners {
        if !all.iter().any(|known| Arc::ptr_eq(known, rules)) {
            all.push(Arc::clone(rules));
        }
    }
    all
}

/// Flows by listener and by server. The records are asked, for of what a dead pool leaves nobody counts what is
/// open until it is adopted.
fn open(setup: &Setup) -> (Vec<u64>, Vec<u64>) {
    let (table, config) = (setup.table, setup.config);
    let mut open = (vec![0; config.listeners.len()], vec![0; config.slots()]);
    let is_flow = |tag: &TagCell| matches!(tag.get().kind, Kind::Client | Kind::UdpFlow);
    let numbers = (0..).zip(table.tags()).filter(|(_, tag)| is_flow(tag)).map(|(number, _)| number);
    for record in numbers.filter_map(|number| table.record(Fd::from_raw(number))) {
        open.0.get_mut(record.listener() as usize).into_iter().for_each(|count| *count += 1);
        let server = record.server().and_then(|server| open.1.get_mut(server as usize));
        server.into_iter().for_each(|count| *count += 1);
    }
    open
}

/// Upstream servers, with flows that are open by server slot.
pub(super) fn servers(setup: &Setup, open: &[u64]) -> Vec<OfferedServer> {
    let open_to = |slot: &Slot<'_>| open.get(slot.number).copied().unwrap_or(0);
    slots::all(setup.config, &setup.table).map(|slot| OfferedServer::of(&slot, open_to(&slot))).collect()
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

fn start_binary(path: &Path, line: Line, note: impl FnOnce(i32)) -> Result<Child> {
    let what = || format!("cannot upgrade to {}", path.display());
    let file = binary::open(path).with_context(what)?;
    // What was looked at is what is run, whatever comes to the path meanwhile.
    start(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), line, note).with_context(what)
}

fn start(program: &Path, line: Line, note: impl FnOnce(i32)) -> Result<Child> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let number = exec::LINE.to_string();
    // The time in which a watchdog is to be fed is for a process number that will not be the right one.
    let mut variables = vec![(VARIABLE, Some(OsStr::new(&number))), ("WATCHDOG_PID", None)];
    // What came from the service manager at the start is in the offer.
    variables.extend(["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(|name| (name, None)));
    // Faults for this process are none for its successor.
    let next = std::env::var_os(NEXT_VARIABLE);
    variables.extend([(FAULT_VARIABLE, next.as_deref()), (NEXT_VARIABLE, None)]);
    Ok(Program::new(program, &arguments, &variables)?.start(line.fd(), note)?)
}
