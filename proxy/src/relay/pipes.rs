//! A worker's pipes. They are lent to a direction while bytes are in flight, and the supervisor
//! makes them all: past 1,024 pipes an ordinary user's are too small to be of use (pipe(7)).

use crate::{
    sys::{Fd, fd::close, pipe},
    table::{Kind, Tag, TagCell, WorkerBlock},
};

use super::Lane;

/// Bytes a pipe is made to hold. The kernel allocates room for the page references only.
pub const PIPE_SIZE: usize = 1 << 20;
/// Bytes that a buffer of a pipe takes at least (`pipe_write`, fs/pipe.c).
const PAGE: usize = 4096;
/// With fewer pipes left than this, a direction gets one only if its sink takes bytes now, so that
/// readers who do not read cannot take the last ones.
const RESERVE: usize = 8;

/// The pipes of one worker that are at rest.
pub struct Pipes {
    free: Vec<Fd>,
    lent: usize,
    null: Fd,
    slots: usize,
}

impl Pipes {
    /// Starts with the pipes that the supervisor made for this worker; `null` is `/dev/null`.
    pub fn new(stock: Vec<Fd>, null: Fd) -> Self {
        let mut pipes = Self { free: Vec::with_capacity(stock.len()), lent: 0, null, slots: usize::MAX };
        for pipe in stock {
            pipes.measure(pipe);
            pipes.free.push(pipe);
        }
        pipes
    }

    /// A fill of fewer bytes than this has emptied its source ([`pipe::slots`]).
    pub fn proves_dry(&self) -> usize {
        self.slots
    }

    /// Bytes that an empty pipe takes at least.
    pub fn room(&self) -> usize {
        self.slots.saturating_mul(PAGE)
    }

    /// Whether only the reserve is left.
    pub fn is_short(&self) -> bool {
        self.free.len() <= RESERVE
    }

    /// Lends an empty pipe, if there is one. The caller records it before it fills it.
    pub fn lend(&mut self, lane: &Lane) -> Option<Fd> {
        if self.is_short() {
            self.collect(lane);
        }
        let pipe = self.free.pop()?;
        self.lent += 1;
        self.publish(lane.block());
        Some(pipe)
    }

    /// Takes an EMPTY pipe back; the caller's record has forgotten it.
    pub fn give_back(&mut self, lane: &Lane, pipe: Fd) {
        self.lent = self.lent.saturating_sub(1);
        self.rest(lane, pipe);
        self.publish(lane.block());
    }

    /// Takes a pipe back with whatever it holds. One that cannot be emptied is closed: the next
    /// connection must never read what was another's.
    pub fn give_back_dirty(&mut self, lane: &Lane, pipe: Fd) {
        let mut left = pipe::readable(pipe);
        while left.as_ref().is_ok_and(|left| *left > 0) {
            left = pipe::splice(pipe, self.null, PIPE_SIZE).and_then(|_| pipe::readable(pipe));
        }
        if left.is_ok() {
            return self.give_back(lane, pipe);
        }
        self.lent = self.lent.saturating_sub(1);
        lane.close(pipe);
        self.publish(lane.block());
    }

    /// Notes a lent pipe that came with an adopted flow.
    pub fn note_adopted(&mut self, lane: &Lane, pipe: Fd) {
        self.measure(pipe);
        self.lent += 1;
        self.publish(lane.block());
    }

    /// Asks the supervisor for more when they run short, and takes what it has made.
    pub fn collect(&mut self, lane: &Lane) {
        let block = lane.block();
        for gift in &block.pipe_gifts {
            let number = gift.get();
            if number > 0 {
                gift.set(0);
                let tag = lane.table.tag(Fd::from_raw(number)).map(TagCell::get);
                if tag != Some(Tag::new(Kind::Pipe, lane.epoch)) {
                    // A wild write of somebody who is dead by now.
                    continue;
                }
                self.measure(Fd::from_raw(number));
                self.rest(lane, Fd::from_raw(number));
            }
        }
        let wanted = self.is_short() && self.free.len() + self.lent < lane.limits.pipes_per_worker;
        block.pipes_wanted.set(wanted.into());
        self.publish(block);
    }

    fn measure(&mut self, pipe: Fd) {
        self.slots = self.slots.min(pipe::slots(pipe).unwrap_or(0));
    }

    fn rest(&mut self, lane: &Lane, pipe: Fd) {
        if self.free.len() + self.lent < lane.limits.pipes_per_worker {
            self.free.push(pipe);
            return;
        }
        lane.close(pipe);
    }

    fn publish(&self, block: &WorkerBlock) {
        block.pipes_free.set(self.free.len() as u64);
        block.pipes_lent.set(self.lent as u64);
    }
}

/// Makes and tags a pipe for a pool; the supervisor calls it.
///
/// # Errors
/// The descriptor limit is reached.
pub fn make(table: &crate::table::Table, epoch: u32) -> std::io::Result<Fd> {
    let pipe = pipe::create(PIPE_SIZE)?;
    match table.tag(pipe) {
        Some(tag) => tag.set(Tag::new(Kind::Pipe, epoch)),
        None => {
            close(pipe);
            return Err(std::io::Error::other("descriptor number beyond the flow table"));
        }
    }
    Ok(pipe)
}
