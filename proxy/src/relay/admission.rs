//! Who is let in: a listener's access list, its limits on what is open, and its rate of new connections. All
//! addresses of a listener of the settings share them, and all workers of both pools.

use std::{
    net::IpAddr,
    sync::atomic::{Ordering::SeqCst, fence},
};

use super::{Lane, rate};
use crate::{
    sys::time,
    table::{DropReason, Rejection, Sources},
};

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By the access list.
    Denied,
    /// As many are open as may be.
    ListenerLimit,
    /// As many are open of this client as may be.
    SourceLimit,
    /// Too many have come of late.
    Rate,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied => Self::Denied,
            Refusal::ListenerLimit => Self::ListenerLimit,
            Refusal::SourceLimit => Self::SourceLimit,
            Refusal::Rate => Self::Rate,
        }
    }
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied => Self::Denied,
            Refusal::ListenerLimit => Self::ListenerLimit,
            Refusal::SourceLimit => Self::SourceLimit,
            Refusal::Rate => Self::Rate,
        }
    }
}

/// Whether one more connection or flow of a client may begin, of which so many (0 or 1) are counted already: counted
/// before, it never makes more than the limit, for two workers that let one in at once see each other's. An
/// unspecified address is none, and only the limits hold that need none.
///
/// # Errors
/// Why not.
pub fn admit(lane: &Lane, listener: u32, client: IpAddr, counted: u64) -> Result<(), Refusal> {
    allow(lane, listener, client, counted)?;
    take_turn(lane, listener)
}

/// The first half of [`admit`]: all but the rate.
///
/// # Errors
/// Why not.
pub fn allow(lane: &Lane, listener: u32, client: IpAddr, counted: u64) -> Result<(), Refusal> {
    let rules = lane.config.rules(listener);
    if !client.is_unspecified() && !rules.access.allows(client) {
        return Err(Refusal::Denied);
    }
    // What this worker has counted is seen by those whose counts it reads, or theirs by it.
    fence(SeqCst);
    let is_full = |most: u32, open: u64| open.saturating_sub(counted) >= u64::from(most);
    if rules.max_connections.is_some_and(|most| is_full(most, lane.open_in_group(listener))) {
        return Err(Refusal::ListenerLimit);
    }
    let source = source(lane, listener, client).zip(rules.max_connections_per_source);
    if source.is_some_and(|(hash, most)| is_full(most, lane.table.sources().count(hash))) {
        return Err(Refusal::SourceLimit);
    }
    Ok(())
}

/// The second half: whether the listener's rate allows for one more now. It counts as begun then, so this is asked when
/// nothing else is in the way.
///
/// # Errors
/// [`Refusal::Rate`].
pub fn take_turn(lane: &Lane, listener: u32) -> Result<(), Refusal> {
    let word = lane.table.rate(lane.config.group(listener));
    match lane.config.rules(listener).max_connection_rate {
        Some(rate) if !rate::take(word, rate, time::monotonic_ns()) => Err(Refusal::Rate),
        _ => Ok(()),
    }
}

/// Counts one more for its client.
pub fn count_source(lane: &Lane, listener: u32, client: IpAddr) {
    if let Some(hash) = source(lane, listener, client) {
        lane.table.sources().up(lane.table.lane(lane.seat, lane.worker), hash);
    }
}

/// Counts one less.
pub fn uncount_source(lane: &Lane, listener: u32, client: IpAddr) {
    if let Some(hash) = source(lane, listener, client) {
        lane.table.sources().down(lane.table.lane(lane.seat, lane.worker), hash);
    }
}

/// What a client is counted by; `None` if it is not, for its listener has no such limit.
fn source(lane: &Lane, listener: u32, client: IpAddr) -> Option<u64> {
    lane.config.rules(listener).max_connections_per_source?;
    let key = Sources::key(lane.config.group(listener), client);
    (!client.is_unspecified()).then(|| lane.table.index().hash(&key))
}
