//! Everything the supervisor opens before its first clone, in an order that matters: what control
//! needs comes first, so that it can keep the low descriptor numbers and leave the shared table.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    check::port,
    config::Config,
    limits::{Limits, MAX_DESCRIPTORS},
    log::KernelLog,
    steering::{Steering, SteeringLog},
    sys::{
        Fd, fd, signal,
        socket::{self, Protocol},
    },
    table::{Dimensions, Table, Tag},
};

use super::{control_socket::ControlSocket, listen};

/// What was opened.
pub struct Setup {
    /// The settings, for the life of the process.
    pub config: &'static Config,
    /// The flow table.
    pub table: Table,
    /// The kernel program.
    pub steering: Steering,
    /// Its log; `None` if it cannot be read.
    pub log: Option<SteeringLog<KernelLog>>,
    /// Limits on flows.
    pub limits: Limits,
    /// Listening sockets by slot.
    pub sockets: &'static [Fd],
    /// The control socket.
    pub control_socket: ControlSocket,
    /// The metrics listener.
    pub metrics: Option<Fd>,
    /// Orders: the supervisor's end, and control's.
    pub orders: (Fd, Fd),
    /// The first descriptor number that control does not need.
    pub first_unneeded: Fd,
    /// Signals.
    pub signals: Fd,
    /// `/dev/null`.
    pub null: Fd,
}

/// Opens everything, or nothing that outlives the error.
///
/// # Errors
/// What failed, on what, and what to do.
pub fn open(config: Config) -> Result<Setup> {
    let descriptors = fd::raise_limit(MAX_DESCRIPTORS).context("cannot raise the descriptor limit")? as usize;
    let limits = Limits::divide(&config, descriptors)?;
    let config: &'static Config = Box::leak(Box::new(config));

    let control_socket = ControlSocket::bind(&config.control)?;
    let metrics = config.metrics.map(bind_metrics).transpose()?;
    let orders = socket::message_pair().context("cannot make a socket pair")?;
    let mut steering = Steering::load(config.listeners.len() as u32, config.workers)?;
    let sockets: &'static [Fd] = listen::bind(config)?.leak();
    let log = steering.logger(KernelLog::new(&config.listeners))?;
    let first_unneeded = close_ranks().context("cannot open /dev/null")?;

    let dimensions = Dimensions {
        descriptors,
        workers: config.workers as usize,
        listeners: config.listeners.len(),
        servers: config.servers.len(),
    };
    let (_, mut table) = Table::create(dimensions).context("cannot make the flow table")?;
    let null = Fd::keep(File::options().write(true).open("/dev/null").context("cannot open /dev/null")?);
    let signals = signal::descriptor().context("cannot take signals")?;
    listen::steer(config, &mut steering, sockets)?;
    // Filled up, so that every flow's number is above all of these.
    let first_flow = close_ranks().context("cannot open /dev/null")?;
    for number in fd::open_numbers().context("cannot list /proc/self/fd")? {
        if let Some(tag) = table.tag(number) {
            tag.set(Tag::SUPERVISOR);
        }
    }
    table.reserve_below(first_flow);
    Ok(Setup {
        config,
        table,
        steering,
        log: Some(log),
        limits,
        sockets,
        control_socket,
        metrics,
        orders,
        first_unneeded,
        signals,
        null,
    })
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
