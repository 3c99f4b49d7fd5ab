//! One end of a connection doing its part: sending its bytes, verifying the other end's, and telling
//! an end from a reset.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use super::script::End;
use crate::pattern;

/// Without any progress for so long a connection is stuck. No script pauses for a tenth of it.
pub const STUCK: Duration = Duration::from_secs(30);

/// What went wrong at one end, with all that it knows.
#[derive(Debug)]
pub struct Trouble {
    what: String,
    sent: usize,
    received: usize,
    took: Duration,
    silent: Duration,
    ports: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, sent, received, took, silent, ports } = self;
        write!(
            f,
            "{what}; sent {sent}, received {received}, {took:.1?} old, silent for {silent:.1?}, {ports}"
        )
    }
}

/// One end at work.
pub struct Talk<'a> {
    stream: TcpStream,
    own: &'a End,
    peer: &'a End,
    sent: usize,
    received: usize,
    has_shut: bool,
    heard_end: bool,
    next_pause: usize,
    silent_until: Instant,
    deaf_until: Instant,
    began: Instant,
    moved: Instant,
}

impl<'a> Talk<'a> {
    /// An end of this connection, which has sent nothing yet.
    pub fn new(stream: TcpStream, own: &'a End, peer: &'a End) -> Self {
        let now = Instant::now();
        Self {
            stream,
            own,
            peer,
            sent: 0,
            received: 0,
            has_shut: false,
            heard_end: false,
            next_pause: own.pause_every,
            silent_until: now,
            deaf_until: now + own.deaf_for,
            began: now,
            moved: now,
        }
    }

    /// Does all that the script says. Answers the bytes verified.
    ///
    /// # Errors
    /// The first thing that is not as the script says.
    pub fn run(mut self, give_up: &AtomicBool) -> Result<usize, Trouble> {
        self.carry(give_up).map_err(|what| self.trouble(what)).map(|()| self.received)
    }

    fn carry(&mut self, give_up: &AtomicBool) -> Result<(), String> {
        self.stream.set_nonblocking(true).map_err(|error| format!("set_nonblocking: {error}"))?;
        while !(self.has_shut && self.heard_end) {
            if self.own.resets_after.is_some_and(|after| self.sent >= after) {
                return self.reset();
            }
            self.wait()?;
            if !self.heard_end && Instant::now() >= self.deaf_until && self.read()? {
                return Ok(());
            }
            if !self.has_shut && self.may_speak() && self.write()? {
                return Ok(());
            }
            if self.moved.elapsed() > STUCK {
                return Err("stuck".into());
            }
            if self.began.elapsed() > 4 * STUCK {
                return Err("too slow".into());
            }
            if give_up.load(Relaxed) {
                return Err("given up".into());
            }
        }
        Ok(())
    }

    fn may_speak(&self) -> bool {
        Instant::now() >= self.silent_until && (!self.own.speaks_last || self.heard_end)
    }

    /// Until something can be done, or a pause is over.
    fn wait(&self) -> Result<(), String> {
        let now = Instant::now();
        let mut flags = PollFlags::empty();
        let mut timeout = Duration::from_millis(500);
        if self.deaf_until > now {
            timeout = timeout.min(self.deaf_until - now);
        } else if !self.heard_end {
            flags |= PollFlags::POLLIN;
        }
        if self.silent_until > now {
            timeout = timeout.min(self.silent_until - now);
        } else if !self.has_shut && self.may_speak() {
            flags |= PollFlags::POLLOUT;
        }
        if flags.is_empty() {
            // poll would tell of an error again and again, which only a read takes.
            std::thread::sleep(timeout);
            return Ok(());
        }
        let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), flags)];
        poll(&mut fds, timeout).map(drop).map_err(|error| format!("poll: {error}"))
    }

    /// Reads once. Answers whether that was the expected reset.
    fn read(&mut self) -> Result<bool, String> {
        let mut buffer = vec![0; self.own.chunk.clamp(512, 65_536)];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.on_end().map(|()| false),
            Ok(count) => self.verify(&buffer[..count]).map(|()| false),
            Err(error) => self.on_error("read", &error),
        }
    }

    fn verify(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut left = bytes;
        while !left.is_empty() {
            let right = pattern::from(self.peer.offset + self.received, left.len());
            let (now, later) = left.split_at(right.len());
            if let Some(at) = now.iter().zip(right).position(|(got, want)| got != want) {
                return Err(format!("WRONG BYTES from position {}", self.received + at));
            }
            self.received += now.len();
            left = later;
        }
        self.moved = Instant::now();
        if self.received > self.peer.sends {
            return Err(format!("more bytes than the {} sent", self.peer.sends));
        }
        Ok(())
    }

    fn on_end(&mut self) -> Result<(), String> {
        if let Some(after) = self.peer.resets_after {
            return Err(format!("FALSE END: the other end resets after {after}"));
        }
        if self.received < self.peer.sends {
            return Err(format!("EARLY END: the other end sends {}", self.peer.sends));
        }
        self.heard_end = true;
        self.moved = Instant::now();
        Ok(())
    }

    fn on_error(&self, call: &str, error: &std::io::Error) -> Result<bool, String> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe if self.peer.resets_after.is_some() => {
                Ok(true)
            }
            _ => Err(format!("WRONG RESET ({call}: {error})")),
        }
    }

    /// Writes once, and ends its half after the last byte. Answers whether the expected reset came.
    fn write(&mut self) -> Result<bool, String> {
        let until = self.own.resets_after.unwrap_or(self.own.sends).min(self.next_pause);
        let size = self.own.chunk.min(until - self.sent);
        if size > 0 {
            match self.stream.write(pattern::from(self.own.offset + self.sent, size)) {
                Ok(count) => {
                    self.sent += count;
                    self.moved = Instant::now();
                }
                Err(error) => return self.on_error("write", &error),
            }
        }
        if self.sent >= self.next_pause {
            self.next_pause = self.sent.saturating_add(self.own.pause_every);
            self.silent_until = Instant::now() + self.own.pause;
        }
        if self.sent == self.own.sends && self.own.resets_after.is_none() {
            self.has_shut = true;
            // Fails if the other end has reset meanwhile, which the next read tells.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        Ok(false)
    }

    fn reset(&self) -> Result<(), String> {
        let linger = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        linger.map_err(|error| format!("set_linger: {error}"))
    }

    fn trouble(&self, what: String) -> Trouble {
        let ports = format!("{:?} to {:?}", self.stream.local_addr().ok(), self.stream.peer_addr().ok());
        let (sent, received) = (self.sent, self.received);
        Trouble { what, sent, received, took: self.began.elapsed(), silent: self.moved.elapsed(), ports }
    }
}
