//! Stream positions: how many bytes of a source were read, and how many written to a sink, by the
//! kernel's own count. After a death they tell whether anything was lost or doubled, with nothing
//! but the two sockets to ask. Pure, but for [`audit`].

use std::{io, ops::Range};

use crate::{
    relay::Lane,
    sys::{
        Fd, buffer, is_unsupported, pipe, poll,
        socket::{CLOSE_WAIT, CLOSED, CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK, SYN_SENT, TIME_WAIT},
        stream::{self, StreamCounters},
        urgent,
    },
    table::{Direction, Holder, Record, flag},
};

use super::copy;

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

/// Where in a buffer is what was read and not written yet, if so many bytes were noted to be in it. A worker that died
/// before it noted them has not written any of them. `None` if it cannot be.
pub fn in_buffer(noted: usize, read: u64, written: u64) -> Option<Range<usize>> {
    let held = usize::try_from(read.checked_sub(written)?).ok()?;
    let end = if noted == 0 { held } else { noted };
    Some(end.checked_sub(held)?..end).filter(|_| end <= buffer::SIZE)
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
    let holder = record.holder(direction);
    let residue = if let Holder::Pipe(pipe) = holder { pipe::readable(pipe)? as u64 } else { 0 };
    let (from, to) = match (stream::counters_of_source(source), stream::counters_of_sink(sink)) {
        (Err(error), _) | (_, Err(error)) if is_unsupported(&error) => return Ok(Finding::Uncounted),
        (from, to) => (from?, to?),
    };
    let both_closed = from.state == CLOSED && to.state == CLOSED;
    if both_closed && !record.has(flag::of(flag::SHUT, direction)) {
        // Both were reset: each has one byte less than was counted, and they would agree.
        return Ok(Finding::Broken);
    }
    let at_mark = residue > 0 && urgent::at_mark(source)?;
    let headers = Headers::of(lane, record, direction, (source, sink));
    let (read, written) = (read(&from), written(&to, direction == Direction::Up));
    let mismatch = match [from.state, to.state].contains(&CLOSED) {
        false => Finding::Mismatch { read, residue, written },
        // Of a socket that was reset the end was counted, which never came. One that has ended agrees.
        true => Finding::Broken,
    };
    let (Some(read), Some(written)) = (read.checked_sub(headers.taken), written.checked_sub(headers.added))
    else {
        return Ok(mismatch);
    };
    Ok(match holder {
        Holder::Buffer(number) => {
            let noted = copy::noted(lane, direction.ends((source, sink)).0, direction, number);
            let place = noted.and_then(|noted| in_buffer(noted, read, written));
            place.map_or(mismatch, |_| Finding::Whole { written })
        }
        Holder::None | Holder::Pipe(_) => match judge(read, residue, written, at_mark) {
            Finding::Mismatch { .. } => mismatch,
            finding => finding,
        },
    })
}

/// Where in a dead worker's buffer is what it had not written yet.
///
/// # Errors
/// `WouldBlock`: bytes come in all the time; later. Anything else: the connection cannot go on.
pub fn left(
    lane: &Lane,
    record: &Record,
    direction: Direction,
    (source, sink): (Fd, Fd),
    number: u32,
) -> io::Result<Range<usize>> {
    let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (from, to) = (stream::counters_of_source(source)?, stream::counters_of_sink(sink)?);
    // A reset counts no end, and the places would be one off. What is closed without one has ended both ways.
    let has_ended = record.has(flag::of(flag::SHUT, super::other(direction))) && !poll::has_failed(source);
    if to.state == CLOSED || (from.state == CLOSED && !has_ended) {
        return Err(broken());
    }
    let headers = Headers::of(lane, record, direction, (source, sink));
    let (read, written) = (read(&from), written(&to, direction == Direction::Up));
    let noted = copy::noted(lane, direction.ends((source, sink)).0, direction, number);
    let place = in_buffer(noted.ok_or_else(broken)?, read + headers.added, written + headers.taken);
    place.ok_or_else(broken)
}

/// Whether a closed source, all of whose bytes are in the sink, has ended, rather than been reset: then
/// the kernel has counted one more, its FIN.
pub fn is_end(lane: &Lane, record: &Record, direction: Direction, (source, sink): (Fd, Fd)) -> bool {
    let headers = Headers::of(lane, record, direction, (source, sink));
    match (stream::counters(source), stream::counters(sink)) {
        (Ok(from), Ok(to)) => {
            from.received + headers.added == written(&to, direction == Direction::Up) + headers.taken + 1
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "positions_tests.rs"]
mod tests;
