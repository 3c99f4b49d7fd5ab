//! Listening sockets that all workers of both pools share: unix ones, which the kernel does not steer. A worker takes
//! what waits there if the steering policy would choose its seat now; the sets of the others do not have the
//! socket. Each looks once a tick, a socket a turn, so that nothing waits for longer than a lease and a tick.

use std::io;

use super::Tcp;
use crate::{
    relay::{Lane, token::Token},
    sys::{Fd, epoll},
};
use proxy_common::slot;

/// Whether new connections are this worker's to take. Before its proxy has taken over they are another one's.
pub fn is_turn(lane: &Lane) -> bool {
    lane.is_serving() && lane.leases.is_chosen(lane.seat)
}

/// Whether all workers share the listener's socket.
pub fn is_shared(lane: &Lane, listener: u32) -> bool {
    let listener = lane.config.listeners.get(listener as usize);
    listener.is_some_and(|listener| listener.address.path.is_some())
}

/// All listeners whose sockets are shared.
pub(super) fn all(lane: &Lane) -> impl Iterator<Item = u32> {
    (0..lane.config.listeners.len() as u32).filter(|listener| is_shared(lane, *listener))
}

impl Tcp {
    /// Looks at the next one, and listens to it from now on or does not.
    pub fn tend_shared(&mut self, lane: &Lane, now_ms: u32) {
        let Some(listener) = self.untended.pop_front() else { return };
        let slot = slot::index(listener, 0, 0, lane.config.workers);
        let Some(socket) = lane.sockets.get(slot as usize).copied() else { return };
        if !is_turn(lane) {
            epoll::remove(lane.set, socket);
        } else if is_in(lane.set, socket, Token::Listener(slot)) {
            // One that was told of a connection may have died of it, or hang.
            self.on_listener(lane, slot, listener, now_ms);
        }
    }
}

/// Puts the socket into the set if it is not there. False if it is gone, and a file in its place.
fn is_in(set: Fd, socket: Fd, token: Token) -> bool {
    match epoll::add(set, socket, epoll::IN_ONE, token.encode()) {
        Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
        Ok(()) => true,
    }
}
