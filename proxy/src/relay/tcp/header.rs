//! PROXY headers: taken off the beginning of a client's stream, and sent to a server before it. Both change how
//! many bytes are on one side and not on the other, so how many is recorded first: the kernel's counters tell an
//! heir how far it went ([`super::positions`]).

use std::{io, time::Duration};

use crate::{
    config::rules::{AcceptProxy, ProxyVersion},
    fault::{self, Point},
    proxy_header::{self, Ends, MAX_HEADER, Parsed},
    relay::{Lane, servers},
    sys::{
        Fd, is_unsupported,
        socket::{self, Protocol},
        stream, would_block,
    },
    table::{Record, Rejection, Told, flag},
};

use super::{positions, prelude::Step};

/// Takes the header off a client's stream, if it has to begin with one.
pub(super) fn take(lane: &Lane, client: Fd, record: &Record) -> Step {
    if !record.has(flag::HEADER_DUE) {
        if record.has(flag::TOLD)
            || !accepts(lane, record).is_some_and(|accepts| accepts.trusts(record.client()))
        {
            return Step::Done;
        }
        record.set(flag::HEADER_DUE);
        fault::point(Point::HeaderDue);
    }
    if !record.has(flag::TOLD) {
        let step = look(lane, client, record);
        if step != Step::Done {
            return step;
        }
        fault::point(Point::HeaderTold);
    }
    take_off(lane, client, record)
}

/// Looks at what has come of the header. When all has, what it tells is recorded.
fn look(lane: &Lane, client: Fd, record: &Record) -> Step {
    // Asked first: if it has ended, nothing comes after what is seen then.
    let is_open = socket::state(client).is_ok_and(|state| state == socket::ESTABLISHED);
    let mut bytes = [0; MAX_HEADER];
    let parsed = match socket::peek(client, &mut bytes) {
        Ok(count) => proxy_header::parse(&bytes[..count]),
        Err(error) if would_block(&error) => Parsed::Partial,
        Err(_) => return Step::Refused(Rejection::HeaderMissing),
    };
    match parsed {
        Parsed::Whole { len, ends } => {
            ends.iter().for_each(|ends| record.set_client(ends.source));
            let ends = ends.map(|ends| (ends.source, ends.asked));
            lane.table.set_told(client, &Told { ends, taken: len as u32 });
            Step::Done
        }
        Parsed::Partial if is_open => Step::Waits,
        Parsed::Partial => Step::Refused(Rejection::HeaderMissing),
        Parsed::Invalid => Step::Refused(Rejection::HeaderInvalid),
    }
}

/// Takes the bytes of the header off the stream, those that a dead worker has not taken.
fn take_off(lane: &Lane, client: Fd, record: &Record) -> Step {
    let all = lane.table.told(client).map_or(0, |told| u64::from(told.taken));
    let before = match record.has(flag::ADOPTED).then(|| stream::counters(client)) {
        None => 0,
        Some(Ok(counters)) => positions::read(&counters),
        Some(Err(error)) if is_unsupported(&error) && is_there(client, all) => 0,
        Some(Err(error)) if is_unsupported(&error) => all,
        Some(Err(_)) => return Step::Waits,
    };
    let left = all.saturating_sub(before) as usize;
    if left > 0 && !socket::discard(client, left).is_ok_and(|count| count == left) {
        return Step::Refused(Rejection::HeaderMissing);
    }
    fault::point(Point::HeaderTaken);
    record.clear(flag::HEADER_DUE);
    Step::Done
}

/// Whether a header of this length is still in a unix socket, of which nobody counts what was read.
fn is_there(client: Fd, len: u64) -> bool {
    let mut bytes = [0; MAX_HEADER];
    let seen = socket::peek(client, &mut bytes).map(|count| proxy_header::parse(&bytes[..count]));
    seen.is_ok_and(|parsed| matches!(parsed, Parsed::Whole { len: seen, .. } if seen as u64 == len))
}

/// How long a client may take for its header.
pub(super) fn timeout(lane: &Lane, record: &Record) -> Duration {
    // A reload may have left the listener without a word on headers.
    accepts(lane, record).map_or(AcceptProxy::TIMEOUT, |accepts| accepts.timeout)
}

fn accepts<'a>(lane: &'a Lane, record: &Record) -> Option<&'a AcceptProxy> {
    lane.config.rules(record.listener()).accept_proxy.as_ref()
}

/// Version and length of the header that a server of this connection's upstream gets; no bytes if it gets none.
pub(super) fn plan(lane: &Lane, client: Fd, record: &Record) -> (u16, u16) {
    let Some(version) = servers::rules(lane, record).send_proxy else { return (0, 0) };
    (version.number().into(), build(lane, client, record, version).len() as u16)
}

/// Sends the planned header, or what a dead worker has not sent of it. Answers whether all of it is in the
/// server's socket, which has been connected and has got nothing else.
///
/// # Errors
/// The server has broken off, or the header is not what it was when it was begun.
pub(super) fn send(lane: &Lane, client: Fd, record: &Record, upstream: Fd) -> io::Result<bool> {
    let (version, planned) = lane.table.record(upstream).map_or((0, 0), |own| own.facts().header());
    if planned == 0 {
        return Ok(true);
    }
    let version = ProxyVersion::of_number(version as u8).ok_or(io::ErrorKind::InvalidData)?;
    let bytes = build(lane, client, record, version);
    // A server may send all the time, before it has got the header.
    let sent = match stream::counters_of_sink(upstream) {
        Ok(counters) => positions::written(&counters, true) as usize,
        // Nobody counts what goes to a unix socket. This one is this worker's own: see `is_in_doubt`.
        Err(error) if is_unsupported(&error) => 0,
        Err(error) => return Err(error),
    };
    let is_same = bytes.len() == usize::from(planned);
    let Some(left) = bytes.get(sent..).filter(|_| is_same) else {
        return Err(io::Error::from_raw_os_error(libc::EPROTO));
    };
    match socket::send(upstream, left) {
        Ok(count) => {
            fault::point(Point::HeaderSent);
            Ok(count == left.len())
        }
        Err(error) if would_block(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a dead worker may have sent a header by this socket, or not: nobody counts what goes to a unix socket.
pub(super) fn is_in_doubt(lane: &Lane, upstream: Fd) -> bool {
    let is_planned = lane.table.record(upstream).is_some_and(|own| own.facts().header().1 > 0);
    is_planned && stream::counters(upstream).is_err_and(|error| is_unsupported(&error))
}

/// The header, a function of what is recorded, so that an heir's is the same.
fn build(lane: &Lane, client: Fd, record: &Record, version: ProxyVersion) -> Vec<u8> {
    proxy_header::build(version, Protocol::Tcp, ends(lane, client, record))
}

/// The client, and where it connected to, as far as they are known.
fn ends(lane: &Lane, client: Fd, record: &Record) -> Option<Ends> {
    let source = Some(record.client()).filter(|client| !client.ip().is_unspecified())?;
    let told = lane.table.told(client).and_then(|told| told.ends);
    let asked = told.map_or_else(|| socket::local_address(client).ok(), |(_, asked)| Some(asked))?;
    Some(Ends::new(source, asked))
}
