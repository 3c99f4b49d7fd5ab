//! Binding the listening sockets: one per listener, seat and worker, for the life of the supervisor.

use std::io;

use anyhow::{Context as _, Result, anyhow};
use proxy_common::{lease::SEATS, slot};

use crate::{
    check::port,
    config::{Config, ListenAddress, Listener},
    steering::Steering,
    sys::{
        Fd,
        socket::{self, ListenOptions, Protocol},
        udp,
    },
};

/// Connections that may wait in each socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// Bytes of datagrams that may wait in each socket: what comes while a lease runs out.
const RECEIVE_BUFFER: i32 = 8 << 20;

/// Binds all sockets, by [`slot::index`].
///
/// # Errors
/// The first listener that cannot be, with the reason and what to do.
pub fn bind(config: &Config) -> Result<Vec<Fd>> {
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        let options = options(config, listener);
        let ListenAddress { protocol, address } = listener.address;
        socket::probe_port(protocol, address, options).map_err(|error| explain(listener.address, &error))?;
        for _ in 0..slot::count(1, config.workers) {
            let socket = socket::listener(protocol, address, options)
                .map_err(|error| explain(listener.address, &error))?;
            if protocol == Protocol::Udp {
                udp::prepare_listener(socket)
                    .with_context(|| format!("cannot prepare {}", listener.address))?;
            }
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// Makes the sockets known to the kernel program, and lets it steer each listener's group.
///
/// # Errors
/// The kernel refuses.
pub fn steer(config: &Config, steering: &mut Steering, sockets: &[Fd]) -> Result<()> {
    for listener in 0..config.listeners.len() as u32 {
        for seat in 0..SEATS as u32 {
            for worker in 0..config.workers {
                let socket = &sockets[slot::index(listener, seat, worker, config.workers) as usize];
                steering.place(socket.borrow(), listener, seat, worker)?;
            }
        }
        let any = &sockets[slot::index(listener, 0, 0, config.workers) as usize];
        steering.attach(any.borrow())?;
    }
    Ok(())
}

/// Lets the kernel refuse new TCP connections; those that wait already can still be accepted. To do
/// it again is harmless.
///
/// # Errors
/// The kernel refuses.
pub fn refuse_new(config: &Config, steering: &mut Steering, sockets: &[Fd]) -> Result<()> {
    for (listener, settings) in (0..).zip(&config.listeners) {
        if settings.address.protocol == Protocol::Udp {
            continue;
        }
        for seat in 0..SEATS as u32 {
            for worker in 0..config.workers {
                let socket = &sockets[slot::index(listener, seat, worker, config.workers) as usize];
                steering.remove(socket.borrow(), listener, seat, worker)?;
            }
        }
    }
    Ok(())
}

fn options(config: &Config, listener: &Listener) -> ListenOptions {
    ListenOptions {
        v6_only: listener.v6_only,
        backlog: BACKLOG,
        receive_buffer: RECEIVE_BUFFER,
        keepalive: config.keepalive,
    }
}

fn explain(listen: ListenAddress, error: &io::Error) -> anyhow::Error {
    let remedy = port::explain(listen.protocol, listen.address, error);
    anyhow!("cannot listen on {listen}: {error}: {remedy}")
}
