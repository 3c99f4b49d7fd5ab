//! Taking connections from an accept queue: this pool's own, or one lent by the supervisor.

use std::io;

use crate::{
    fault::{self, Point},
    sys::{Fd, epoll, fd::close, is_exhausted, socket, unix, would_block},
    table::{Kind, Record, Rejection, State, Tag, flag},
};

use super::{Tcp, shared::is_shared};
use crate::relay::{Lane, token::Token};

/// Connections taken in one turn.
const BATCH: usize = 64;

impl Tcp {
    /// Accepts what waits, up to a batch; the set tells again if more does (level-triggered).
    pub fn on_listener(&mut self, lane: &Lane, slot: u32, listener: u32, now_ms: u32) {
        let socket = lane.sockets[slot as usize];
        for _ in 0..BATCH {
            match accept_recorded(lane, socket, listener, now_ms) {
                Ok(Some((client, record))) => self.begin(lane, client, record, now_ms),
                Ok(None) => return,
                Err(error) if would_block(&error) => return,
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    // The connection goes on waiting, and so would the event: look away for a tick.
                    lane.listener(listener).reject(Rejection::Descriptors);
                    if is_shared(lane, listener) {
                        epoll::remove(lane.set, socket);
                    } else {
                        epoll::modify(lane.set, socket, 0, Token::Listener(slot).encode());
                        self.paused.push(slot);
                    }
                    return;
                }
            }
        }
    }

    /// Looks again at listening sockets that ran into the descriptor limit. Lent ones that were taken
    /// back meanwhile are not in the set any more, and stay out of it.
    pub(super) fn unpause(&mut self, lane: &Lane) {
        for slot in self.paused.drain(..) {
            let token = Token::Listener(slot);
            epoll::modify(lane.set, lane.sockets[slot as usize], epoll::IN, token.encode());
        }
    }

    fn begin(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) {
        let counters = lane.listener(record.listener());
        counters.accepted.add(1);
        lane.count_open(record.listener());
        lane.block().counters.accepted.add(1);
        lane.block().connections.up();
        if !has_room(lane) {
            self.reject(lane, client, record, Rejection::Limit);
            return;
        }
        let token = Token::Client { fd: client, generation: record.generation() };
        if epoll::add(lane.set, client, epoll::FLOW, token.encode()).is_err() {
            self.reject(lane, client, record, Rejection::Descriptors);
            return;
        }
        fault::point(Point::AcceptAdded);
        self.prelude(lane, client, record, now_ms);
    }
}

/// Accepts and records one connection inside the opening window; `None` while the gate is closed.
fn accept_recorded(
    lane: &Lane,
    socket: Fd,
    listener: u32,
    now_ms: u32,
) -> io::Result<Option<(Fd, &'static Record)>> {
    let Some(_window) = lane.window() else {
        return Ok(None);
    };
    let (client, peer) = socket::accept(socket)?;
    fault::point(Point::AcceptTaken);
    let (Some(record), Some(tag)) = (lane.table.record(client), lane.table.tag(client)) else {
        // Cannot be: the table is as large as the descriptor limit.
        socket::reset(client);
        close(client);
        return Ok(None);
    };
    record.begin(State::Accepted, lane.worker, listener, now_ms);
    peer.into_iter().for_each(|peer| record.set_client(peer));
    if is_shared(lane, listener) {
        record.set(flag::UNIX);
    }
    fault::point(Point::AcceptRecorded);
    tag.set(Tag::new(Kind::Client, lane.epoch));
    fault::point(Point::AcceptTagged);
    if record.has(flag::UNIX) {
        // What is not prepared has no record yet, as far as the sweep can tell. There is no error that it could have.
        let _ = unix::prepare(client);
    }
    Ok(Some((client, record)))
}

fn has_room(lane: &Lane) -> bool {
    let connections = lane.connections();
    connections <= lane.limits.connections && 2 * connections + lane.flows() <= lane.limits.descriptors
}

/// Errors that concern the connection that was waiting and not the socket or the process
/// (accept(2): pending network errors of the new socket are passed on).
fn is_about_one_connection(error: &io::Error) -> bool {
    !is_exhausted(error)
}
