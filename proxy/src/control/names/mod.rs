//! Names: looked up when what is known of them is over, and their addresses made servers of their upstreams.
//!
//! What is known outlives the process in the server slots: another control begins with it.

mod course;
mod notes;
mod plan;
mod resolver;

use std::{
    cell::RefCell,
    collections::HashSet,
    future::pending,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::view::View;
use crate::{
    config::{ADDRESSES_OF_A_NAME, Place, own_listener},
    slots,
    sys::{listener::is_local, time},
    table::{LookupResult, Origin, Presence, RefusedAddress},
};
use course::{Answers, Course, Outcome};
pub use notes::{NameNote, Notes};
use plan::{Present, Wanted};
use resolver::Resolver;

/// Most look-ups at once; others wait.
const AT_ONCE: usize = 32;
/// Wait for the next name, if none is due.
const LONG: Duration = Duration::from_secs(3600);

/// A name.
struct Name<'a> {
    upstream: usize,
    origin: Origin,
    host: &'a str,
    port: u16,
    course: Course,
    /// When it is looked up next; `None` while it is.
    due: Option<Instant>,
    /// Whether there was an answer, or none, since this process began.
    is_done: bool,
    /// What was logged of it last.
    told: Told,
}

/// What is worth a line in the log when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    is_failing: bool,
    refused: Vec<(IpAddr, RefusedAddress)>,
}

/// Looks names up for good.
pub async fn run(view: &View<'_>) {
    let mut names = names(view);
    view.names.begin(names.iter().map(|name| note_of(view, name)).collect());
    mark_done(view, &names);
    if names.is_empty() {
        return pending().await;
    }
    let resolver = RefCell::new(Resolver::of_system());
    let mut running = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        for (place, name) in names.iter_mut().enumerate() {
            if running.len() < AT_ONCE && name.due.is_some_and(|due| due <= now) {
                name.due = None;
                resolver.borrow_mut().refresh();
                let answers = resolver.borrow().look_up(name.host);
                running.push(async move { (place, answers.await) });
            }
        }
        let due = names.iter().filter_map(|name| name.due).filter(|due| *due > now).min();
        tokio::select! {
            Some((place, answers)) = running.next() => {
                view.stand_still_over_handover().await;
                conclude(view, &mut names, place, answers);
            }
            () = sleep_until(due.unwrap_or(now + LONG)) => {}
        }
    }
}

/// All names, with what is known of them.
fn names<'a>(view: &View<'a>) -> Vec<Name<'a>> {
    let mut names = Vec::new();
    for (upstream, settings) in view.config.upstreams.iter().enumerate() {
        for (number, server) in (0..).zip(&settings.servers) {
            let Place::Name { host, port } = &server.place else { continue };
            let origin = Origin::Settings(number);
            let known = slots::of_upstream(view.config, &view.table, upstream)
                .filter(|slot| slot.identity.origin == origin && !slot.is_retired())
                .map(|slot| slot.identity.address.ip());
            let (course, due) = (Course::resume(known), Some(Instant::now()));
            let (port, told) = (*port, Told::default());
            names.push(Name { upstream, origin, host, port, course, due, is_done: false, told });
        }
    }
    names
}

fn note_of(view: &View<'_>, name: &Name<'_>) -> NameNote {
    NameNote {
        upstream: name.upstream,
        given: given(view, name),
        addresses: name.course.addresses().count(),
        answered_at: None,
        next_in: Duration::ZERO,
        error: None,
    }
}

fn given(view: &View<'_>, name: &Name<'_>) -> String {
    let Origin::Settings(number) = name.origin else { return String::new() };
    view.config.upstreams[name.upstream].servers[number as usize].given.clone()
}

/// Upstreams all of whose names have been looked up once.
fn mark_done(view: &View<'_>, names: &[Name<'_>]) {
    for upstream in 0..view.config.upstreams.len() {
        if names.iter().filter(|name| name.upstream == upstream).all(|name| name.is_done) {
            view.table.upstream(upstream).set_looked_up();
        }
    }
}

/// Takes the answers about a name in.
fn conclude(view: &View<'_>, names: &mut [Name<'_>], place: usize, answers: Answers) {
    let upstream = names[place].upstream;
    let name = &mut names[place];
    let bounds = view.config.upstreams[upstream].rules.resolve;
    let (outcome, wait) = name.course.note(answers, bounds);
    name.is_done = true;
    name.due = Some(Instant::now() + wait);
    let counted = match outcome {
        Outcome::Answered => LookupResult::Answered,
        Outcome::Empty => LookupResult::Empty,
        Outcome::Failed(_) => LookupResult::Failed,
    };
    view.table.upstream(upstream).lookups[counted as usize].add(1);
    tell(view, name, &outcome);
    view.names.change(place, |note| {
        note.next_in = wait;
        note.addresses = name.course.addresses().count();
        note.error = match outcome {
            Outcome::Answered => None,
            Outcome::Empty => Some("it has no address".into()),
            Outcome::Failed(why) => Some(why),
        };
        if note.error.is_none() {
            note.answered_at = Some(Instant::now());
        }
    });
    settle(view, names, upstream);
    mark_done(view, names);
}

/// Logs what has become of a name, once each time.
fn tell(view: &View<'_>, name: &mut Name<'_>, outcome: &Outcome) {
    let (upstream, given) = (view.config.upstreams[name.upstream].name.as_str(), given(view, name));
    let is_failing = *outcome != Outcome::Answered;
    let keeps = name.course.is_kept();
    match outcome {
        Outcome::Answered if name.told.is_failing => {
            tracing::info!(upstream, name = given, "name can be looked up again");
        }
        Outcome::Failed(error) if !name.told.is_failing => {
            tracing::warn!(upstream, name = given, error, keeps, "name cannot be looked up");
        }
        Outcome::Empty if !name.told.is_failing || !keeps => {
            tracing::warn!(upstream, name = given, keeps, "name has no address");
        }
        _ => {}
    }
    name.told.is_failing = is_failing;
}

/// Makes an upstream's servers what its names say.
fn settle(view: &View<'_>, names: &mut [Name<'_>], upstream: usize) {
    let is_first = !view.table.upstream(upstream).is_looked_up();
    let of_it = names.iter_mut().filter(|name| name.upstream == upstream);
    let wanted: Vec<Wanted> = of_it.map(|name| wanted(view, name)).collect();
    let present: Vec<Present> = slots::of_upstream(view.config, &view.table, upstream)
        .filter(|slot| !slot.is_retired())
        .map(|slot| Present {
            slot: slot.number,
            address: slot.identity.address,
            origin: slot.identity.origin,
        })
        .collect();
    let plan = plan::compare(&present, &wanted);
    let name = view.config.upstreams[upstream].name.as_str();
    for slot in plan.retire {
        let cell = &view.table.servers()[slot];
        let server =
            present.iter().find(|server| server.slot == slot).map(|server| server.address.to_string());
        tracing::info!(upstream = name, server, "its name has this address no more: nothing new goes there");
        slots::retire(cell);
    }
    for (address, origin) in plan.place {
        place(view, upstream, address, origin, !is_first && !present.is_empty());
    }
}

/// The addresses of a name that servers are made of: none that leads back to this proxy, and no more than there is
/// room for.
fn wanted(view: &View<'_>, name: &mut Name<'_>) -> Wanted {
    let (mut addresses, mut refused) = (Vec::new(), Vec::new());
    for ip in name.course.addresses() {
        let address = SocketAddr::new(ip, name.port);
        if own_listener(address, name.upstream as u32, &view.config.listeners, is_local).is_some() {
            refused.push((ip, RefusedAddress::OwnListener));
        } else if addresses.len() >= ADDRESSES_OF_A_NAME {
            refused.push((ip, RefusedAddress::Room));
        } else {
            addresses.push(address);
        }
    }
    let known: HashSet<_> = name.told.refused.iter().collect();
    for (address, reason) in refused.iter().filter(|refused| !known.contains(refused)) {
        let upstream = view.config.upstreams[name.upstream].name.as_str();
        view.table.upstream(name.upstream).refused[*reason as usize].add(1);
        let why = match reason {
            RefusedAddress::OwnListener => "it is our own listener's: traffic would go round for ever",
            RefusedAddress::Room => "there are too many",
        };
        tracing::warn!(upstream, name = name.host, %address, "address is left out: {why}");
    }
    name.told.refused = refused;
    Wanted { origin: name.origin, addresses }
}

fn place(view: &View<'_>, upstream: usize, address: SocketAddr, origin: Origin, is_warming: bool) {
    let settings = &view.config.upstreams[upstream];
    let Origin::Settings(number) = origin else { return };
    let identity = settings.servers[number as usize].identity(address, origin);
    let name = settings.name.as_str();
    match slots::place(view.config, &view.table, upstream, identity, Presence::Present) {
        Some(slot) => {
            if is_warming && settings.rules.slow_start.is_some() {
                view.table.servers()[slot].set_warming(Some(time::monotonic_ms() as u32));
            }
            tracing::info!(upstream = name, server = %address, "its name has a new address");
        }
        None => {
            view.table.upstream(upstream).refused[RefusedAddress::Room as usize].add(1);
            tracing::warn!(upstream = name, %address, "no room for one more server: try again when others are done");
        }
    }
}
