//! The buffer that a worker copies small messages through: for a few bytes that is cheaper than `splice`. Its own is empty
//! between two turns, so one is enough; what a sink does not take at once goes into a pipe.

use std::{io, ops::Range};

use proxy_common::lease::SEATS;

use crate::{
    sys::{Fd, buffer, memory},
    table::{BUFFERS, BufferCell, Table},
};

/// A worker's buffer.
pub struct Buffer {
    /// Its number among those of all workers.
    pub number: u32,
    /// What is in it.
    pub cell: &'static BufferCell,
    /// Its bytes.
    pub memory: buffer::Buffer,
}

/// A worker's share of the buffers.
pub struct Buffers {
    file: Fd,
    /// Its own. None if it could not be mapped, or if all hold what its dead predecessors left: then everything is
    /// spliced.
    pub own: Option<Buffer>,
}

impl Buffers {
    /// Takes a buffer of the `file` for a worker that starts.
    pub fn new(table: &Table, (seat, worker): (u32, u32), file: Fd) -> Self {
        let own = table.free_buffer(seat, worker).and_then(|number| {
            let cell = table.buffer(number)?;
            let memory = buffer::Buffer::map(file, number);
            let memory = memory.inspect_err(|error| tracing::warn!(%error, "no buffer for small messages"));
            Some(Buffer { number, cell, memory: memory.ok()? })
        });
        Self { file, own }
    }

    /// A part of any worker's buffer.
    ///
    /// # Errors
    /// There is no such part.
    pub fn read(&self, number: u32, part: Range<usize>) -> io::Result<Vec<u8>> {
        buffer::read(self.file, number, part)
    }
}

/// Makes the file of all workers' buffers; the supervisor calls it.
///
/// # Errors
/// Memory or the descriptor limit is reached.
pub fn make(workers: u32) -> io::Result<Fd> {
    let file = memory::file(c"proxy-buffers")?;
    file.set_len((SEATS * workers as usize * BUFFERS * buffer::SIZE) as u64)?;
    Ok(Fd::keep(file))
}
