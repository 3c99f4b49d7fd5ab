//! Choosing a server for a flow, by what all pools know of the servers.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::atomic::{Ordering::SeqCst, fence},
};

use super::{
    Lane,
    balance::{
        Candidate, Candidates, Choice, Standing, Sums, ejection, mixed,
        pick::{self, FRESH},
        share,
    },
    millis,
};
use crate::{
    config::{
        Place, Upstream,
        rules::{Balance, UpstreamRules},
    },
    table::{Presence, ServerCell, octets},
};

/// Tries to get a place at a server, when other workers try at the same moment.
const CLAIMS: usize = 4;

/// A flow that looks for a server.
#[derive(Clone, Copy, Debug)]
pub struct Seeker<'a> {
    /// Where it is to go.
    pub upstream: (usize, &'a Upstream),
    /// Who it is from.
    pub client: IpAddr,
    /// Servers that it has tried in vain: bits, by [`super::servers::tried_number`].
    pub tried: u64,
}

/// What one worker needs to choose servers, and remembers of that. Nothing that would be missed after its death.
pub struct Chooser {
    candidates: Candidates,
    /// For round robin, by slot.
    credits: Vec<i64>,
    sums: Sums,
    random: fastrand::Rng,
}

impl Chooser {
    /// One whose choices of chance are these.
    pub fn new(random: fastrand::Rng) -> Self {
        Self { candidates: Candidates::default(), credits: Vec::new(), sums: Sums::default(), random }
    }

    /// Chooses a server.
    pub fn choose(&mut self, lane: &Lane, seeker: &Seeker<'_>, now_ms: u32) -> Choice<u32> {
        let rules = &seeker.upstream.1.rules;
        let slots = slots_of(lane, seeker.upstream);
        let Some(servers) = lane.table.servers().get(slots.clone()) else { return Choice::None };
        let first = slots.start;
        let age = (now_ms, Sums::max_age_ms(servers.len() * lane.table.lanes().count()));
        let Self { candidates, credits, sums, random } = self;
        let mut open = |server: usize| {
            let (slot, own) = (first + server, lane.server((first + server) as u32).open.get());
            sums.open(slot, own, age, || lane.open_to(slot))
        };
        candidates.clear();
        for (server, cell) in servers.iter().enumerate() {
            let standing =
                standing(cell, rules, seeker.tried >> (server % 64) & 1 == 1, now_ms, || open(server));
            let weight = weight(cell, rules, now_ms);
            candidates.add(Candidate { server, weight }, standing, cell.is_backup());
        }
        let all = match candidates.all() {
            Choice::Server(all) => all,
            Choice::Full => return Choice::Full,
            Choice::None => return Choice::None,
        };
        let bits = random.u64(..);
        let picked = match rules.balance {
            Balance::RandomTwo => pick::random_two(all, |server| lane.open_to(first + server), bits),
            Balance::LeastConnections => pick::least_connections(all, open, bits),
            Balance::RoundRobin => {
                if credits.len() < slots.end {
                    credits.resize(slots.end, FRESH);
                }
                pick::round_robin(all, &mut credits[first..], bits)
            }
            Balance::SourceHash => {
                let key = |server: usize| Some(key(servers[server].identity()?.address));
                pick::source_hash(all, key, key_of_ip(seeker.client))
            }
        };
        picked.map_or(Choice::None, |server| Choice::Server((first + server) as u32))
    }

    /// The same, and counts the flow in: it has a place there. A limit on a server's connections holds over all
    /// workers of both pools, as each counts itself first and then looks.
    pub fn claim(&mut self, lane: &Lane, seeker: &Seeker<'_>, now_ms: u32) -> Choice<u32> {
        for _ in 0..CLAIMS {
            let choice = self.choose(lane, seeker, now_ms);
            let Choice::Server(server) = choice else { return choice };
            let open = &lane.server(server).open;
            open.up();
            // Two that claim the last place at once must not both miss the other (Dekker).
            fence(SeqCst);
            let limit = lane.table.servers().get(server as usize).map_or(0, ServerCell::max_connections);
            if limit == 0 || lane.open_to(server as usize) <= u64::from(limit) {
                return choice;
            }
            open.down();
            self.sums.forget(server as usize);
        }
        Choice::Full
    }
}

fn standing(
    cell: &ServerCell,
    rules: &UpstreamRules,
    is_tried: bool,
    now_ms: u32,
    open: impl FnOnce() -> u64,
) -> Standing {
    if !cell.takes_new() {
        Standing::Out
    } else if is_tried {
        Standing::Tried
    } else if ejection::is_passed_over(&cell.state, &rules.eject, now_ms) {
        Standing::PassedOver
    } else if cell.max_connections() > 0 && open() >= u64::from(cell.max_connections()) {
        Standing::Full
    } else {
        Standing::Fit
    }
}

/// A server's share now. One that is back after an ejection begins as slowly as one that is up again by its checks.
/// By the client's address there is no slow start: it would move clients to and fro.
fn weight(cell: &ServerCell, rules: &UpstreamRules, now_ms: u32) -> u64 {
    let slow_start = rules.slow_start.filter(|_| rules.balance != Balance::SourceHash);
    let Some(slow_start) = slow_start else { return share(cell.weight(), None, 0) };
    let warm = cell.warming_since_ms().map(|since| now_ms.wrapping_sub(since));
    let back = ejection::back_for_ms(&cell.state, &rules.eject, now_ms);
    share(cell.weight(), warm.into_iter().chain(back).min(), millis(slow_start))
}

/// What a server is for [`pick::source_hash`]: the same in all processes and versions.
fn key(address: SocketAddr) -> u64 {
    mixed(key_of_ip(address.ip()) ^ u64::from(address.port()))
}

fn key_of_ip(ip: IpAddr) -> u64 {
    let bits = u128::from_be_bytes(octets(ip));
    mixed(mixed((bits >> 64) as u64) ^ bits as u64)
}

/// Whether an upstream has no server at all because its names have no address yet.
pub fn is_unresolved(lane: &Lane, (number, upstream): (usize, &Upstream)) -> bool {
    let has_names = upstream.servers.iter().any(|server| matches!(server.place, Place::Name { .. }));
    let cells = || lane.table.servers().get(slots_of(lane, (number, upstream)));
    has_names && !cells().is_some_and(|cells| cells.iter().any(|cell| cell.presence() == Presence::Present))
}

/// The slots of an upstream's servers; vacant ones among them.
fn slots_of(lane: &Lane, (number, upstream): (usize, &Upstream)) -> Range<usize> {
    let start = upstream.slots.start;
    start..upstream.slots.end.min(start + lane.table.upstream(number).used())
}
