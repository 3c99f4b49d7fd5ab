//! An upstream by the server name that a TLS client asks for. Its ClientHello is looked at, and left in the socket;
//! what was chosen is recorded, so that it stays, whatever comes later.

use std::time::Duration;

use crate::{
    relay::Lane,
    sys::{Fd, socket, would_block},
    table::{Record, flag},
};

use super::{
    client_hello::{self, Hello, MOST},
    prelude::Step,
};

/// Chooses the upstream, if the listener has several and that was not done yet.
pub(super) fn route(lane: &Lane, client: Fd, record: &Record) -> Step {
    let Some(routes) = lane.config.rules(record.listener()).sni.as_ref() else { return Step::Done };
    if record.route().is_some() {
        return Step::Done;
    }
    // Asked first: if it has ended, nothing comes after what is seen then.
    let is_open = socket::state(client).is_ok_and(|state| state == socket::ESTABLISHED);
    let mut bytes = [0; MOST];
    let hello = match socket::peek(client, &mut bytes) {
        Ok(count) => client_hello::read(&bytes[..count]),
        Err(error) if would_block(&error) => Hello::Partial,
        Err(_) => Hello::Other,
    };
    match hello {
        Hello::Partial if is_open => {
            record.set(flag::HELLO_DUE);
            return Step::Waits;
        }
        Hello::Named(name) => settle(lane, record, routes.upstream(&name)),
        Hello::Partial | Hello::Nameless | Hello::Other => settle(lane, record, None),
    }
    Step::Done
}

/// Goes on without a name.
pub(super) fn give_up(lane: &Lane, record: &Record) {
    settle(lane, record, None);
}

/// How long the ClientHello may take, if the connection waits for it.
pub(super) fn timeout(lane: &Lane, record: &Record) -> Option<Duration> {
    let routes = lane.config.rules(record.listener()).sni.as_ref();
    routes.filter(|_| record.has(flag::HELLO_DUE)).map(|routes| routes.timeout)
}

/// Records the upstream, or that it is the listener's own.
fn settle(lane: &Lane, record: &Record, upstream: Option<u32>) {
    let own = || lane.config.upstream_of(record.listener()).map(|(number, _)| number as u32);
    record.set_route(upstream.or_else(own));
    record.clear(flag::HELLO_DUE);
}
