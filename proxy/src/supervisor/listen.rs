//! The listening sockets: one per listener, seat and worker. They are bound at the start, or come from the
//! supervisor before, with what waits in them; they live until no listener of the settings needs them.

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use proxy_common::{lease::SEATS, slot};

use super::paths::{self, Place};
use crate::{
    check::port,
    config::{Config, ListenAddress, Listener},
    steering::{Steering, SteeringError},
    sys::{
        Fd, fd,
        listener::{self, ListenOptions},
        socket::{self, Protocol},
        udp,
    },
};

/// Connections that may wait in each socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// Bytes of datagrams that may wait in each socket: what comes while a lease runs out.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Time that the kernel has to free what a dead proxy's sockets are in.
const FREED: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// All listening sockets.
#[derive(Clone, Copy)]
pub struct Sockets {
    /// By [`slot::index`], and after the last slot the surplus ones. A slot that needs none has a descriptor
    /// that is no socket.
    pub all: &'static [Fd],
    /// The listeners of the surplus ones, which came from a supervisor with more workers: they are served,
    /// and new traffic is not sent there.
    pub surplus: &'static [u32],
    /// Slots whose sockets join a group that another supervisor serves yet, or begin one: nothing comes to them
    /// before [`Self::join_rest`].
    pub apart: &'static [u32],
    /// Paths of listeners at unix sockets. The first slot of each has its socket, the others none.
    pub paths: &'static [Place],
    workers: u32,
}

impl Sockets {
    /// Makes all sockets that were not inherited; `inherited` tells those of a listener. Nothing comes to what
    /// is new if others serve yet (`is_apart`).
    ///
    /// # Errors
    /// The first listener that cannot be, with the reason and what to do.
    pub fn open(config: &Config, inherited: impl Fn(&Listener) -> Vec<Fd>, is_apart: bool) -> Result<Self> {
        let (mut all, mut apart, mut surplus, mut paths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let stand_in = Fd::keep(File::open("/dev/null").context("cannot open /dev/null")?);
        let per_listener = slot::count(1, config.workers) as usize;
        for (number, listener) in (0..).zip(&config.listeners) {
            let mut given = inherited(listener);
            if let Some(path) = listener.address.path {
                let first = all.len();
                let socket = match given.first() {
                    Some(socket) => *socket,
                    None if listener.is_retired => stand_in,
                    None => {
                        apart.push(first as u32);
                        paths::bind(listener, path)?
                    }
                };
                paths.extend(Place::of(number, path).ok().filter(|_| socket != stand_in));
                all.push(socket);
                all.resize(first + per_listener, stand_in);
                continue;
            }
            let is_new = given.is_empty();
            let rest = given.split_off(given.len().min(per_listener));
            surplus.extend(rest.into_iter().map(|socket| (number, socket)));
            if is_new && !listener.is_retired {
                probe(listener)?;
            }
            let first = all.len();
            all.extend(given);
            for slot in all.len()..first + per_listener {
                if listener.is_retired && (is_new || is_tcp(listener)) {
                    all.push(stand_in);
                    continue;
                }
                let socket = make(listener)?;
                all.push(socket);
                if is_apart {
                    apart.push(slot as u32);
                }
                // A TCP socket is in its group when it listens, a UDP socket when it is bound.
                if !is_apart || is_tcp(listener) {
                    bind(listener, socket)?;
                }
                if !is_apart {
                    join(listener, socket)?;
                }
            }
        }
        let (surplus, sockets): (Vec<u32>, Vec<Fd>) = surplus.into_iter().unzip();
        all.extend(sockets);
        let (all, surplus, apart, paths) = (all.leak(), surplus.leak(), apart.leak(), paths.leak());
        Ok(Self { all, surplus, apart, paths, workers: config.workers })
    }

    /// Lets traffic come to what was apart. To do it again is harmless.
    ///
    /// # Errors
    /// The last that cannot be, with the reason and what to do.
    pub fn join_rest(&self, config: &Config) -> Result<()> {
        let mut result = Ok(());
        for slot in self.apart {
            let listener = &config.listeners[(slot / slot::count(1, self.workers)) as usize];
            let socket = self.all[*slot as usize];
            let is_bound = is_tcp(listener) || socket::local_address(socket).is_ok_and(|at| at.port() > 0);
            let bound = if is_bound { Ok(()) } else { bind(listener, socket) };
            result = bound.and_then(|()| join(listener, socket)).and(result);
        }
        result
    }

    /// Removes the paths of unix sockets that were apart.
    pub fn remove_new_paths(&self) {
        let first_slot = |place: &&Place| place.listener * slot::count(1, self.workers);
        let new = self.paths.iter().filter(|place| self.apart.contains(&first_slot(place)));
        new.for_each(Place::remove);
    }

    /// Whether there is a socket in a slot.
    pub fn is_there(&self, slot: u32) -> bool {
        fd::kind(self.all[slot as usize]) == Some(fd::Kind::Socket)
    }

    /// Slots of one listener, the surplus ones last.
    pub fn of_listener(&self, listener: u32) -> impl Iterator<Item = u32> + use<> {
        let per_listener = slot::count(1, self.workers);
        let (own, surplus) = (listener * per_listener.., self.surplus);
        let slots = self.slots();
        let others = (0..).zip(surplus).filter(move |(_, of)| **of == listener);
        own.take(per_listener as usize).chain(others.map(move |(index, _)| slots + index))
    }

    /// Slots of one worker, but for those that it shares with all others.
    pub fn of_worker(&self, seat: u32, worker: u32) -> impl Iterator<Item = u32> + use<> {
        let (workers, slots, paths) = (self.workers, self.slots(), self.paths);
        let lane = seat * workers + worker;
        let is_own = move |at: &u32| !paths.iter().any(|place| place.listener == *at);
        let listeners = (0..slots / slot::count(1, workers)).filter(is_own);
        let own = listeners.map(move |at| slot::index(at, seat, worker, workers));
        let surplus =
            (0..self.surplus.len() as u32).filter(move |index| index % slot::count(1, workers) == lane);
        own.chain(surplus.map(move |index| slots + index))
    }

    /// Slots, without the surplus.
    fn slots(&self) -> u32 {
        (self.all.len() - self.surplus.len()) as u32
    }
}

/// Makes the sockets known to the kernel program, and lets it steer each listener's group. New connections to
/// a retired TCP listener are refused; the path of a retired unix socket is removed.
///
/// # Errors
/// The kernel refuses one of them; all the others are steered.
pub fn steer(config: &Config, steering: &mut Steering, sockets: &Sockets) -> Result<()> {
    let is_retired = |place: &&Place| config.listeners[place.listener as usize].is_retired;
    sockets.paths.iter().filter(is_retired).for_each(Place::remove);
    let mut result = Ok(());
    for (number, listener) in steered(config) {
        let steered = steer_one(config, steering, sockets, (number, listener));
        result = steered.with_context(|| format!("cannot steer {}", listener.address)).and(result);
    }
    result
}

fn steer_one(
    config: &Config,
    steering: &mut Steering,
    sockets: &Sockets,
    (number, listener): (u32, &Listener),
) -> Result<()> {
    let is_refusing = listener.is_retired && is_tcp(listener);
    for slot in sockets.of_listener(number).filter(|slot| !is_refusing && sockets.is_there(*slot)) {
        let socket = sockets.all[slot as usize];
        let (seat, worker) = seat_and_worker(slot, config.workers);
        match slot < sockets.slots() {
            true => steering.place(socket.borrow(), number, seat, worker)?,
            false => steering.note(socket.borrow(), number)?,
        }
    }
    any(sockets, number).map_or(Ok(()), |any| Ok(steering.attach(any.borrow())?))
}

/// The same for sockets that a dead proxy had: its program is on their groups still, and drops what comes to
/// sockets that it does not know, so those are bound between.
///
/// # Errors
/// The first that cannot be bound, or the kernel refuses.
pub fn steer_anew(config: &Config, steering: &mut Steering, sockets: &Sockets) -> Result<()> {
    step_aside(config, steering, sockets)?;
    sockets.join_rest(config)?;
    refresh(config, sockets);
    let began = Instant::now();
    loop {
        match steer(config, steering, sockets) {
            Err(error) if is_busy(&error) && began.elapsed() < FREED => thread::sleep(LOOK),
            other => return other,
        }
        step_aside(config, steering, sockets)?;
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(SteeringError::is_busy)
}

/// Takes the program off every group, and the sockets out of it, so that another supervisor can put its own
/// there. Until then the kernel spreads new traffic over all sockets of a group. To do it again is harmless.
///
/// # Errors
/// The kernel refuses one of them; all the others are free.
pub fn step_aside(config: &Config, steering: &mut Steering, sockets: &Sockets) -> Result<()> {
    let mut result = Ok(());
    for (listener, _) in steered(config) {
        let any = any(sockets, listener);
        let detached = any.map_or(Ok(()), |any| Ok(Steering::detach(any.borrow())?));
        result = detached.and(remove(config, steering, sockets, listener)).and(result);
    }
    result
}

/// Lets the kernel refuse new TCP connections; those that wait already can still be accepted. To do
/// it again is harmless.
///
/// # Errors
/// The kernel refuses.
pub fn refuse_new(config: &Config, steering: &mut Steering, sockets: &Sockets) -> Result<()> {
    sockets.paths.iter().for_each(Place::remove);
    for (listener, _) in steered(config).filter(|(_, listener)| is_tcp(listener)) {
        remove(config, steering, sockets, listener)?;
    }
    Ok(())
}

/// Takes a listener's sockets out of the kernel program. To do it again is harmless.
///
/// # Errors
/// The kernel refuses.
pub fn remove(config: &Config, steering: &mut Steering, sockets: &Sockets, listener: u32) -> Result<()> {
    for slot in sockets.of_listener(listener).filter(|slot| sockets.is_there(*slot)) {
        let (seat, worker) = seat_and_worker(slot, config.workers);
        let socket = sockets.all[slot as usize];
        match slot < sockets.slots() {
            true => steering.remove(socket.borrow(), listener, seat, worker)?,
            false => steering.forget(socket.borrow())?,
        }
    }
    Ok(())
}

/// Sets what the settings say of inherited sockets, too.
pub fn refresh(config: &Config, sockets: &Sockets) {
    for (number, listener) in steered(config) {
        for slot in sockets.of_listener(number).filter(|slot| sockets.is_there(*slot)) {
            let socket = sockets.all[slot as usize];
            let result = match listener.address.protocol {
                Protocol::Tcp => {
                    listener::prepare(socket, listener.rules.flow_options(listener.address.address))
                }
                Protocol::Udp => udp::join_received(socket, joins(listener)),
            };
            if let Err(error) = result {
                tracing::warn!(%error, listener = %listener.address, "an option of its sockets cannot be set");
            }
        }
    }
}

/// Where each datagram may begin with a PROXY header of its own, they are not received joined.
fn joins(listener: &Listener) -> bool {
    listener.rules.accept_proxy.is_none()
}

/// Listeners whose sockets are in reuseport groups.
fn steered(config: &Config) -> impl Iterator<Item = (u32, &Listener)> {
    (0..).zip(&config.listeners).filter(|(_, listener)| listener.address.path.is_none())
}

fn any(sockets: &Sockets, listener: u32) -> Option<Fd> {
    let slot = sockets.of_listener(listener).find(|slot| sockets.is_there(*slot))?;
    Some(sockets.all[slot as usize])
}

fn seat_and_worker(slot: u32, workers: u32) -> (u32, u32) {
    let lane = slot % slot::count(1, workers);
    (lane / workers % SEATS as u32, lane % workers)
}

fn is_tcp(listener: &Listener) -> bool {
    listener.address.protocol == Protocol::Tcp
}

fn probe(listener: &Listener) -> Result<()> {
    let ListenAddress { protocol, address, .. } = listener.address;
    listener::probe_port(protocol, address, options(listener))
        .map_err(|error| explain(listener.address, &error))
}

fn make(listener: &Listener) -> Result<Fd> {
    let ListenAddress { protocol, address, .. } = listener.address;
    listener::make(protocol, address).map_err(|error| explain(listener.address, &error))
}

fn bind(listener: &Listener, socket: Fd) -> Result<()> {
    let ListenAddress { protocol, address, .. } = listener.address;
    listener::bind(socket, protocol, address, options(listener))
        .map_err(|error| explain(listener.address, &error))
}

/// A socket that is bound becomes one of its group, if it is not.
fn join(listener: &Listener, socket: Fd) -> Result<()> {
    match listener.address.protocol {
        Protocol::Tcp => listener::listen(socket, options(listener).backlog)
            .map_err(|error| explain(listener.address, &error)),
        Protocol::Udp => {
            let prepared = udp::prepare_listener(socket);
            let prepared = prepared.and_then(|()| udp::join_received(socket, joins(listener)));
            prepared.with_context(|| format!("cannot prepare {}", listener.address))
        }
    }
}

fn options(listener: &Listener) -> ListenOptions {
    ListenOptions {
        v6_only: listener.v6_only,
        backlog: BACKLOG,
        receive_buffer: RECEIVE_BUFFER,
        flow: listener.rules.flow_options(listener.address.address),
    }
}

fn explain(listen: ListenAddress, error: &io::Error) -> anyhow::Error {
    let remedy = port::explain(listen.protocol, listen.address, error);
    anyhow!("cannot listen on {listen}: {error}: {remedy}")
}
