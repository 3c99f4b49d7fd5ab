//! A relay half whose messages are small: source socket to buffer to sink socket, by copying. What the sink does not
//! take at once goes on in a pipe, so that nothing is in a buffer between two turns, but after a death in one.

use std::io;

use crate::{
    fault::{self, Point},
    relay::Lane,
    sys::{Fd, buffer::SIZE, pipe, socket, would_block},
    table::{Direction, Facts, Holder, flag, mark},
};

use super::{
    half::{Half, Holders, Outcome},
    positions,
};

impl Half<'_> {
    /// Whether the next bytes are to be copied rather than spliced.
    pub(super) fn is_copied(&self, holders: &Holders<'_>) -> bool {
        // Of what is written to a unix socket nobody counts the bytes, so nobody could tell what is in a buffer yet.
        let unix =
            Direction::BOTH.iter().fold(0, |flags, direction| flags | flag::of(flag::UNIX, *direction));
        // And there has to be a pipe with room for what the sink does not take.
        holders.buffers.own.is_some()
            && !self.record.is_marked(mark::BULK[self.direction as usize])
            && !self.record.has(unix)
            && !holders.pipes.is_short()
            && holders.pipes.room() >= SIZE
    }

    /// Whether anything may have been written to the server's socket before. What is written first is sent at once
    /// anyway, as nothing before it is unacknowledged (`tcp_nagle_check`, net/ipv4/tcp_output.c), and many a connection
    /// has nothing else to say.
    fn may_have_sent(&self) -> bool {
        let own = self.lane.table.record(self.sink).filter(|_| self.direction == Direction::Up);
        let has_sent = |facts: Facts<'_>| facts.bytes(Direction::Up) > 0 || facts.header().1 > 0;
        self.record.has(flag::ADOPTED) || own.is_some_and(|own| has_sent(own.facts()))
    }

    /// Notes how much came at once.
    pub(super) fn note_amount(&self, count: usize) {
        let (bulk, is_bulk) = (mark::BULK[self.direction as usize], count >= SIZE);
        if is_bulk != self.record.is_marked(bulk) {
            self.record.mark(bulk, is_bulk);
        }
    }

    /// One fill of the buffer, and what the sink takes of it. Answers the outcome, if the turn ends with it.
    pub(super) fn copy(
        &self,
        holders: &mut Holders<'_>,
        probe: bool,
        moved: &mut usize,
    ) -> io::Result<Option<Outcome>> {
        let Some(buffer) = &mut holders.buffers.own else { return Ok(Some(Outcome::NoPipe)) };
        buffer.cell.reserve(self.client(), self.direction);
        self.record.set_holder(self.direction, Holder::Buffer(buffer.number));
        fault::point(Point::CopyHeld);
        let received = buffer.memory.receive(self.source);
        let count = match received {
            Ok(count) if count > 0 => count,
            Err(error) if !would_block(&error) => return Err(error),
            // Nothing is in it.
            other => {
                self.record.set_holder(self.direction, Holder::None);
                return match other {
                    Ok(_) => self.end().map(|()| Some(Outcome::Ended)),
                    Err(_) => Ok(Some(Outcome::Dry)),
                };
            }
        };
        fault::point(Point::CopyFilled);
        buffer.cell.note(self.client(), self.direction, count);
        fault::point(Point::CopyNoted);
        if !self.record.is_marked(mark::PROMPT) && (*moved > 0 || self.may_have_sent()) {
            self.be_prompt();
        }
        let send = |sent| {
            if sent > 0 {
                // The first write came short, so the next ones are further ones.
                self.be_prompt();
            }
            buffer.memory.send(self.sink, sent..count)
        };
        let sent = as_it_goes(count, send)?;
        *moved += sent;
        if sent < count {
            let number = buffer.number;
            let rest = holders.buffers.read(number, sent..count)?;
            if !self.pour(holders, &rest)? {
                return Err(io::ErrorKind::WriteZero.into());
            }
            return Ok(Some(Outcome::Full));
        }
        fault::point(Point::CopyAll);
        self.record.set_holder(self.direction, Holder::None);
        self.note_amount(count);
        let is_dry = !probe && count < SIZE;
        Ok(is_dry.then_some(Outcome::Dry))
    }

    /// Goes on with what a dead worker left in its buffer: to the sink, and the rest into a pipe. Answers the outcome, if
    /// the turn ends with it.
    pub(super) fn pick_up(
        &self,
        holders: &mut Holders<'_>,
        number: u32,
        moved: &mut usize,
    ) -> io::Result<Option<Outcome>> {
        let sockets = (self.source, self.sink);
        let left = match positions::left(self.lane, self.record, self.direction, sockets, number) {
            // Bytes come in all the time, until the window is full.
            Err(error) if would_block(&error) => return Ok(Some(Outcome::More)),
            other => holders.buffers.read(number, other?)?,
        };
        self.be_prompt();
        let sent = as_it_goes(left.len(), |sent| socket::send(self.sink, &left[sent..]))?;
        *moved += sent;
        fault::point(Point::CopyPicked);
        if sent < left.len() {
            // Without a pipe for it, it stays where it is.
            self.pour(holders, &left[sent..])?;
            return Ok(Some(Outcome::Full));
        }
        self.record.set_holder(self.direction, Holder::None);
        Ok(None)
    }

    /// Moves the rest of a buffer into a pipe, which holds it from then on. Answers false if none has room for it.
    fn pour(&self, holders: &mut Holders<'_>, rest: &[u8]) -> io::Result<bool> {
        let Some(pipe) = holders.pipes.lend(self.lane) else { return Ok(false) };
        match pipe::write(pipe, rest) {
            Ok(count) if count == rest.len() => {}
            Err(error) if !would_block(&error) => return Err(error),
            _ => {
                holders.pipes.give_back_dirty(self.lane, pipe);
                return Ok(false);
            }
        }
        fault::point(Point::CopyPoured);
        self.hold(pipe);
        fault::point(Point::CopyPiped);
        Ok(true)
    }
}

/// Has what is left of `count` bytes sent, from a place on, until all are or the sink takes no more for now. Answers how
/// many were.
fn as_it_goes(count: usize, send: impl Fn(usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut sent = 0;
    while sent < count {
        match send(sent) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => sent += more,
            Err(error) if would_block(&error) => break,
            Err(error) => return Err(error),
        }
        if sent < count {
            fault::point(Point::CopyPart);
        }
    }
    Ok(sent)
}

/// How many bytes are noted in a buffer, if it is this direction's of that connection.
pub fn noted(lane: &Lane, client: Fd, direction: Direction, number: u32) -> Option<usize> {
    lane.table.buffer(number)?.noted(client, direction)
}
