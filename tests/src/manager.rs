//! A service manager, as the proxy sees systemd: it is told how things are, and keeps sockets.

use std::collections::BTreeMap;
use std::fs;
use std::io::Result;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proxy::sys::{Fd, rights};
use tempfile::TempDir;

use crate::builder::Builder;
use crate::proxy::Proxy;
use crate::wait::{until, until_true};

/// Where the proxy listens.
pub const LISTEN: &str = "127.0.0.1:8080";
/// Where its server is.
pub const SERVER: &str = "127.0.0.1:9001";
/// The manager's patience; a sign of life is due at half of it.
pub const WATCHDOG: Duration = Duration::from_millis(400);

/// What systemd would be: a socket that takes messages, and keeps descriptors. It reads until the test ends.
pub struct Manager {
    messages: Arc<Mutex<Vec<String>>>,
    store: Arc<Mutex<Store>>,
    /// Where its socket is.
    pub directory: TempDir,
}

/// Sockets, with their names.
#[derive(Default)]
struct Store(Vec<(String, OwnedFd)>);

impl Store {
    /// What systemd does with a message.
    fn obey(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let value = |key| message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTOREREMOVE") == Some("1") {
            self.0.retain(|(kept, _)| kept != name);
        }
        if value("FDSTORE") != Some("1") {
            return;
        }
        // As socket:[NUMBER].
        let number =
            |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("readlink");
        for fd in descriptors {
            if !self.0.iter().any(|(_, kept)| number(kept) == number(&fd)) {
                self.0.push((name.to_owned(), fd));
            }
        }
    }
}

/// A message, and what came with it.
fn receive(socket: &UnixDatagram) -> Result<(String, Vec<OwnedFd>)> {
    let (mut buffer, mut descriptors) = ([0; 4096], Vec::new());
    let length = rights::receive(Fd::from_raw(socket.as_raw_fd()), &mut buffer, &mut descriptors)?;
    let descriptors = descriptors.into_iter().map(Fd::into_owned).collect();
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptors))
}

impl Manager {
    /// It listens from now on.
    #[track_caller]
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bind");
        let (messages, store) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Store::default())));
        let (to, keep) = (Arc::clone(&messages), Arc::clone(&store));
        thread::spawn(move || {
            while let Ok((message, descriptors)) = receive(&socket) {
                keep.lock().expect("lock").obey(&message, descriptors);
                to.lock().expect("lock").push(message);
            }
        });
        Self { messages, store, directory }
    }

    /// A proxy that tells it everything, with a listener.
    pub fn proxy(&self) -> Builder {
        self.bare().listen("tcp://127.0.0.1:8080").upstream(SERVER).flag("--workers", "2")
    }

    /// The same without.
    pub fn bare(&self) -> Builder {
        let socket: PathBuf = self.directory.path().join("notify");
        let builder = Proxy::builder().flag("--failback-after", "never");
        let builder = builder.env("NOTIFY_SOCKET", socket.to_str().expect("text"));
        let builder = builder.env("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
        // As systemd does: both are for this process alone.
        builder.through(&["sh", "-c", r#"WATCHDOG_PID=$$ LISTEN_PID=$$ exec "$@""#, "sh"])
    }

    /// Gives it what is stored, as at a restart.
    pub fn restart(&self, builder: Builder) -> Builder {
        let store = self.store.lock().expect("lock");
        let names: Vec<&str> = store.0.iter().map(|(name, _)| name.as_str()).collect();
        let builder =
            builder.env("LISTEN_FDS", &names.len().to_string()).env("LISTEN_FDNAMES", &names.join(":"));
        builder.give(store.0.iter().map(|(_, fd)| fd.try_clone().expect("copy")).collect())
    }

    /// Stores a socket that the proxy has not sent.
    pub fn store(&self, name: &str, socket: OwnedFd) {
        self.store.lock().expect("lock").0.push((name.to_owned(), socket));
    }

    /// How many sockets are stored, by name.
    pub fn stored(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in &self.store.lock().expect("lock").0 {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }

    /// Waits until so many are, by name.
    #[track_caller]
    pub fn until_stored(&self, what: &[(&str, usize)]) {
        let what: BTreeMap<String, usize> =
            what.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        until_true(&format!("{what:?} are stored, now: {:?}", self.stored()), || self.stored() == what);
    }

    /// All messages so far.
    pub fn all(&self) -> Vec<String> {
        self.messages.lock().expect("lock").clone()
    }

    /// How many messages have this line.
    pub fn count(&self, line: &str) -> usize {
        self.all().iter().filter(|message| message.lines().any(|l| l == line)).count()
    }

    /// Waits for the next message with such a line, after the first `from` ones, and answers its place.
    #[track_caller]
    pub fn wait(&self, from: usize, start: &str) -> usize {
        let has = |message: &String| message.lines().any(|line| line.starts_with(start));
        let next = || self.all().iter().skip(from).position(has);
        from + until(&format!("the manager is told {start}"), next)
    }
}
