//! The control process: metrics, status, and the way in for orders. Nothing on the data path waits
//! for it; it may die and come back at any time.

mod access_log;
mod clients;
mod health;
mod http;
mod metrics;
mod names;
mod notices;
mod requests;
pub mod sessions;
mod standing;
pub mod status;
mod supervisor;
pub mod takeovers;
mod upstreams;
mod view;

pub use requests::{CLOSE, LIST, MAX_REQUEST, Reply};
pub use upstreams::{Request as UpstreamRequest, Wish};
pub use view::{SEAT_NAMES, SteeringView};

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixDatagram, UnixListener};

use crate::{
    config::Config,
    sys::{Fd, credentials, fd, process, signal},
    table::Table,
};
use access_log::Writer;
use supervisor::Supervisor;
use view::View;

/// What the supervisor gives to control. All descriptors are numbers up to `last_kept`.
pub struct Context<'a> {
    /// The settings.
    pub config: Config,
    /// The flow table.
    pub table: Table,
    /// Liveness bits, leases and verdicts.
    pub steering: &'a dyn SteeringView,
    /// The control socket: a listening, non-blocking local stream socket.
    pub control_socket: Fd,
    /// A listening, non-blocking TCP socket for metrics.
    pub metrics: Option<Fd>,
    /// Our end of the line to the supervisor: a local socket that keeps messages apart.
    pub orders: Fd,
    /// The supervisor's end of it: closed here, so that its death can be noticed.
    pub orders_peer: Fd,
    /// Our end of the line of notices, likewise.
    pub notices: Fd,
    /// The supervisor's end of it, closed here.
    pub notices_peer: Fd,
    /// The access log's file, if there is one.
    pub access_log: Option<Fd>,
    /// The listening sockets by listener; none of retired ones.
    pub listening: Vec<Vec<Fd>>,
    /// Descriptors that are closed here.
    pub unneeded: Vec<Fd>,
    /// The highest of the numbers that control needs.
    pub last_kept: Fd,
}

/// The life of the control process, from its clone on; answers the exit code.
pub fn run(context: Context<'_>) -> i32 {
    match confine(&context).and_then(|()| serve(context)) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("control ends: {error:#}");
            1
        }
    }
}

/// Gives up what control does not need. The order is: descriptors first, while the table is still
/// the pools' one, then rights, all of it before the first thread or byte from outside.
fn confine(context: &Context<'_>) -> anyhow::Result<()> {
    let first_not_kept = Fd::from_raw(context.last_kept.raw() + 1);
    fd::unshare_below(first_not_kept).context("cannot leave the shared descriptor table")?;
    let peers = [&context.orders_peer, &context.notices_peer];
    context.unneeded.iter().chain(peers).for_each(|unneeded| fd::close(*unneeded));
    process::set_name(c"proxy-control");
    if let Some(user) = &context.config.user {
        credentials::become_user(user).with_context(|| format!("cannot become user {}", user.name))?;
    }
    credentials::keep_only(&[]).context("cannot give up capabilities")?;
    credentials::no_new_privileges().context("cannot forbid new privileges")?;
    signal::restore_children().context("cannot collect children")
}

fn serve(context: Context<'_>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot make the tokio runtime")?;
    runtime.block_on(serve_until_alone(context))
}

/// Serves until the supervisor and both pools are gone, or the supervisor says that it is over.
async fn serve_until_alone(context: Context<'_>) -> anyhow::Result<()> {
    let control_socket: std::os::unix::net::UnixListener = duplicate(context.control_socket)?.into();
    let control_socket = UnixListener::from_std(control_socket).context("cannot use the control socket")?;
    let metrics = context.metrics.map(metrics_listener).transpose()?;
    let supervisor = Supervisor::new(duplicate(context.orders)?, context.table)?;
    let notices: std::os::unix::net::UnixDatagram = duplicate(context.notices)?.into();
    let notices = UnixDatagram::from_std(notices).context("cannot use the line of notices")?;
    let log = log_writer(&context)?;
    // Of a control process that died in the middle of it.
    context.table.control().close.withdraw();
    let view = View::new(&context);

    tokio::select! {
        () = notices::heed(&notices, log.as_ref()) => {}
        () = requests::serve(&control_socket, &view, &supervisor) => {}
        () = http::serve(metrics.as_ref(), &view) => {}
        () = health::run(&view) => {}
        () = health::on_down::run(&view) => {}
        () = names::run(&view) => {}
        () = supervisor.watch() => {}
    }
    log.into_iter().for_each(Writer::finish);
    Ok(())
}

fn log_writer(context: &Context<'_>) -> anyhow::Result<Option<Writer>> {
    let (Some(fd), Some(settings)) = (context.access_log, &context.config.access_log) else {
        return Ok(None);
    };
    // Not a duplicate: a file that was moved away and removed would be on the disk for as long as this number is.
    let (file, config) = (fd.into_owned().into(), Arc::new(context.config.clone()));
    let writer = Writer::start(file, settings.clone(), config, context.table);
    writer.map(Some).context("cannot make the thread that writes the access log")
}

fn metrics_listener(socket: Fd) -> anyhow::Result<TcpListener> {
    let listener: std::net::TcpListener = duplicate(socket)?.into();
    TcpListener::from_std(listener).context("cannot use the metrics socket")
}

/// A descriptor of its own, closed on drop, as tokio wants it.
fn duplicate(fd: Fd) -> anyhow::Result<std::os::fd::OwnedFd> {
    fd.borrow().try_clone_to_owned().with_context(|| format!("cannot duplicate descriptor {}", fd.raw()))
}

#[cfg(test)]
mod tests;
