//! Everything the supervisor opens before its first clone, in an order that matters: what control
//! needs comes first, so that it can keep the low descriptor numbers and leave the shared table.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    sync::atomic::Ordering::Relaxed,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    check::{Level, machine, port, rules},
    config::{Config, Listener},
    limits::{Limits, MAX_DESCRIPTORS},
    log::KernelLog,
    relay::buffers,
    slots,
    steering::{Steering, SteeringLog},
    sys::{
        Fd, congestion, fd, signal,
        socket::{self, Protocol},
    },
    table::{DecisionCell, Dimensions, Index, Table, Tag},
};

use super::{
    access_log,
    control_socket::ControlSocket,
    inherit::Inherited,
    listen::{self, Sockets},
    stored::Stored,
};

/// What was opened.
pub struct Setup {
    /// The settings, for the life of the process.
    pub config: &'static Config,
    /// The flow table.
    pub table: Table,
    /// Whose the flows are in a handover, and the memory of that word.
    pub decision: &'static DecisionCell,
    /// See `decision`.
    pub decision_fd: Fd,
    /// The kernel program.
    pub steering: Steering,
    /// Its log; `None` if it cannot be read.
    pub log: Option<SteeringLog<KernelLog>>,
    /// Limits on flows.
    pub limits: Limits,
    /// Listening sockets.
    pub sockets: Sockets,
    /// Whether workers are to be told of what comes to them: a successor waits until it has taken over.
    pub is_serving: bool,
    /// Epochs that pools of supervisors before this one have had.
    pub first_epoch: u32,
    /// The control socket.
    pub control_socket: ControlSocket,
    /// The metrics listener.
    pub metrics: Option<Fd>,
    /// Orders: the supervisor's end, and control's.
    pub orders: (Fd, Fd),
    /// Notices: the supervisor's end, and control's.
    pub notices: (Fd, Fd),
    /// The access log's file.
    pub access_log: Option<Fd>,
    /// The first descriptor number that control does not need.
    pub first_unneeded: Fd,
    /// Signals.
    pub signals: Fd,
    /// The file of the workers' buffers.
    pub buffers: Fd,
    /// `/dev/null`.
    pub null: Fd,
}

const _: () = assert!(MAX_DESCRIPTORS <= Index::NUMBERS, "the flow index has room for every number");

/// Opens everything, or nothing that outlives the error; what is `inherited` from another supervisor is not
/// touched, for that one goes on if this one fails.
///
/// # Errors
/// What failed, on what, and what to do.
pub fn open(mut config: Config, inherited: Option<&Inherited>) -> Result<Setup> {
    if let Some(inherited) = inherited {
        inherited.retire(&mut config)?;
    }
    let descriptors = fd::raise_limit(MAX_DESCRIPTORS).context("cannot raise the descriptor limit")? as usize;
    let limits = Limits::divide(&config, descriptors)?;
    let mut findings = machine::transparent(&config).into_iter().chain(machine::own_listeners(&config));
    if let Some(finding) = findings.find(|finding| finding.level == Level::Fail) {
        bail!("{finding}");
    }
    congestion::look_up();
    let config: &'static Config = Box::leak(Box::new(config));
    rules::ignored(config).iter().for_each(|finding| tracing::warn!("{finding}"));

    let control_socket = match inherited.and_then(|inherited| inherited.control_socket(config)) {
        Some(socket) => socket,
        None => ControlSocket::bind(&config.control)?,
    };
    let metrics = match inherited.and_then(|inherited| inherited.metrics(config)) {
        Some(listener) => Some(listener),
        None => config.metrics.map(bind_metrics).transpose()?,
    };
    let orders = socket::message_pair().context("cannot make a socket pair")?;
    let notices = socket::message_pair().context("cannot make a socket pair")?;
    let access_log = access_log::open(config)?;
    let stored = if inherited.is_none() { Stored::from_environment(config) } else { Stored::default() };
    let of_listener =
        |listener: &Listener| inherited.map_or_else(|| stored.sockets(listener), |all| all.sockets(listener));
    let sockets = Sockets::open(config, of_listener, inherited.is_some() || !stored.is_empty())?;
    let surplus = sockets.surplus.len() as u32;
    let mut steering = Steering::load(config.listeners.len() as u32, config.workers, surplus)?;
    let log = steering.logger(KernelLog::new(&config.listeners))?;
    let first_unneeded = close_ranks().context("cannot open /dev/null")?;

    let mut table = make_table(config, descriptors, inherited)?;
    let (decision_fd, decision) = DecisionCell::create().context("cannot make shared memory")?;
    let buffers = buffers::make(config.workers).context("cannot make shared memory")?;
    let null = Fd::keep(File::options().write(true).open("/dev/null").context("cannot open /dev/null")?);
    let signals = signal::descriptor().context("cannot take signals")?;
    if inherited.is_none() {
        listen::steer_anew(config, &mut steering, &sockets)?;
    }
    keep_numbers(&mut table)?;
    let first_epoch = inherited.map_or(0, |inherited| inherited.offer.epochs);
    table.supervisor().epochs.store(first_epoch, Relaxed);
    table.supervisor().serving.store(inherited.is_none().into(), Relaxed);
    Ok(Setup {
        config,
        table,
        decision,
        decision_fd,
        steering,
        log: Some(log),
        limits,
        sockets,
        is_serving: inherited.is_none(),
        first_epoch,
        control_socket,
        metrics,
        orders,
        notices,
        access_log,
        first_unneeded,
        signals,
        buffers,
        null,
    })
}

/// The flow table, with the servers that are known.
fn make_table(config: &Config, descriptors: usize, inherited: Option<&Inherited>) -> Result<Table> {
    let dimensions = Dimensions {
        descriptors,
        workers: config.workers as usize,
        listeners: config.listeners.len(),
        upstreams: config.upstreams.len(),
        servers: config.slots(),
        counts_sources: config.counts_sources(),
    };
    let (_, table) = Table::create(dimensions).context("cannot make the flow table")?;
    slots::seed(config, &table);
    if let Some(inherited) = inherited {
        inherited.place_servers(config, &table, &inherited.offer.servers);
    }
    Ok(table)
}

/// Everything that is open by now is the supervisor's for good, and every flow's number is above all of it.
fn keep_numbers(table: &mut Table) -> Result<()> {
    let first_flow = close_ranks().context("cannot open /dev/null")?;
    for number in fd::open_numbers().context("cannot list /proc/self/fd")? {
        if let Some(tag) = table.tag(number) {
            tag.set(Tag::SUPERVISOR);
        }
    }
    table.reserve_below(first_flow);
    Ok(())
}

/// Fills the holes below the highest number in use, so that no flow ever gets a number below. Answers the first number above.
fn close_ranks() -> std::io::Result<Fd> {
    let highest = fd::open_numbers()?.last().map_or(2, |fd| fd.raw());
    loop {
        let plug = Fd::keep(File::open("/dev/null")?);
        if plug.raw() > highest {
            fd::close(plug);
            return Ok(plug);
        }
    }
}

fn bind_metrics(address: SocketAddr) -> Result<Fd> {
    let explain = |error: std::io::Error| {
        anyhow!(
            "cannot serve metrics on {address}: {error}: {}",
            port::explain(Protocol::Tcp, address, &error)
        )
    };
    let listener = TcpListener::bind(address).map_err(explain)?;
    listener.set_nonblocking(true).map_err(explain)?;
    Ok(Fd::keep(listener))
}
