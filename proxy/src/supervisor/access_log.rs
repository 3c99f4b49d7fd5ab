//! The access log's file: opened by the supervisor, which may, for control, which may not.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::{
    config::{Config, rules::AccessLog},
    notices::Notice,
    sys::{Fd, fd},
    table::{Ending, Kind, State, Table},
};

use super::Supervisor;

/// The path that stands for standard output.
const STANDARD_OUTPUT: &str = "-";

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

/// Tells the access log of flows that are tagged with a dead pool's epoch, and are about to be cut.
pub fn tell_cut(table: &Table, config: &Config, epoch: u32, why: Ending) {
    if config.access_log.is_none() {
        return;
    }
    let (ring, counters) = (table.supervisors_log_ring(), &table.supervisor().log);
    for (number, cell) in (0..).zip(table.tags()) {
        let (fd, tag) = (Fd::from_raw(number), cell.get());
        if tag.epoch != epoch || !matches!(tag.kind, Kind::Client | Kind::UdpFlow) {
            continue;
        }
        let open = table.record(fd).filter(|record| record.state() != State::Free);
        if let Some(record) = open.filter(|record| config.logs(record.listener())) {
            record.set_ending(record.ending().unwrap_or(why));
            table.log_end(ring, counters, fd, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn what_cannot_be_opened_is_told_with_a_remedy() {
        let error = open_file(Path::new("/nonexistent/access.log")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot open the access log /nonexistent/access.log; make"));
        let is_standard =
            |path: &str| is_standard_output(&AccessLog { path: PathBuf::from(path), is_json: true });
        assert!(is_standard("-") && !is_standard("./-"));
    }
}
