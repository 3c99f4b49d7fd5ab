//! Whether a dead worker's record agrees with what the kernel says of its sockets. A wild write to the
//! record must not become an end, a second beginning, or anything else that looks right to a peer.

use crate::{
    relay::Lane,
    sys::{
        Fd, is_unsupported, pipe,
        socket::{self, CLOSE_WAIT, CLOSED, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, SYN_SENT},
        stream::{self, StreamCounters},
        would_block,
    },
    table::{Direction, Holder, Record, State, flag},
};

use super::positions;

/// Whether state and flags can be true. Asks nothing of a connection that only relays.
pub fn agrees(lane: &Lane, client: Fd, record: &Record) -> bool {
    if record.has(flag::UDP) {
        return false;
    }
    match record.state() {
        State::Free => true,
        // We reset it; nothing that is left of it matters.
        _ if record.has(flag::RESET) => true,
        State::Accepted | State::Connecting => is_untouched(lane, client, record),
        State::Established => Direction::BOTH.iter().all(|direction| may_be_shut(client, record, *direction)),
        State::Closing => {
            let upstream = record.upstream();
            let mut sockets = [Some(client), upstream].into_iter().flatten();
            // Its worker may have forgotten the server's socket already.
            sockets.all(|socket| is_over(record, socket))
                && (upstream.is_none() || may_be_shut(client, record, Direction::Down))
        }
    }
}

/// Whether the ends of both directions were read, and all that came before them was passed on.
pub fn both_ended(record: &Record) -> bool {
    Direction::BOTH.iter().all(|direction| record.has(flag::of(flag::SHUT, *direction)))
}

/// Whether nothing but to close it is left to be done to a socket of this connection: we have passed on an end to it
/// or reset it, or closing it passes on the last end (`end.rs`).
pub fn is_over(record: &Record, socket: Fd) -> bool {
    match socket::state(socket) {
        Ok(CLOSE_WAIT) if record.has(flag::RESET) => false,
        Ok(CLOSE_WAIT) => both_ended(record) && pipe::readable(socket).is_ok_and(|unread| unread == 0),
        Ok(state) => !matches!(state, ESTABLISHED | SYN_SENT),
        Err(_) => false,
    }
}

/// Whether an untagged client's socket is one that its worker was closing when it died, and not one that was just
/// accepted at a number that had such a record before: something has gone through it.
pub fn was_being_closed(record: &Record, client: Fd) -> bool {
    record.state() == State::Free && is_over(record, client) && has_carried(client)
}

/// Whether anything was read from a client's socket, or written to it.
fn has_carried(client: Fd) -> bool {
    let has_read = |counters: StreamCounters| positions::read(&counters) > 0;
    stream::counters_of_source(client).is_ok_and(has_read)
        || match stream::counters_of_sink(client) {
            Ok(counters) => positions::written(&counters, false) > 0,
            // Its peer acknowledges something all the time.
            Err(error) => would_block(&error),
        }
}

/// Nothing but a PROXY header is read from a client, and nothing written to it, before there is an upstream
/// connection.
fn is_untouched(lane: &Lane, client: Fd, record: &Record) -> bool {
    let header = lane.table.told(client).map_or(0, |told| u64::from(told.taken));
    let is_expected = |read| read == header || (record.has(flag::HEADER_DUE) && read < header);
    match stream::counters(client) {
        // Reset meanwhile: there is nothing left to be wrong.
        Ok(counters) if counters.state == CLOSED => true,
        Ok(counters) => is_expected(positions::read(&counters)) && positions::written(&counters, false) == 0,
        // It is too busy to be read: its bytes come in, which is no evidence against it. Of a unix socket there is none.
        Err(error) => would_block(&error) || is_unsupported(&error),
    }
}

/// A direction is shut only after its source's end was read, and everything before it was passed on.
fn may_be_shut(client: Fd, record: &Record, direction: Direction) -> bool {
    if !record.has(flag::of(flag::SHUT, direction)) {
        return true;
    }
    let source = match direction {
        Direction::Up => Some(client),
        Direction::Down => record.upstream(),
    };
    let has_end = |source| {
        let is_open = |state| matches!(state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | SYN_SENT);
        socket::state(source).is_ok_and(|state| !is_open(state))
            && pipe::readable(source).is_ok_and(|unread| unread == 0)
    };
    record.holder(direction) == Holder::None && source.is_some_and(has_end)
}
