//! Which servers the upstreams have now: server slots of the flow table, read and filled by what the settings say.

use std::net::SocketAddr;

use crate::{
    config::{Config, Place, SPARE_SLOTS, ServerSettings, Upstream},
    sys::time,
    table::{Counted, Identity, Origin, Presence, ServerCell, Table},
};

/// A slot in use.
pub struct Slot<'a> {
    /// Its number: what records name.
    pub number: usize,
    /// The upstream that it belongs to.
    pub upstream: &'a Upstream,
    /// What is known of it.
    pub cell: &'static ServerCell,
    /// What it was when it was looked at.
    pub identity: Identity,
}

impl<'a> Slot<'a> {
    /// The settings that it comes from; `None` if it was added.
    pub fn settings(&self) -> Option<&'a ServerSettings> {
        match self.identity.origin {
            Origin::Settings(number) => self.upstream.servers.get(number as usize),
            Origin::Added => None,
        }
    }

    /// As in metrics and status: as given, with the address if that was a name.
    pub fn name(&self) -> String {
        match self.settings() {
            Some(ServerSettings { place: Place::Name { .. }, given, .. }) => {
                format!("{given}/{}", self.identity.address)
            }
            Some(ServerSettings { given, .. }) => given.clone(),
            None => self.identity.address.to_string(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> String {
        match self.settings() {
            Some(ServerSettings { place: Place::Unix(_), given, .. }) => given.clone(),
            _ => self.identity.address.to_string(),
        }
    }

    /// Nothing new goes there, and it is gone when what is open has ended.
    pub fn is_retired(&self) -> bool {
        self.upstream.is_retired || self.cell.presence() == Presence::Retired
    }
}

/// All slots in use, in the order of the upstreams.
pub fn all<'a>(config: &'a Config, table: &'a Table) -> impl Iterator<Item = Slot<'a>> {
    (0..config.upstreams.len()).flat_map(move |upstream| of_upstream(config, table, upstream))
}

/// Those of one upstream.
pub fn of_upstream<'a>(
    config: &'a Config,
    table: &'a Table,
    number: usize,
) -> impl Iterator<Item = Slot<'a>> + use<'a> {
    let upstream = &config.upstreams[number];
    let used = upstream.slots.clone().take(table.upstream(number).used());
    used.filter_map(move |number| slot(upstream, table, number))
}

/// The slot of this number, if it is in use.
pub fn at<'a>(config: &'a Config, table: &Table, number: usize) -> Option<Slot<'a>> {
    let upstream = config.upstreams.iter().find(|upstream| upstream.slots.contains(&number))?;
    slot(upstream, table, number)
}

fn slot<'a>(upstream: &'a Upstream, table: &Table, number: usize) -> Option<Slot<'a>> {
    let cell = table.servers().get(number)?;
    Some(Slot { number, upstream, cell, identity: cell.identity()? })
}

/// The slot of an upstream's server at this address.
pub fn find(config: &Config, table: &Table, upstream: usize, address: SocketAddr) -> Option<usize> {
    of_upstream(config, table, upstream).find(|slot| slot.identity.address == address).map(|slot| slot.number)
}

/// Fills the slots of a new table with the servers whose addresses the settings give.
pub fn seed(config: &Config, table: &Table) {
    for (number, upstream) in config.upstreams.iter().enumerate() {
        for (origin, server) in (0..).zip(&upstream.servers) {
            if let Some(address) = server.place.slot_address() {
                // Of an upstream that is gone whole, what waits for it still gets a server.
                let is_gone = server.is_retired && !upstream.is_retired;
                let presence = if is_gone { Presence::Retired } else { Presence::Present };
                place(config, table, number, server.identity(address, Origin::Settings(origin)), presence);
            }
        }
    }
}

/// Gives an upstream's server a slot, and answers which; `None` if there is no room. One that had the same
/// address gets it again, with its counters; else a vacant one; else the one that has been retired for longest
/// and has nothing open, whose counters begin anew.
pub fn place(
    config: &Config,
    table: &Table,
    number: usize,
    identity: Identity,
    presence: Presence,
) -> Option<usize> {
    let upstream = config.upstreams.get(number)?;
    let room = upstream.slots.clone();
    let used = table.upstream(number).used();
    let slot = match find(config, table, number, identity.address) {
        Some(slot) => slot,
        None if used < room.len() => room.start + used,
        None => recycle(config, table, number)?,
    };
    table.servers().get(slot)?.fill(identity, presence);
    table.upstream(number).set_used(used.max(slot + 1 - room.start));
    Some(slot)
}

/// Whether a server at this address may be added to an upstream: so many are there by order at most, those that were
/// removed and have something open among them, so that the settings' own servers, and their names, have their room.
pub fn may_add(config: &Config, table: &Table, number: usize, address: SocketAddr) -> bool {
    let is_added = |slot: &Slot<'_>| slot.identity.origin == Origin::Added && !is_done(table, slot);
    let added = of_upstream(config, table, number).filter(is_added);
    added.filter(|slot| slot.identity.address != address).count() < SPARE_SLOTS
}

/// Nothing new goes to a slot's server. When nothing is open any more the slot may be another's.
pub fn retire(cell: &ServerCell) {
    cell.set_health(cell.health(), time::monotonic_ms());
    cell.set_presence(Presence::Retired);
}

/// Nothing new goes to its server, and nothing is open there any more.
fn is_done(table: &Table, slot: &Slot<'_>) -> bool {
    slot.is_retired() && table.open_to(slot.number) == 0
}

fn recycle(config: &Config, table: &Table, number: usize) -> Option<usize> {
    let done = of_upstream(config, table, number).filter(|slot| is_done(table, slot));
    let slot = done.min_by_key(|slot| slot.cell.changed_ms())?.number;
    forget_counters(table, slot);
    Some(slot)
}

/// Counters of workers are theirs alone to write. What is inherited is added to them, so what cancels them out
/// is entered there.
fn forget_counters(table: &Table, slot: usize) {
    let mut sums = Vec::new();
    for counters in table.counters_of_server(slot) {
        let mut place = 0;
        counters.each_counter(&mut |_, counter| {
            if place == sums.len() {
                sums.push(0u64);
            }
            sums[place] = sums[place].wrapping_add(counter.get());
            place += 1;
        });
    }
    table.checks()[slot].reset();
    let mut sums = sums.into_iter();
    table.inherited_servers()[slot].each_counter(&mut |_, counter| {
        counter.add(sums.next().unwrap_or(0).wrapping_neg());
    });
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
