//! A connection on which a message goes there and comes back.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::cases::MESSAGE;
use crate::set::Set;

/// The connection, and how far its message is.
pub struct Exchange {
    stream: TcpStream,
    message: [u8; MESSAGE],
    is_sent: bool,
    answered: usize,
    /// When the message was given to it; of the first one, when it began to connect.
    pub began: Instant,
}

impl Exchange {
    /// Connects, sends a message as soon as that goes, and is told of by this token.
    pub fn start(to: SocketAddr, set: &Set, token: usize) -> io::Result<Self> {
        let began = Instant::now();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        match socket.connect(&SockAddr::from(to)) {
            // EINPROGRESS has no kind.
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        let mut exchange = Self { stream, message: [0; MESSAGE], is_sent: false, answered: 0, began };
        exchange.say(0, began)?;
        // Edge-triggered: one registration for all that will be said. A connection that is open takes a message at once.
        let connected = if exchange.is_sent { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
        set.add(&exchange.stream, EpollFlags::EPOLLIN | EpollFlags::EPOLLET | connected, token)?;
        Ok(exchange)
    }

    /// Sends the message of this number; the one before must have been answered.
    pub fn say(&mut self, number: u64, now: Instant) -> io::Result<()> {
        self.message.as_chunks_mut().0.fill(number.to_ne_bytes());
        (self.is_sent, self.answered, self.began) = (false, 0, now);
        self.send()
    }

    /// Called at an event: whether the message has come back whole. An error means that the connection has failed.
    pub fn go_on(&mut self) -> io::Result<bool> {
        if !self.is_sent {
            self.send()?;
        }
        let mut answer = [0; MESSAGE];
        match self.stream.read(&mut answer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.compare(&answer[..length]),
            Err(error) => not_yet(error).map(|()| false),
        }
    }

    /// Whether all that was sent has come back.
    pub fn is_answered(&self) -> bool {
        self.answered == MESSAGE
    }

    fn compare(&mut self, part: &[u8]) -> io::Result<bool> {
        if self.message[self.answered..].get(..part.len()) != Some(part) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.answered += part.len();
        Ok(self.is_answered())
    }

    fn send(&mut self) -> io::Result<()> {
        match self.stream.write(&self.message) {
            Ok(MESSAGE) => {
                self.is_sent = true;
                Ok(())
            }
            // A socket with nothing in it takes 64 bytes.
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) => not_yet(error),
        }
    }
}

/// An error, unless it means that the socket is not ready.
fn not_yet(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}
