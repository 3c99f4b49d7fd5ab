//! Ending a connection: passing an end on, closing, resetting. The order of the steps is what
//! makes a death between them recoverable.

use crate::{
    fault::{self, Point},
    relay::{Lane, admission},
    sys::{Fd, socket, time},
    table::{Direction, Ending, Holder, Record, Rejection, State, flag},
};

use super::{Tcp, evidence};

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
        fault::point(Point::EndSeen);
        record.set_ending(match record.ending() {
            Some(first) => first,
            None if direction == Direction::Up => Ending::ClientEnded,
            None => Ending::ServerEnded,
        });
        record.set(flag::of(flag::SHUT, direction));
        record.clear(flag::of(flag::MORE, direction));
        fault::point(Point::EndFlagged);
        let both = evidence::both_ended(record);
        if !both || direction == Direction::Up {
            socket::shutdown_write(sink);
        }
        // Whoever flagged the server's end may have died before it was passed on.
        if both && !ends_by_close(lane, client, record) {
            socket::shutdown_write(client);
        }
        fault::point(Point::EndPassed);
        if both {
            fault::point(Point::EndBoth);
            self.close(lane, client, record);
        }
    }

    /// Turns a connection away, and counts why.
    pub(super) fn reject(&mut self, lane: &Lane, client: Fd, record: &'static Record, why: Rejection) {
        lane.listener(record.listener()).reject(why);
        self.reset(lane, client, record, Ending::Refused(why));
    }

    /// Resets both sides, one of which is broken.
    pub(super) fn break_off(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        let is_client = socket::state(client).is_ok_and(|state| state == socket::CLOSED);
        let ending = if is_client { Ending::ClientReset } else { Ending::ServerReset };
        self.reset(lane, client, record, ending);
    }

    /// Resets both sides: what one of them broke off must not look like an end to the other. The first
    /// reason counts, should the worker die in the middle.
    pub(super) fn reset(&mut self, lane: &Lane, client: Fd, record: &'static Record, why: Ending) {
        fault::point(Point::ResetSeen);
        if !record.has(flag::RESET) {
            record.set_ending(why);
        }
        record.set(flag::RESET);
        fault::point(Point::ResetFlagged);
        if let Some(upstream) = record.upstream() {
            socket::reset(upstream);
        }
        fault::point(Point::ResetUpstream);
        socket::reset(client);
        fault::point(Point::ResetClient);
        self.close(lane, client, record);
    }

    pub(super) fn close(&mut self, lane: &Lane, client: Fd, record: &'static Record) {
        record.set_state(State::Closing);
        fault::point(Point::CloseBegun);
        lane.log_end(client, record);
        for direction in Direction::BOTH {
            let holder = record.holder(direction);
            record.set_holder(direction, Holder::None);
            if let Holder::Pipe(pipe) = holder {
                fault::point(Point::CloseUnheld);
                self.pipes.give_back_dirty(lane, pipe);
            }
        }
        self.leave_queue(lane, client, record);
        lane.block().connections.down();
        lane.count_closed(record.listener());
        if record.has(flag::ADMITTED) {
            admission::uncount_source(lane, record.listener(), record.client().ip());
        }
        if let Some(upstream) = record.upstream() {
            record.set_upstream(None);
            fault::point(Point::CloseForgotten);
            lane.close(upstream);
        }
        if let Some(server) = record.server() {
            self.free_place(lane, server);
        }
        record.set_state(State::Free);
        fault::point(Point::CloseFreed);
        lane.close(client);
    }
}

/// Whether closing the client's socket, which is next, tells it of the server's end well enough, and at once. After a
/// death in between, a socket that nothing went through looks like one that was accepted and not recorded; of a unix
/// socket nobody counts what did; and with copies of it elsewhere its end would wait for theirs.
fn ends_by_close(lane: &Lane, client: Fd, record: &Record) -> bool {
    let is_copied = lane.table.supervisor().has_copies(time::monotonic_ns);
    let facts = lane.table.facts(client, record);
    let has_carried =
        facts.is_some_and(|facts| Direction::BOTH.iter().any(|direction| facts.bytes(*direction) > 0));
    has_carried && !is_copied && !record.has(flag::UNIX)
}
