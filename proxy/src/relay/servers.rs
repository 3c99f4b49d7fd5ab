//! The upstream servers as a flow sees them: choosing one by what all pools know of them.

use super::{
    Lane,
    balance::{self, Standing},
};

/// Chooses a server of its upstream for a flow that came in by this listener and has tried some in vain
/// (bits, by [`tried_number`]).
pub fn choose(lane: &Lane, listener: u32, tried: u64, now_ms: u32) -> Option<u32> {
    let members = lane.config.servers_of(listener);
    let first = members.start;
    let servers = lane.table.servers().get(members)?;
    let standing = |member: usize| {
        if tried >> (member % 64) & 1 == 1 {
            Standing::Tried
        } else if balance::passed_over(&servers[member], now_ms) {
            Standing::PassedOver
        } else {
            Standing::Fit
        }
    };
    let random = fastrand::u64(..);
    balance::choose(servers.len(), standing, |member| lane.open_to(first + member), random)
        .map(|member| (first + member) as u32)
}

/// The number by which a record remembers that a server was tried: within the upstream, modulo 64.
pub fn tried_number(lane: &Lane, listener: u32, server: u32) -> u32 {
    server.wrapping_sub(lane.config.servers_of(listener).start as u32) % 64
}
