//! Sending on what was received, in as few sends as the kernel allows.

use std::io::{self, IoSlice};

use super::{
    chosen::Chosen,
    fault::{self, Fault},
    run::Run,
};
use crate::{
    sys::{
        Fd,
        udp::{self, BATCH, Destination, Inbox},
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
pub fn forward(inbox: &Inbox, messages: Chosen, way: &Way, counters: &ListenerCounters) -> Sent {
    let mut sender =
        Sender { way, counters, parts: [IoSlice::new(&[]); BATCH], len: 0, sent: Sent::default() };
    let mut run: Option<Run> = None;
    for index in messages.iter() {
        let message = inbox.messages()[index];
        if message.cut {
            counters.dropped(DropReason::Unsendable, message.datagrams());
            continue;
        }
        let next = Run::of(message.len, message.segment);
        run = Some(match run {
            None => next,
            Some(run) => run.join(next).unwrap_or_else(|| {
                sender.send(run);
                next
            }),
        });
        sender.push(inbox.bytes(index));
    }
    if let Some(run) = run {
        sender.send(run);
    }
    sender.sent
}

/// The run in the making, and what has become of those before it.
struct Sender<'a> {
    way: &'a Way,
    counters: &'a ListenerCounters,
    parts: [IoSlice<'a>; BATCH],
    len: usize,
    sent: Sent,
}

impl<'a> Sender<'a> {
    fn push(&mut self, bytes: &'a [u8]) {
        self.parts[self.len] = IoSlice::new(bytes);
        self.len += 1;
    }

    /// Sends the parts, which are `run`.
    fn send(&mut self, run: Run) {
        let parts = self.parts;
        let parts = &parts[..std::mem::take(&mut self.len)];
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

    /// Sends the datagrams of a run. A part that is not the last holds whole datagrams only.
    fn send_one_by_one(&mut self, parts: &[IoSlice<'_>], segment: usize) {
        for datagram in parts.iter().flat_map(|part| part.chunks(segment)) {
            let result = udp::send(self.way.socket, &[IoSlice::new(datagram)], 0, self.way.client.as_ref());
            self.note(result, 1, datagram.len());
        }
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
