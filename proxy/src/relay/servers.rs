//! The upstream servers as a flow sees them: choosing one by what all pools know of them.

use std::{net::SocketAddr, ops::Range};

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

/// Where a server is; `None` if its slot is being filled anew right now.
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
