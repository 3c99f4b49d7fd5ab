//! Stream positions: how many bytes of a source were read, and how many written to a sink, by the
//! kernel's own count. After a death they tell whether anything was lost or doubled, with nothing
//! but the two sockets to ask. Pure, but for [`audit`].

use std::io;

use crate::{
    relay::Lane,
    sys::{
        Fd, is_unsupported, pipe,
        socket::{CLOSE_WAIT, CLOSED, CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_SENT, TIME_WAIT},
        stream::{self, StreamCounters},
        urgent,
    },
    table::{Direction, Holder, Record, flag},
};

/// Bytes of the stream that were read from a source. After a reset it may be off by one.
pub fn read(source: &StreamCounters) -> u64 {
    let fin = matches!(source.state, CLOSE_WAIT | LAST_ACK | CLOSING | TIME_WAIT | CLOSED);
    source.received.saturating_sub(source.unread + u64::from(fin))
}

/// Bytes of the stream that were written to a sink; `connected` if we connected it, rather than
/// accepted it.
pub fn written(sink: &StreamCounters, connected: bool) -> u64 {
    if sink.state == SYN_SENT {
        return 0;
    }
    let fin = matches!(sink.state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING | TIME_WAIT | CLOSED);
    let sent = sink.acknowledged + sink.unacknowledged;
    sent.saturating_sub(u64::from(fin) + u64::from(connected))
}

/// What an audit of one direction found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Every byte that was read is in the holder or was written.
    Whole {
        /// Bytes written to the sink.
        written: u64,
    },
    /// The urgent byte is in the holder, and at the source still: its taker died in between.
    UrgentTwice,
    /// Bytes are missing or too many.
    Mismatch {
        /// Bytes read from the source.
        read: u64,
        /// Bytes in the holder.
        residue: u64,
        /// Bytes written to the sink.
        written: u64,
    },
    /// One of the sockets is broken or gone: there is nothing to compare.
    Broken,
    /// One of the sockets is a unix socket, whose bytes nobody counts.
    Uncounted,
}

/// Compares the three.
pub fn judge(read: u64, residue: u64, written: u64, at_mark: bool) -> Finding {
    match read.checked_sub(written) {
        Some(held) if held == residue => Finding::Whole { written },
        Some(held) if at_mark && held + 1 == residue => Finding::UrgentTwice,
        _ => Finding::Mismatch { read, residue, written },
    }
}

/// Bytes that are on one side of a direction and not on the other: PROXY headers, which go up only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Read from the source, and taken off.
    pub taken: u64,
    /// Written to the sink, and added.
    pub added: u64,
}

impl Headers {
    fn of(lane: &Lane, record: &Record, direction: Direction, (source, sink): (Fd, Fd)) -> Self {
        if direction == Direction::Down {
            return Self::default();
        }
        let told = Some(source).filter(|_| record.has(flag::TOLD)).and_then(|client| lane.table.told(client));
        let (_, added) = lane.table.record(sink).map_or((0, 0), |own| own.facts().header());
        Self { taken: told.map_or(0, |told| told.taken.into()), added: added.into() }
    }
}

/// Audits one direction between turns: nothing is being moved.
///
/// # Errors
/// A descriptor is not what the record says.
pub fn audit(
    lane: &Lane,
    record: &Record,
    direction: Direction,
    (source, sink): (Fd, Fd),
) -> io::Result<Finding> {
    let residue = match record.holder(direction) {
        Holder::None => 0,
        Holder::Pipe(pipe) => pipe::readable(pipe)? as u64,
    };
    let (from, to) = match (stream::counters_of_source(source), stream::counters_of_sink(sink)) {
        (Err(error), _) | (_, Err(error)) if is_unsupported(&error) => return Ok(Finding::Uncounted),
        (from, to) => (from?, to?),
    };
    let both_closed = from.state == CLOSED && to.state == CLOSED;
    if both_closed && !record.has(flag::of(flag::SHUT, direction)) {
        // Both were reset: each has one byte less than was counted, and they would agree.
        return Ok(Finding::Broken);
    }
    let we_connected_the_sink = direction == Direction::Up;
    let at_mark = residue > 0 && urgent::at_mark(source)?;
    let headers = Headers::of(lane, record, direction, (source, sink));
    let (read, written) = (read(&from), written(&to, we_connected_the_sink));
    let finding = match (read.checked_sub(headers.taken), written.checked_sub(headers.added)) {
        (Some(read), Some(written)) => judge(read, residue, written, at_mark),
        _ => Finding::Mismatch { read, residue, written },
    };
    Ok(match finding {
        // Of a socket that was reset the end was counted, which never came. One that has ended agrees.
        Finding::Mismatch { .. } if [from.state, to.state].contains(&CLOSED) => Finding::Broken,
        finding => finding,
    })
}

/// Whether a closed source, all of whose bytes are in the sink, has ended, rather than been reset: then
/// the kernel has counted one more, its FIN.
pub fn is_end(lane: &Lane, record: &Record, direction: Direction, (source, sink): (Fd, Fd)) -> bool {
    let headers = Headers::of(lane, record, direction, (source, sink));
    match (stream::counters(source), stream::counters(sink)) {
        (Ok(from), Ok(to)) => {
            from.received + headers.added > written(&to, direction == Direction::Up) + headers.taken
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "positions_tests.rs"]
mod tests;
