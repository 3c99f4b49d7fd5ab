//! The upstream servers as a flow sees them.

use std::{io, net::SocketAddr, path::Path};

use crate::{
    config::{
        Place, Upstream,
        rules::{Ejection, UpstreamRules},
    },
    sys::{
        Fd,
        socket::{self, FlowOptions},
        unix,
    },
    table::{Origin, Record, ServerState},
};

use super::{Lane, balance::ejection};

/// The number of the upstream that a connection goes to, and that.
pub fn upstream_of<'a>(lane: &'a Lane, record: &Record) -> Option<(usize, &'a Upstream)> {
    let routed = record.route().map(|number| number as usize);
    let routed = routed.and_then(|number| Some((number, lane.config.upstreams.get(number)?)));
    routed.or_else(|| lane.config.upstream_of(record.listener()))
}

/// How it treats the connection; as it does by default if there is none.
pub fn rules<'a>(lane: &'a Lane, record: &Record) -> &'a UpstreamRules {
    upstream_of(lane, record).map_or(&lane.config.upstream_defaults, |(_, upstream)| &upstream.rules)
}

/// Where a connection to a server goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination {
    /// There, by TCP.
    Internet(SocketAddr),
    /// To a unix socket.
    Unix(&'static Path),
}

impl Destination {
    /// Makes a non-blocking socket to connect with.
    ///
    /// # Errors
    /// The descriptor limit is reached.
    pub fn socket(self, options: FlowOptions) -> io::Result<Fd> {
        match self {
            Self::Internet(address) => socket::stream(address, options),
            Self::Unix(_) => unix::stream(),
        }
    }

    /// Starts to connect; readiness for writing tells the end of it.
    ///
    /// # Errors
    /// It has failed at once.
    pub fn connect(self, socket: Fd) -> io::Result<()> {
        match self {
            Self::Internet(address) => socket::connect(socket, address),
            Self::Unix(path) => unix::connect(socket, path),
        }
    }
}

/// Where a connection to a server goes; `None` if its slot is being filled anew right now.
pub fn destination(lane: &Lane, server: u32) -> Option<Destination> {
    let identity = lane.table.servers().get(server as usize)?.identity()?;
    if identity.address.port() > 0 {
        return Some(Destination::Internet(identity.address));
    }
    let (_, upstream) = lane.config.upstream_of_slot(server as usize)?;
    let Origin::Settings(number) = identity.origin else { return None };
    match &upstream.servers.get(number as usize)?.place {
        Place::Unix(path) => Some(Destination::Unix(path)),
        _ => None,
    }
}

/// Where a UDP server is; `None` if its slot is being filled anew right now.
pub fn address(lane: &Lane, server: u32) -> Option<SocketAddr> {
    Some(lane.table.servers().get(server as usize)?.identity()?.address)
}

/// Notes that a server failed. What is a failure: a connection that is refused, runs out of time or has no way; one
/// that is reset before anything was passed on by it; a datagram that is refused. Not a reset later on, which may be
/// the server's answer to what its client has said.
pub fn note_failure(lane: &Lane, server: u32, now_ms: u32) {
    if let Some((state, eject)) = ejectable(lane, server)
        && ejection::note_failure(state, eject, now_ms)
    {
        lane.server(server).ejections.add(1);
    }
}

/// Notes that a server answered.
pub fn note_success(lane: &Lane, server: u32, now_ms: u32) {
    if let Some((state, eject)) = ejectable(lane, server) {
        ejection::note_success(state, eject, now_ms);
    }
}

fn ejectable(lane: &Lane, server: u32) -> Option<(&'static ServerState, &Ejection)> {
    let cell = lane.table.servers().get(server as usize)?;
    let (_, upstream) = lane.config.upstream_of_slot(server as usize)?;
    Some((&cell.state, &upstream.rules.eject))
}

/// Whether there is such a server, or was: what a record says may be anything.
pub fn is_known(lane: &Lane, server: u32) -> bool {
    address(lane, server).is_some()
}

/// The number by which a record remembers that a server was tried: within the upstream, modulo 64.
pub fn tried_number(lane: &Lane, server: u32) -> u32 {
    let first = lane.config.upstream_of_slot(server as usize).map_or(0, |(_, upstream)| upstream.slots.start);
    server.wrapping_sub(first as u32) % 64
}
