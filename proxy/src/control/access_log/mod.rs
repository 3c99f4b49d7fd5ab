//! The access log: a thread that reads the rings of the flow table and writes the lines. A disk that is full or a
//! pipe that nobody reads stops this thread at most; then the rings fill, and their writers drop and count.

mod line;
mod output;

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    config::{Config, rules::AccessLog},
    slots,
    sys::time,
    table::{LogEntry, LogRing, RING_ENTRIES, Table},
};
use line::{Line, Names, Now};
use output::Output;

/// How often it is looked for entries: a ring has room for 160,000 a second.
const LOOK: Duration = Duration::from_millis(25);
/// Entries that are written at once.
const BATCH: usize = 256;
/// Time that the last lines have.
const LAST_LINES: Duration = Duration::from_millis(400);

/// The thread that writes.
pub struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Where lines go from now on.
    next: Mutex<Option<File>>,
    /// What is in the rings is all that is to come.
    is_ending: AtomicBool,
}

impl Shared {
    fn next(&self) -> MutexGuard<'_, Option<File>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what cannot be written now may wait.
    fn has_time(&self) -> bool {
        !self.is_ending.load(Relaxed) && self.next().is_none()
    }
}

impl Writer {
    /// Begins to write to a file.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn start(file: File, settings: AccessLog, config: Arc<Config>, table: Table) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let job = Job { output: Output::new(file), settings, config, table, shared: shared.clone() };
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || job.run())?;
        Ok(Self { shared, thread })
    }

    /// Writes to another file from now on.
    pub fn replace(&self, file: File) {
        *self.shared.next() = Some(file);
    }

    /// Writes what is in the rings, as far as there is time.
    pub fn finish(self) {
        let began = Instant::now();
        self.shared.is_ending.store(true, Relaxed);
        self.thread.thread().unpark();
        while !self.thread.is_finished() && began.elapsed() < LAST_LINES {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What the thread has.
struct Job {
    output: Output<File>,
    settings: AccessLog,
    config: Arc<Config>,
    table: Table,
    shared: Arc<Shared>,
}

impl Job {
    fn run(mut self) {
        loop {
            let is_ending = self.shared.is_ending.load(Relaxed);
            // At once, were there nothing to write: what is moved away and removed is on the disk until then.
            if let Some(file) = self.shared.next().take() {
                self.output.replace(file);
            }
            let table = self.table;
            let is_any_full = table.log_rings().filter(|ring| self.empty(*ring)).count() > 0;
            if is_ending {
                return;
            }
            // Who has filled a ring while it was emptied may have more, and may wait for room.
            if !is_any_full {
                thread::park_timeout(LOOK);
            }
        }
    }

    /// Writes what is in a ring; a ring's length at most, so that none waits for one that is never empty. Answers
    /// whether it was so much.
    fn empty(&mut self, ring: LogRing) -> bool {
        let mut left = RING_ENTRIES;
        while left > 0 {
            let entries = ring.unread(BATCH.min(left));
            if entries.is_empty() {
                return false;
            }
            let now = Now { time: SystemTime::now(), ms: time::monotonic_ms() as u32 };
            let lines: String = entries.iter().map(|entry| self.line(entry, now)).collect();
            let shared = &self.shared;
            let failed = self.output.put(lines.as_bytes(), || shared.has_time());
            self.table.supervisor().log_failed.add(failed);
            // Last: who dies before this has the next one write them again, rather than nobody.
            ring.advance(entries.len());
            left -= entries.len();
        }
        true
    }

    fn line(&self, entry: &LogEntry, now: Now) -> String {
        let line = Line::of(entry, names(&self.config, &self.table, entry), now);
        if self.settings.is_json { line.json() } else { line.text() }
    }
}

/// What the numbers stand for now. A server that is gone meanwhile has no name any more.
fn names(config: &Config, table: &Table, entry: &LogEntry) -> Names {
    let listener = config.listeners.get(usize::from(entry.listener));
    let slot = entry.server().and_then(|number| slots::at(config, table, number));
    let of_listener = config.upstream_of(entry.listener.into()).map(|(_, upstream)| upstream);
    let upstream = slot.as_ref().map(|slot| slot.upstream).or(of_listener);
    Names {
        listener: listener.map_or_else(String::new, |listener| listener.name.clone()),
        address: listener.map_or_else(String::new, |listener| listener.address.to_string()),
        upstream: upstream.map(|upstream| upstream.name.clone()),
        server: slot.map(|slot| slot.name()),
    }
}
