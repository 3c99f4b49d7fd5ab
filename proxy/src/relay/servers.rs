//! The upstream servers as a flow sees them: choosing one by what all pools know of them.

use std::{io, net::SocketAddr, ops::Range, path::Path};

use crate::{
    config::Place,
    sys::{
        Fd,
        socket::{self, FlowOptions},
        unix,
    },
    table::Origin,
};

use super::{
    Lane,
    balance::{self, Standing},
};

/// The slots of a listener's servers; vacant ones among them.
fn slots_of(lane: &Lane, listener: u32) -> Range<usize> {
    lane.config.upstream_of(listener).map_or(0..0, |(number, upstream)| {
        let start = upstream.slots.start;
        start..upstream.slots.end.min(start + lane.table.upstream(number).used())
    })
}

/// Chooses a server of its upstream for a flow that came in by this listener and has tried some in vain
/// (bits, by [`tried_number`]).
pub fn choose(lane: &Lane, listener: u32, tried: u64, now_ms: u32) -> Option<u32> {
    let slots = slots_of(lane, listener);
    let first = slots.start;
    let servers = lane.table.servers().get(slots)?;
    let standing = |member: usize| {
        let server = &servers[member];
        if !server.takes_new() {
            Standing::Out
        } else if tried >> (member % 64) & 1 == 1 {
            Standing::Tried
        } else if balance::passed_over(&server.state, now_ms) {
            Standing::PassedOver
        } else {
            Standing::Fit
        }
    };
    let random = fastrand::u64(..);
    balance::choose(servers.len(), standing, |member| lane.open_to(first + member), random)
        .map(|member| (first + member) as u32)
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
    let mut upstreams = lane.config.upstreams.iter();
    let upstream = upstreams.find(|upstream| upstream.slots.contains(&(server as usize)))?;
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

/// Notes that a server failed.
pub fn note_failure(lane: &Lane, server: u32, now_ms: u32) {
    if let Some(cell) = lane.table.servers().get(server as usize) {
        balance::note_failure(&cell.state, now_ms);
    }
}

/// Notes that a server answered.
pub fn note_success(lane: &Lane, server: u32) {
    if let Some(cell) = lane.table.servers().get(server as usize) {
        balance::note_success(&cell.state);
    }
}

/// Whether there is such a server, or was: what a record says may be anything.
pub fn is_known(lane: &Lane, server: u32) -> bool {
    address(lane, server).is_some()
}

/// The number by which a record remembers that a server was tried: within the upstream, modulo 64.
pub fn tried_number(lane: &Lane, listener: u32, server: u32) -> u32 {
    server.wrapping_sub(slots_of(lane, listener).start as u32) % 64
}
