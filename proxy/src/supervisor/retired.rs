//! Listeners that the settings name no more: what waits in them is served and what is open goes on; a listening
//! socket that nothing needs any more is closed.

use crate::sys::{
    Fd, epoll, fd,
    socket::{self, Protocol},
};

use super::{listen, setup::Setup};
use proxy_common::lease::SEATS;

/// How often it is looked, nanoseconds.
const LOOK: u64 = 100_000_000;

/// What is known of them.
#[derive(Debug, Default)]
pub struct Retired {
    looked_at: u64,
    /// At the last look nothing waited in them, or was open by them. A datagram that begins nothing new, and a
    /// connection between its accept and its record, are in neither for a moment: so twice in a row.
    idle: Vec<u32>,
}

impl Retired {
    /// Closes what nothing needs.
    pub fn tick(&mut self, setup: &mut Setup, now: u64) {
        if now - self.looked_at < LOOK {
            return;
        }
        self.looked_at = now;
        let config = setup.config;
        let retired = (0..).zip(&config.listeners).filter(|(_, listener)| listener.is_retired);
        let open = retired.filter(|(number, _)| slots(setup, *number).next().is_some());
        let idle = open.filter(|(number, listener)| match listener.address.protocol {
            Protocol::Tcp => slots(setup, *number).all(|slot| is_empty(setup, slot)),
            Protocol::Udp => setup.table.open_at(*number as usize) == 0,
        });
        let idle: Vec<u32> = idle.map(|(number, _)| number).collect();
        for number in idle.iter().filter(|number| self.idle.contains(number)) {
            close(setup, *number);
            tracing::info!(listener = %config.listeners[*number as usize].address, "retired listener closed");
        }
        self.idle = idle;
    }
}

fn slots(setup: &Setup, listener: u32) -> impl Iterator<Item = u32> + use<> {
    let sockets = setup.sockets;
    sockets.of_listener(listener).filter(move |slot| sockets.is_there(*slot))
}

fn is_empty(setup: &Setup, slot: u32) -> bool {
    socket::waiting(setup.sockets.all[slot as usize]) == 0
}

/// The numbers stay taken, for no flow may get one that workers think a listening socket's. The service manager may
/// have the sockets still, so nobody is to be told of them, and nothing is to be sent there.
fn close(setup: &mut Setup, listener: u32) {
    let (config, sockets) = (setup.config, setup.sockets);
    let is_steered = config.listeners[listener as usize].address.path.is_none();
    if is_steered && let Err(error) = listen::remove(config, &mut setup.steering, &sockets, listener) {
        tracing::warn!(%error, "a retired listener stays known to the kernel program");
    }
    let sets = (0..SEATS as u32).flat_map(|seat| setup.table.workers(seat)).map(|block| block.epoll.fd());
    let sets: Vec<Fd> = sets.filter(|set| set.raw() > 0).collect();
    for slot in slots(setup, listener) {
        let socket = sockets.all[slot as usize];
        sets.iter().for_each(|set| epoll::remove(*set, socket));
        fd::replace(socket, setup.null);
    }
}
