//! Sending on what was received, in as few sends as the kernel allows.

use std::io::{self, IoSlice};

use arrayvec::ArrayVec;

use super::{
    chosen::Chosen,
    fault::{self, Fault},
    run::Run,
};
use crate::{
    sys::{
        Fd,
        udp::{self, BATCH, Destination, Inbox, MAX_SEGMENTS},
    },
    table::{ConnectFailure, DropReason, ListenerCounters},
};

/// A socket to send by.
#[derive(Clone, Copy)]
pub struct Way {
    /// The socket.
    pub socket: Fd,
    /// The client to send to by a listening socket; `None`: by a flow's socket, to its server.
    pub client: Option<Destination>,
}

/// Parts of a run: a message each, or a header and a datagram each.
const PARTS: usize = 2 * MAX_SEGMENTS;
const _: () = assert!(BATCH <= PARTS);

/// Messages on their way.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// Where they were received.
    pub inbox: &'a Inbox,
    /// Which of them.
    pub messages: Chosen,
    /// Bytes at the beginning of each message of the inbox that go no further: its PROXY header, if it is one
    /// datagram. Empty: none of any.
    pub headers: &'a [usize],
    /// What each datagram begins with on its way out.
    pub prefix: &'a [u8],
}

impl<'a> Load<'a> {
    /// A message, without what goes no further.
    fn bytes(&self, index: usize) -> &'a [u8] {
        &self.inbox.bytes(index)[self.headers.get(index).copied().unwrap_or(0)..]
    }
}

/// What became of a batch. Datagrams that were dropped are counted already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Datagrams that went out.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The server does not take any, and the rest was dropped.
    pub failure: Option<ConnectFailure>,
}

/// Sends messages on, in order. What cannot be sent is dropped and counted in `counters`.
pub fn forward(load: &Load<'_>, way: &Way, counters: &ListenerCounters) -> Sent {
    let has_prefix = !load.prefix.is_empty();
    let sender =
        Sender { way, counters, parts_of_one: if has_prefix { 2 } else { 1 }, sent: Sent::default() };
    let mut queue = Queue { sender, parts: ArrayVec::new(), run: None };
    for index in load.messages.iter() {
        let message = load.inbox.messages()[index];
        let bytes = load.bytes(index);
        if message.cut {
            counters.dropped(DropReason::Unsendable, message.datagrams());
        } else if !has_prefix {
            queue.push(Run::of(bytes.len(), message.segment), &[bytes]);
        } else {
            let segment = if message.segment == 0 { bytes.len() } else { message.segment };
            // An empty one is a datagram too.
            let (first, others) = bytes.split_at(segment.min(bytes.len()));
            for datagram in [first].into_iter().chain(others.chunks(segment.max(1))) {
                queue.push(Run::of(load.prefix.len() + datagram.len(), 0), &[load.prefix, datagram]);
            }
        }
    }
    queue.flush()
}

/// The run in the making.
struct Queue<'a> {
    sender: Sender<'a>,
    parts: ArrayVec<IoSlice<'a>, PARTS>,
    run: Option<Run>,
}

impl<'a> Queue<'a> {
    /// Appends what these parts are to the run; if it cannot be part of that, sends the run first.
    fn push(&mut self, next: Run, parts: &[&'a [u8]]) {
        let joined = self.run.map_or(Some(next), |run| run.join(next));
        if let (None, Some(run)) = (joined, self.run) {
            self.sender.send(&self.parts, run);
            self.parts.clear();
        }
        self.run = joined.or(Some(next));
        // They fit: a run has at most MAX_SEGMENTS datagrams.
        self.parts.extend(parts.iter().map(|part| IoSlice::new(part)));
    }

    fn flush(mut self) -> Sent {
        if let Some(run) = self.run {
            self.sender.send(&self.parts, run);
        }
        self.sender.sent
    }
}

/// Sends runs, and notes what has become of them.
struct Sender<'a> {
    way: &'a Way,
    counters: &'a ListenerCounters,
    /// Parts of a run that are one datagram; if 1, a part may also be several.
    parts_of_one: usize,
    sent: Sent,
}

impl Sender<'_> {
    /// Sends the parts, which are `run`.
    fn send(&mut self, parts: &[IoSlice<'_>], run: Run) {
        if self.sent.failure.is_some() {
            return self.counters.dropped(DropReason::Upstream, run.datagrams as u64);
        }
        match udp::send(self.way.socket, parts, run.gso(), self.way.client.as_ref()) {
            Err(error) if run.datagrams > 1 && fault::refuses_segments(&error) => {
                self.send_one_by_one(parts, run.segment);
            }
            result => self.note(result, run.datagrams, run.bytes),
        }
    }

    /// Sends the datagrams of a run. A part that is not the last holds whole datagrams only, or half of one.
    fn send_one_by_one(&mut self, parts: &[IoSlice<'_>], segment: usize) {
        if self.parts_of_one == 1 {
            for datagram in parts.iter().flat_map(|part| part.chunks(segment)) {
                self.send_one(&[IoSlice::new(datagram)]);
            }
        } else {
            parts.chunks(self.parts_of_one).for_each(|datagram| self.send_one(datagram));
        }
    }

    fn send_one(&mut self, parts: &[IoSlice<'_>]) {
        let result = udp::send(self.way.socket, parts, 0, self.way.client.as_ref());
        self.note(result, 1, parts.iter().map(|part| part.len()).sum());
    }

    fn note(&mut self, result: io::Result<()>, datagrams: usize, bytes: usize) {
        let Err(error) = result else {
            self.sent.datagrams += datagrams as u64;
            self.sent.bytes += bytes as u64;
            return;
        };
        let reason = match Fault::of(&error) {
            Fault::Congestion => DropReason::Congestion,
            Fault::Server(failure) if self.way.client.is_none() => {
                self.sent.failure = Some(failure);
                DropReason::Upstream
            }
            Fault::Server(_) | Fault::Datagram => DropReason::Unsendable,
        };
        self.counters.dropped(reason, datagrams as u64);
    }
}
