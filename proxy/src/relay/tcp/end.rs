//! Ending a connection: passing an end on, closing, resetting. The order of the steps is what
//! makes a death between them recoverable.

use crate::{
    relay::Lane,
    sys::{Fd, socket},
    table::{Direction, Holder, Record, State, flag},
};

use super::Tcp;

impl Tcp {
    /// The source of `direction` has ended: so does the sink, and with both ends the connection.
    pub(super) fn pass_end(
        &mut self,
        lane: &Lane,
        client: Fd,
        record: &'static Record,
        direction: Direction,
        sink: Fd,
    ) {
        record.set(flag::of(flag::SHUT, direction));
        socket::shutdown_write(sink);
        let both = Direction::BOTH.iter().all(|direction| record.has(flag::of(flag::SHUT, *direction)));
        if both {
            self.close(lane, client, record);
        }
    }

    /// Resets both sides: what one of them broke off must not look like an end to the other.
    pub(super) fn reset(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        record.set(flag::RESET);
        if let Some(upstream) = record.upstream() {
            socket::reset(upstream);
        }
        socket::reset(client);
        self.close(lane, client, record);
    }

    pub(super) fn close(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        record.set_state(State::Closing);
        for direction in Direction::BOTH {
            if let Holder::Pipe(pipe) = record.holder(direction) {
                record.set_holder(direction, Holder::None);
                self.pipes.give_back_dirty(lane, pipe);
            }
        }
        lane.block().connections.down();
        lane.listener(record.listener()).open.down();
        if let Some(server) = record.server() {
            lane.server(server).open.down();
        }
        if let Some(upstream) = record.upstream() {
            record.set_upstream(None);
            lane.close(upstream);
        }
        record.set_state(State::Free);
        lane.close(client);
    }
}
