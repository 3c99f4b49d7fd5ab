//! One relay half: source socket to holder to sink socket. A function of its descriptors and its
//! record, so that resuming after a death is the same code as starting (but for what is left in a buffer: `copy.rs`).

use std::io;

use crate::{
    fault::{self, Point},
    relay::{Lane, buffers::Buffers, pipes::Pipes},
    sys::{
        Fd,
        pipe::{self, readable, write_byte},
        poll, socket, urgent, would_block,
    },
    table::{Direction, Holder, Part, Record, flag, mark},
};

use super::adopt::is_reset;

/// Bytes that one half may move in one turn, so that a turn stays far below the lease.
const BUDGET: usize = 384 << 10;
/// Most bytes of one fill.
const FILL: usize = 256 << 10;
/// Most bytes of one fill when pipes are short: what a writable socket takes at once.
const SMALL_FILL: usize = 16 << 10;

/// How a turn of a half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The source has nothing more for now.
    Dry,
    /// The sink takes nothing more for now; the holder keeps the rest.
    Full,
    /// The budget is used up.
    More,
    /// No pipe is to be had.
    NoPipe,
    /// The source has ended, and everything before its end is in the sink.
    Ended,
    /// One of the two sockets is broken.
    Broken,
}

/// What can hold bytes of a half.
pub struct Holders<'a> {
    /// The worker's pipes.
    pub pipes: &'a mut Pipes,
    /// Its buffers.
    pub buffers: &'a mut Buffers,
}

/// One half of a connection.
pub struct Half<'a> {
    /// The worker's share.
    pub lane: &'a Lane,
    /// The connection's record.
    pub record: &'static Record,
    /// Which half.
    pub direction: Direction,
    /// Where bytes come from.
    pub source: Fd,
    /// Where they go.
    pub sink: Fd,
}

impl Half<'_> {
    /// Moves bytes until something is in the way. With `probe` false, a short fill is believed to
    /// have emptied the source: allowed if the last event told of new data and nothing else.
    /// Answers the outcome and the bytes that reached the sink.
    pub fn turn(&self, mut holders: Holders<'_>, probe: bool) -> (Outcome, usize) {
        let mut moved = 0;
        let outcome = self.relay(&mut holders, probe, &mut moved).unwrap_or(Outcome::Broken);
        (outcome, moved)
    }

    fn relay(&self, holders: &mut Holders<'_>, probe: bool, moved: &mut usize) -> io::Result<Outcome> {
        if let Holder::Buffer(number) = self.record.holder(self.direction)
            && let Some(outcome) = self.pick_up(holders, number, moved)?
        {
            return Ok(outcome);
        }
        if let Holder::Pipe(pipe) = self.record.holder(self.direction) {
            if !self.drain(pipe, readable(pipe)?, moved)? {
                return Ok(Outcome::Full);
            }
            self.release(holders.pipes, pipe);
        }
        loop {
            if *moved >= BUDGET {
                return Ok(Outcome::More);
            }
            let outcome = match self.is_copied(holders) {
                true => self.copy(holders, probe, moved)?,
                false => self.splice(holders.pipes, probe, moved)?,
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
    }

    /// One fill of a pipe, and what the sink takes of it. Answers the outcome, if the turn ends with it.
    fn splice(&self, pipes: &mut Pipes, probe: bool, moved: &mut usize) -> io::Result<Option<Outcome>> {
        let most = if pipes.is_short() { SMALL_FILL } else { FILL };
        if pipes.is_short() && !poll::writable_now(self.sink) {
            return Ok(Some(Outcome::Full));
        }
        let Some(pipe) = pipes.lend(self.lane) else {
            return Ok(Some(Outcome::NoPipe));
        };
        fault::point(Point::FillLent);
        self.hold(pipe);
        fault::point(Point::FillHeld);
        let filled = self.fill(pipe, most, probe)?;
        if let Fill::Bytes(count) = filled {
            self.note_amount(count);
            if !self.drain(pipe, count, moved)? {
                return Ok(Some(Outcome::Full));
            }
        }
        self.release(pipes, pipe);
        Ok(match filled {
            Fill::Bytes(count) if probe || count >= pipes.proves_dry().min(most) => None,
            Fill::Bytes(_) | Fill::Dry => Some(Outcome::Dry),
            Fill::End => Some(Outcome::Ended),
        })
    }

    /// Source to pipe, which is empty: so "not now" can only mean that the source is dry.
    fn fill(&self, pipe: Fd, most: usize, probe: bool) -> io::Result<Fill> {
        match pipe::splice(self.source, pipe, most) {
            Ok(0) if readable(self.source)? == 0 => self.end().map(|()| Fill::End),
            Ok(0) => self.pass_urgent_byte(pipe),
            Ok(count) => {
                fault::point(Point::FillFilled);
                Ok(Fill::Bytes(count))
            }
            Err(error) if !would_block(&error) => Err(error),
            Err(_) if probe => self.pass_urgent_byte(pipe),
            Err(_) => Ok(Fill::Dry),
        }
    }

    /// The end of the source, unless it was reset.
    pub(super) fn end(&self) -> io::Result<()> {
        if is_reset(self.lane, self.record, self.direction, (self.source, self.sink)) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// Pipe to sink, `residue` bytes. Answers false if the sink takes no more for now.
    fn drain(&self, pipe: Fd, mut residue: usize, moved: &mut usize) -> io::Result<bool> {
        // It may take several calls.
        self.be_prompt();
        while residue > 0 {
            match pipe::splice(pipe, self.sink, residue) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    residue -= count;
                    *moved += count;
                    if residue > 0 {
                        fault::point(Point::DrainPart);
                    }
                }
                Err(error) if would_block(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Has the server's socket send what follows at once. (A client's does as its listener's sockets do.)
    pub(super) fn be_prompt(&self) {
        let is_unix = self.record.has(flag::of(flag::UNIX, Direction::Down));
        if self.direction == Direction::Up && !is_unix && !self.record.is_marked(mark::PROMPT) {
            // It is a TCP socket. One that is broken tells so when it is written to.
            let _ = socket::send_at_once(self.sink);
            self.record.mark(mark::PROMPT, true);
        }
    }

    /// The byte at an urgent mark goes through the pipe like any other; `splice` cannot take it.
    fn pass_urgent_byte(&self, pipe: Fd) -> io::Result<Fill> {
        if !urgent::at_mark(self.source)? {
            return Ok(Fill::Dry);
        }
        match urgent::peek(self.source) {
            Ok(Some(byte)) => {
                write_byte(pipe, byte)?;
                fault::point(Point::UrgentWritten);
                urgent::take(self.source)?;
                fault::point(Point::UrgentTaken);
                Ok(Fill::Bytes(1))
            }
            Ok(None) => Ok(Fill::End),
            Err(error) if would_block(&error) => Ok(Fill::Dry),
            Err(error) => Err(error),
        }
    }

    /// Makes a pipe the holder: its number says whose it is before the record names it.
    pub(super) fn hold(&self, pipe: Fd) {
        if let Some(record) = self.lane.table.record(pipe) {
            record.set_owner(self.client(), Part::Pipe(self.direction));
        }
        self.record.set_holder(self.direction, Holder::Pipe(pipe));
    }

    pub(super) fn client(&self) -> Fd {
        self.direction.ends((self.source, self.sink)).0
    }

    /// Gives the empty pipe back, after the record has forgotten it.
    fn release(&self, pipes: &mut Pipes, pipe: Fd) {
        fault::point(Point::DrainAll);
        self.record.set_holder(self.direction, Holder::None);
        fault::point(Point::DrainForgotten);
        pipes.give_back(self.lane, pipe);
    }
}

/// What a fill brought.
#[derive(Clone, Copy)]
enum Fill {
    Bytes(usize),
    Dry,
    End,
}
