//! Tells the service manager (systemd) how the proxy is: `sd_notify(3)`. Nothing is told, and nothing costs
//! anything, unless `NOTIFY_SOCKET` was set at the start.
//!
//! The messages are sent here and not by the sd-notify crate: its send waits for a manager that does not
//! read, and a supervisor that waits looks after nobody.

mod news;

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use proxy_common::lease::{PRIMARY, STANDBY};

use super::{
    Supervisor,
    setup::Setup,
    stored::{Errand, errands},
};
use crate::sys::{Fd, rights};
use news::{End, News, Situation, Waits};

/// Wait before another try when a message could not be sent, nanoseconds.
const RETRY: u64 = 100_000_000;

/// The line to the service manager.
pub struct Notify {
    /// No descriptor is kept: pools would have it too.
    to: Option<SocketAddr>,
    news: News,
    /// Not told yet, the next one last.
    errands: Vec<Errand>,
    retry_at: u64,
    is_failing: bool,
}

impl Notify {
    /// As the environment says, which is left as it is: a successor is told the same, but for what
    /// `handover/launch.rs` takes out.
    pub fn from_environment(setup: &Setup) -> Self {
        let watchdog = sd_notify::watchdog_enabled().map(super::nanos).filter(|limit| *limit > 0);
        let news = News::new(Waits { watchdog, drain: setup.config.drain_timeout });
        Self { to: manager(), news, errands: errands(setup), retry_at: 0, is_failing: false }
    }

    /// Whether there is a manager.
    pub fn is_wanted(&self) -> bool {
        self.to.is_some()
    }

    /// This process is the one that the manager is to watch from now on. Everything is told again, for
    /// what the dead supervisor had told is not known.
    pub fn succeed(&mut self, now: u64, setup: &Setup) {
        self.news = self.news.of_successor(std::process::id());
        self.errands = errands(setup);
        (self.retry_at, self.is_failing) = (0, false);
        // At once, before the manager has seen the death if possible; the situation is not known yet.
        if let Some(message) = self.news.main_pid() {
            self.send(now, &message, &[]);
        }
    }

    /// The process that the manager is to watch from now on is the successor; to be told before this one ends,
    /// for a manager that sees the main process end before it knows of another one may think it all over.
    pub fn pass_on(&mut self, now: u64, successor: u32) {
        if let Some(message) = self.news.of_successor(successor).main_pid() {
            self.send(now, &message, &[]);
        }
    }

    /// Tells what is new. What cannot be sent is tried again.
    fn tell(&mut self, now: u64, situation: Situation) {
        if self.to.is_none() || now < self.retry_at {
            return;
        }
        if let Some((message, told)) = self.news.next(now, situation) {
            if !self.send(now, &message, &[]) {
                return;
            }
            self.news = told;
        }
        while let Some(errand) = self.errands.pop() {
            if !self.send(now, &errand.message(), errand.descriptors()) {
                self.errands.push(errand);
                return;
            }
        }
    }

    /// Answers whether it was sent.
    fn send(&mut self, now: u64, message: &str, fds: &[Fd]) -> bool {
        let Some(to) = &self.to else { return false };
        let sent = send(to, message, fds);
        if let Err(error) = &sent {
            self.retry_at = now + RETRY;
            if !self.is_failing {
                tracing::warn!(%error, ?to, "the service manager cannot be told; trying again");
            }
        }
        self.is_failing = sent.is_err();
        sent.is_ok()
    }
}

/// Tells the manager something once, before there is a [`Notify`].
pub fn tell_at_once(message: &str) {
    if let Some(Err(error)) = manager().map(|to| send(&to, message, &[])) {
        tracing::warn!(%error, message, "the service manager cannot be told");
    }
}

/// Where the manager listens, if there is one.
fn manager() -> Option<SocketAddr> {
    let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
    let address = address(&name);
    let complain = |error: &io::Error| {
        tracing::warn!(?name, %error, "NOTIFY_SOCKET is no address: the service manager is told nothing");
    };
    address.inspect_err(complain).ok()
}

/// A path, or after an `@` the name of a socket without one (`unix(7)`, abstract).
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

/// Never waits. The socket is untagged, but the only one who sweeps is who has it here; if this process dies
/// with it, its successor sweeps it.
fn send(to: &SocketAddr, message: &str, fds: &[Fd]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(to)?;
    rights::send(Fd::from_raw(socket.as_raw_fd()), message.as_bytes(), fds)
}

impl Supervisor {
    /// Tells the service manager what is new.
    pub(super) fn notify(&mut self, now: u64) {
        let end = match (self.drain.is_stopping() || self.drain.is_now(), self.drain.is_draining()) {
            (true, _) => End::Stopping,
            (false, true) => End::Draining,
            (false, false) => End::No,
        };
        self.notify_end(now, end);
    }

    /// The same when it ends, for whatever reason.
    pub(super) fn notify_stopping(&mut self, now: u64) {
        self.notify_end(now, End::Stopping);
    }

    fn notify_end(&mut self, now: u64, end: End) {
        let states = [PRIMARY, STANDBY].map(|seat| self.plan.state(seat));
        let is_reloading = self.handover.is_under_way();
        self.notify.tell(now, Situation { in_use: self.plan.in_use(), states, is_reloading, end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_a_path_or_a_name() {
        let path = address(OsStr::new("/run/systemd/notify")).unwrap();
        assert_eq!(path.as_pathname(), Some("/run/systemd/notify".as_ref()));
        let name = address(OsStr::new("@manager")).unwrap();
        assert_eq!(name.as_abstract_name(), Some("manager".as_bytes()));
        assert!(address(OsStr::new(&"x".repeat(200))).is_err());
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let to = SocketAddr::from_pathname(&path).unwrap();
        let error = (0..10_000).find_map(|_| send(&to, "STATUS=full\n", &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
