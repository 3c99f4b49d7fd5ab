//! The access log's file: opened by the supervisor, which may, for control, which may not.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    config::{Config, STANDARD_OUTPUT, rules::AccessLog},
    notices::Notice,
    sys::{Fd, fd, time},
    table::{Ending, Kind, LogRing, Record, State, Table, mark},
};

use super::Supervisor;

/// How long what is to be cut waits for control to read anything of a full ring: it may be hung, or nobody reads the
/// pipe that it writes to.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waiting for room in the ring.
#[derive(Debug, Default)]
pub struct Room {
    entries_read: u64,
    since: u64,
}

impl Room {
    /// Whether it is worth waiting for.
    fn is_hoped_for(&mut self, ring: LogRing, now: u64) -> bool {
        let entries_read = ring.entries_read();
        if ring.has_room() || entries_read != self.entries_read {
            *self = Self { entries_read, since: now };
        }
        now.saturating_sub(self.since) < super::nanos(PATIENCE)
    }
}

/// Opens it, if there is to be one.
///
/// # Errors
/// Its place is not writable, or it is a pipe that nobody reads.
pub fn open(config: &Config) -> Result<Option<Fd>> {
    match &config.access_log {
        None => Ok(None),
        Some(settings) if is_standard_output(settings) => Ok(Some(Fd::from_raw(libc::STDOUT_FILENO))),
        Some(settings) => open_file(&settings.path).map(|file| Some(Fd::keep(file))),
    }
}

fn is_standard_output(settings: &AccessLog) -> bool {
    settings.path.as_os_str() == STANDARD_OUTPUT
}

fn open_file(path: &Path) -> Result<File> {
    // A named pipe without a reader is an error then, and nothing to wait for. A link may have been put there by
    // whoever may write to the directory, and this process may open everything.
    let (mode, flags) = (0o640, libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
    let opened = OpenOptions::new().append(true).create(true).mode(mode).custom_flags(flags).open(path);
    opened.with_context(|| {
        let remedy = "make its directory, or choose another path (and no symbolic link) in [access_log]";
        format!("cannot open the access log {}; {remedy}", path.display())
    })
}

impl Supervisor {
    /// Opens the file anew, for somebody has moved the old one away. If that fails the old one goes on.
    pub(super) fn reopen_access_log(&self) {
        match &self.setup.config.access_log {
            None => tracing::info!("there is no access log to open anew"),
            Some(settings) if is_standard_output(settings) => {
                tracing::info!("the access log is standard output, which cannot be opened anew");
            }
            Some(settings) if self.open_access_log() => {
                tracing::info!(path = %settings.path.display(), "access log opened anew");
            }
            Some(_) => {}
        }
    }

    /// Opens the file that is there now, if there is to be one: a successor has opened it when it began, and since
    /// then the supervisor before may have been told that the old one was moved away. Answers whether it did.
    pub(super) fn open_access_log(&self) -> bool {
        let setup = &self.setup;
        let (Some(settings), Some(number)) = (&setup.config.access_log, setup.access_log) else {
            return false;
        };
        if is_standard_output(settings) {
            return false;
        }
        let opened = open_file(&settings.path).and_then(|file| {
            let file = Fd::keep(file);
            // For a control process that is started later.
            fd::replace(number, file);
            Notice::Reopened(File::from(file.into_owned())).send(setup.notices.0)?;
            Ok(())
        });
        opened.inspect_err(|error| tracing::error!("the access log was not opened anew: {error:#}")).is_ok()
    }

    /// Tells control to write what is left, and to end. Answers whether it will.
    pub(super) fn finish_access_log(&self) -> bool {
        let setup = &self.setup;
        let is_there = setup.access_log.is_some() && self.control.child().is_some();
        is_there && Notice::Leave.send(setup.notices.0).is_ok()
    }
}

impl Supervisor {
    /// Tells the access log of what is about to be cut, for its pool (which had this epoch) is dead. Answers whether
    /// that is done: if there is no room in the ring, the rest is for a later turn, in which control has made some, but
    /// not for ever.
    pub(super) fn has_told(&mut self, epoch: u32, why: Ending) -> bool {
        let ring = self.setup.table.supervisors_log_ring();
        let may_wait = self.log_room.is_hoped_for(ring, time::monotonic_ns());
        self.has_told_or_dropped(epoch, why, may_wait)
    }

    /// The same; what there is no room for is dropped if it may not wait.
    pub(super) fn has_told_or_dropped(&self, epoch: u32, why: Ending, may_wait: bool) -> bool {
        tell_cut(&self.setup.table, self.setup.config, (epoch, why), may_wait)
    }
}

/// Tells of the flows of an epoch that nobody has told of, each once. Answers whether that was all of them: if it may
/// wait, it is over when the ring is full; else what there is no room for is dropped, and counted.
fn tell_cut(table: &Table, config: &Config, (epoch, why): (u32, Ending), may_wait: bool) -> bool {
    if config.access_log.is_none() {
        return true;
    }
    table.note_told(epoch);
    let (ring, counters) = (table.supervisors_log_ring(), &table.supervisor().log);
    for (number, cell) in (0..).zip(table.tags()) {
        let (fd, tag) = (Fd::from_raw(number), cell.get());
        if tag.epoch != epoch || !matches!(tag.kind, Kind::Client | Kind::UdpFlow) {
            continue;
        }
        let untold = |record: &&Record| record.state() != State::Free && !record.is_marked(mark::LOGGED);
        let untold = table.record(fd).filter(untold);
        if let Some(record) = untold.filter(|record| config.logs(record.listener())) {
            if may_wait && !ring.has_room() {
                return false;
            }
            record.set_ending(record.ending().unwrap_or(why));
            table.log_end(ring, counters, fd, record);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use crate::table::{Dimensions, RING_ENTRIES, Tag};
    use clap::Parser as _;
    use std::path::PathBuf;

    #[test]
    fn what_cannot_be_opened_is_told_with_a_remedy() {
        let error = open_file(Path::new("/nonexistent/access.log")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot open the access log /nonexistent/access.log; make"));
        let is_standard =
            |path: &str| is_standard_output(&AccessLog { path: PathBuf::from(path), is_json: true });
        assert!(is_standard("-") && !is_standard("./-"));
    }

    const FLOWS: usize = 2 * RING_ENTRIES + 100;

    /// A table with so many connections of a dead pool, which had epoch 7, and settings with an access log.
    fn many() -> (Table, Config) {
        let words = ["proxy", "run", "--user", "root", "-l", "tcp://127.0.0.1:1", "-u", "127.0.0.1:2"];
        let Verb::Run(args) = Cli::parse_from(words).verb else { panic!("run is run") };
        let mut config = Config::from_args(&args).unwrap();
        config.access_log = Some(AccessLog { path: "/tmp/log".into(), is_json: true });
        let dimensions = Dimensions { descriptors: FLOWS, servers: config.slots(), ..Dimensions::SMALL };
        let table = Table::create(dimensions).unwrap().1;
        for number in 0..FLOWS {
            let fd = Fd::from_raw(number as i32);
            table.record(fd).unwrap().begin(State::Established, 0, 0, 0);
            table.tag(fd).unwrap().set(Tag::new(Kind::Client, 7));
        }
        (table, config)
    }

    fn read_all(table: &Table) -> usize {
        let ring = table.supervisors_log_ring();
        let entries = ring.unread(RING_ENTRIES);
        assert!(entries.iter().all(|entry| entry.ending() == Some(Ending::Stopped)));
        ring.advance(entries.len());
        entries.len()
    }

    #[test]
    fn more_than_the_ring_holds_is_told_in_portions_each_once() {
        let (table, config) = many();
        let tell = |epoch| tell_cut(&table, &config, (epoch, Ending::Stopped), true);
        let mut read = Vec::new();
        while !tell(7) {
            assert!(!tell(7), "nobody has made room");
            assert!(tell(8), "nothing is another pool's");
            read.push(read_all(&table));
        }
        read.push(read_all(&table));
        assert_eq!(read, [RING_ENTRIES, RING_ENTRIES, 100]);
        assert!(tell(7) && read_all(&table) == 0);
        assert_eq!(table.supervisor().log.dropped.get(), 0);
    }

    #[test]
    fn room_is_hoped_for_as_long_as_somebody_makes_some() {
        let (table, config) = many();
        let (ring, mut room) = (table.supervisors_log_ring(), Room::default());
        let seconds = |count: u64| count * 1_000_000_000;
        assert!(room.is_hoped_for(ring, seconds(100)));
        assert!(!tell_cut(&table, &config, (7, Ending::Stopped), true));
        assert!(room.is_hoped_for(ring, seconds(101)));
        assert!(
            tell_cut(&table, &config, (8, Ending::Stopped), true),
            "another one, which has nothing to tell"
        );
        assert!(!room.is_hoped_for(ring, seconds(102)));
        read_all(&table);
        assert!(!tell_cut(&table, &config, (7, Ending::Stopped), true));
        assert!(room.is_hoped_for(ring, seconds(103)) && room.is_hoped_for(ring, seconds(104)));
        assert!(!room.is_hoped_for(ring, seconds(105)));
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped_in_the_end() {
        let (table, config) = many();
        assert!(tell_cut(&table, &config, (7, Ending::Stopped), false));
        assert_eq!(table.supervisor().log.dropped.get(), (FLOWS - RING_ENTRIES) as u64);
        assert_eq!(read_all(&table), RING_ENTRIES);
    }
}
