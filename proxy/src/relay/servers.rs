//! The upstream servers as a flow sees them: choosing one by what all pools know of them.

use super::{
    Lane,
    balance::{self, Standing},
};

/// Chooses a server for a flow that has tried some in vain (bits, by number modulo 64).
pub fn choose(lane: &Lane, tried: u64, now_ms: u32) -> Option<u32> {
    let servers = lane.table.servers();
    let standing = |server: usize| {
        if tried >> (server % 64) & 1 == 1 {
            Standing::Tried
        } else if balance::passed_over(&servers[server], now_ms) {
            Standing::PassedOver
        } else {
            Standing::Fit
        }
    };
    let random = fastrand::u64(..);
    balance::choose(servers.len(), standing, |server| lane.open_to(server), random)
        .map(|server| server as u32)
}
