//! What administrators want of upstreams while the proxy runs, done in the server slots. It holds until it is undone,
//! whoever dies, and goes on in reloads and upgrades.

mod request;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use request::{Request, Wish};

use super::{
    standing::Standing,
    status::{self, UpstreamList},
    view::View,
};
use crate::{
    config::{SPARE_SLOTS, own_listener},
    settings::nearest,
    slots::{self, Slot},
    sys::{listener::is_local, time},
    table::{HandoverState, Identity, Origin, Presence, Wanted},
};

/// Largest weight, as in settings.
const MAX_WEIGHT: u32 = 1000;
/// The weight of a server that was added without one.
const DEFAULT_WEIGHT: u32 = 1;

/// The answer to a list.
///
/// # Errors
/// There is no such upstream.
pub fn list(view: &View<'_>, upstream: Option<&str>) -> Result<UpstreamList, String> {
    let numbers = match upstream {
        Some(name) => vec![number_of(view, Some(name))?],
        None => (0..view.config.upstreams.len()).collect(),
    };
    Ok(UpstreamList { upstreams: numbers.into_iter().map(|number| status::upstream(view, number)).collect() })
}

/// Does what is asked for, and says what it has come to.
///
/// # Errors
/// Why it is not done, and what to do.
pub fn perform(view: &View<'_>, upstream: Option<&str>, wish: &Wish) -> Result<String, String> {
    let is_moving = || view.table.supervisor().handover.state() == HandoverState::Moving;
    let number = number_of(view, upstream)?;
    if is_moving() {
        return Err("the proxy is handing over right now: try again in a moment".into());
    }
    let done = match wish {
        Wish::List {} => Err("a list is no change".into()),
        Wish::Drain { server } => want(view, number, server, Wanted::Drain),
        Wish::Ready { server } => want(view, number, server, Wanted::Ready),
        Wish::Weight { server, weight } => weigh(view, number, server, *weight),
        Wish::Add { address, weight, backup } => add(view, number, address, *weight, *backup),
        Wish::Remove { server } => remove(view, number, server),
    }?;
    tracing::info!(upstream = view.config.upstreams[number].name, "by order: {done}");
    match is_moving() {
        false => Ok(done),
        true => Err(format!(
            "{done}; but the proxy is handing over right now, perhaps without it: look, and try again"
        )),
    }
}

/// The number of the upstream of this name, or of the only one.
fn number_of(view: &View<'_>, name: Option<&str>) -> Result<usize, String> {
    let all = &view.config.upstreams;
    let known: Vec<&str> = all.iter().filter(|one| !one.is_retired).map(|one| one.name.as_str()).collect();
    let Some(name) = name else {
        return match known[..] {
            [one] => Ok(all.iter().position(|upstream| upstream.name == one).unwrap_or(0)),
            _ => Err(format!("there are several upstreams: say which, {}", known.join(", "))),
        };
    };
    all.iter().position(|upstream| upstream.name == name).ok_or_else(|| match nearest(name, &known) {
        Some(nearest) => format!("there is no upstream {name}; the nearest is {nearest}"),
        None => format!("there is no upstream {name}; there are: {}", known.join(", ")),
    })
}

/// The servers that are meant, at least one.
fn servers<'a>(view: &'a View<'_>, number: usize, meant: &str) -> Result<Vec<Slot<'a>>, String> {
    let is_it = |slot: &Slot<'_>| {
        let given = slot.settings().map(|settings| settings.given.as_str());
        slot.name() == meant || slot.address() == meant || given == Some(meant)
    };
    let all = || slots::of_upstream(view.config, &view.table, number);
    let found: Vec<Slot<'_>> = all().filter(is_it).collect();
    let upstream = &view.config.upstreams[number].name;
    if found.is_empty() {
        let known: Vec<String> = all().map(|slot| slot.name()).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let near = nearest(meant, &known).map(|near| format!("; the nearest is {near}")).unwrap_or_default();
        return Err(format!(
            "upstream {upstream} has no server {meant}{near} (see `proxy upstream list {upstream}`)"
        ));
    }
    let present: Vec<Slot<'_>> = found.into_iter().filter(|slot| !slot.is_retired()).collect();
    match present.is_empty() {
        true => Err(format!("server {meant} is retired: nothing new goes there already")),
        false => Ok(present),
    }
}

fn want(view: &View<'_>, number: usize, server: &str, wanted: Wanted) -> Result<String, String> {
    let found = servers(view, number, server)?;
    let mut open = 0;
    for slot in &found {
        let was = slot.cell.wanted();
        slot.cell.set_wanted(wanted);
        if wanted == Wanted::Ready && was == Wanted::Drain {
            warm(slot);
        }
        open += view.table.open_to(slot.number);
    }
    let names = names(&found);
    Ok(match wanted {
        Wanted::Drain => format!("{names}: nothing new; {open} open connections and flows go on"),
        Wanted::Ready => {
            let state = |slot: &Slot<'_>| Standing::of(slot, time::monotonic_ms()).label();
            let states: Vec<&str> = found.iter().map(state).collect();
            format!("{names}: ready; by now {}", states.join(", "))
        }
    })
}

fn weigh(view: &View<'_>, number: usize, server: &str, weight: Option<u32>) -> Result<String, String> {
    if let Some(weight) = weight {
        check_weight(weight)?;
    }
    let found = servers(view, number, server)?;
    for slot in &found {
        match weight {
            Some(weight) => slot.cell.reweigh(weight),
            None => slot.cell.weigh(slot.settings().map_or(DEFAULT_WEIGHT, |settings| settings.weight)),
        }
    }
    let by = if weight.is_some() { "by order" } else { "as by default" };
    let weights: Vec<String> = found.iter().map(|slot| slot.cell.weight().to_string()).collect();
    Ok(format!("{}: weight {}, {by}", names(&found), weights.join(", ")))
}

fn add(
    view: &View<'_>,
    number: usize,
    given: &str,
    weight: Option<u32>,
    is_backup: bool,
) -> Result<String, String> {
    check_weight(weight.unwrap_or(0))?;
    let upstream = &view.config.upstreams[number];
    if upstream.is_retired {
        return Err(format!("the settings have no upstream {} any more", upstream.name));
    }
    let is_canonical = |address: &SocketAddr| address.ip() == address.ip().to_canonical();
    let parsed =
        given.parse().ok().filter(|address: &SocketAddr| address.port() > 0 && is_canonical(address));
    let address = parsed.ok_or_else(|| {
        format!("{given} is no address; it looks like 10.0.0.1:5432 (names are for the settings file)")
    })?;
    if let Some(listener) = own_listener(address, number as u32, &view.config.listeners, is_local) {
        return Err(format!(
            "{given} is our own listener {}: traffic would go round for ever; give the address of the service",
            listener.address
        ));
    }
    let mut there = slots::of_upstream(view.config, &view.table, number);
    if there.any(|slot| slot.identity.address == address && !slot.is_retired()) {
        return Err(format!("{given} is a server of upstream {} already", upstream.name));
    }
    if !slots::may_add(view.config, &view.table, number, address) {
        return Err(format!(
            "{SPARE_SLOTS} servers were added to upstream {}, and no more can be (one that was removed counts while \
             something is open to it); remove one, or give it in the settings",
            upstream.name
        ));
    }
    let (origin, max_connections) = (Origin::Added, 0);
    let identity = Identity { address, origin, weight: DEFAULT_WEIGHT, is_backup, max_connections };
    // Nothing goes there before all is said.
    let slot = slots::place(view.config, &view.table, number, identity, Presence::Retired);
    let slot = slot.ok_or_else(|| {
        format!(
            "upstream {} has no room for one more server, while connections to addresses that its names had are open; \
             try again later, or give it in the settings",
            upstream.name
        )
    })?;
    let cell = &view.table.servers()[slot];
    weight.into_iter().for_each(|weight| cell.reweigh(weight));
    cell.set_presence(Presence::Present);
    let found = slots::of_upstream(view.config, &view.table, number).find(|found| found.number == slot);
    found.iter().for_each(warm);
    Ok(format!("{given}: added to upstream {}, until it is removed", upstream.name))
}

fn remove(view: &View<'_>, number: usize, server: &str) -> Result<String, String> {
    let found = servers(view, number, server)?;
    if let Some(slot) = found.iter().find(|slot| slot.identity.origin != Origin::Added) {
        return Err(format!(
            "{} is a server of the settings: take it out there and reload, or drain it (proxy upstream drain)",
            slot.name()
        ));
    }
    let mut open = 0;
    for slot in &found {
        slots::retire(slot.cell);
        open += view.table.open_to(slot.number);
    }
    Ok(format!("{}: removed; {open} open connections and flows go on", names(&found)))
}

/// A server that gets traffic from now on, and did not a moment ago.
fn warm(slot: &Slot<'_>) {
    if slot.upstream.rules.slow_start.is_some() {
        slot.cell.set_warming(Some(time::monotonic_ms() as u32));
    }
}

fn check_weight(weight: u32) -> Result<(), String> {
    match weight <= MAX_WEIGHT {
        true => Ok(()),
        false => Err(format!("{weight} is no weight; give 0 to {MAX_WEIGHT}")),
    }
}

fn names(slots: &[Slot<'_>]) -> String {
    slots.iter().map(Slot::name).collect::<Vec<_>>().join(", ")
}
