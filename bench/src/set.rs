//! An epoll set that answers tokens.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken at once.
const EVENTS: usize = 256;

/// The set.
pub struct Set {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Set {
    /// An empty one.
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, events: vec![EpollEvent::empty(); EVENTS] })
    }

    /// Tells of these events of a socket by this token, until that is closed.
    pub fn add(&self, socket: impl AsFd, flags: EpollFlags, token: usize) -> nix::Result<()> {
        self.epoll.add(socket, EpollEvent::new(flags, token as u64))
    }

    /// Waits for events, so long at most, and answers their tokens. A signal counts as none.
    pub fn wait(&mut self, at_most: Duration) -> nix::Result<impl Iterator<Item = usize> + use<>> {
        let timeout = EpollTimeout::try_from(at_most).unwrap_or(EpollTimeout::MAX);
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Err(nix::Error::EINTR) => 0,
            result => result?,
        };
        let tokens: Vec<_> = self.events[..count].iter().map(|event| event.data() as usize).collect();
        Ok(tokens.into_iter())
    }
}
