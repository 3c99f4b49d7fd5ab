//! What comes before a server is chosen: what a connection begins with may have to be looked at first. It is in
//! state [`State::Accepted`] meanwhile, and its record tells what it waits for, so that an heir goes on with it.
//!
//! Each step looks at what has come so far (and leaves it in the socket until all is there), and can be repeated.
//! An event of the client's socket has it look again; the walk over the tags ends what is late.

use std::time::Duration;

use crate::{
    fault::{self, Point},
    relay::{Lane, admission},
    sys::Fd,
    table::{Record, Rejection, State, flag},
};

use super::{Tcp, header, sni};

/// How a step has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next one may begin.
    Done,
    /// Something has to come first.
    Waits,
    /// The connection is turned away.
    Refused(Rejection),
}

impl Tcp {
    /// Goes through the steps as far as it can, and after the last one connects to a server.
    pub(super) fn prelude(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) {
        let mut step = header::take(lane, client, record);
        if step == Step::Done {
            step = let_in(lane, record);
        }
        if step == Step::Done {
            step = sni::route(lane, client, record);
        }
        match step {
            Step::Done => self.connect(lane, client, record, now_ms),
            Step::Waits => {}
            Step::Refused(reason) => self.reject(lane, client, record, reason),
        }
    }

    /// Ends the connection at `client` if what it waits for is late, or goes on without. Called by the worker's walk over its tags.
    pub(super) fn expire_prelude(&mut self, lane: &Lane, client: Fd, record: &'static Record, now_ms: u32) {
        let Some((limit, reason)) = awaited(lane, record) else { return };
        let waited_ms = now_ms.wrapping_sub(record.opened_ms()) as i32;
        if record.state() == State::Accepted && i64::from(waited_ms) >= limit.as_millis() as i64 {
            match reason {
                Some(reason) => self.reject(lane, client, record, reason),
                None => {
                    sni::give_up(lane, record);
                    self.prelude(lane, client, record, now_ms);
                }
            }
        }
    }
}

/// Lets a connection in whose client is known, or does not. The heir of who dies before it is marked asks again.
fn let_in(lane: &Lane, record: &Record) -> Step {
    if record.has(flag::ADMITTED) {
        return Step::Done;
    }
    let (listener, source) = (record.listener(), record.client().ip());
    admission::count_source(lane, listener, source);
    if let Err(refusal) = admission::admit(lane, listener, source, 1) {
        admission::uncount_source(lane, listener, source);
        return Step::Refused(refusal.into());
    }
    fault::point(Point::AcceptCounted);
    record.set(flag::ADMITTED);
    fault::point(Point::AcceptAdmitted);
    Step::Done
}

/// For how long a connection may wait for what it waits for, and why it is turned away then, if it is.
fn awaited(lane: &Lane, record: &Record) -> Option<(Duration, Option<Rejection>)> {
    match record.has(flag::HEADER_DUE) {
        true => Some((header::timeout(lane, record), Some(Rejection::HeaderTimeout))),
        false => sni::timeout(lane, record).map(|timeout| (timeout, None)),
    }
}
