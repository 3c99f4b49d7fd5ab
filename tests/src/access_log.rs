//! A proxy's access log, in JSON, and all files that it was ever in.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use tempfile::TempDir;

use crate::wait::until;

/// A line of it, as far as tests ask.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// When it began.
    pub start: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The listener's name.
    pub listener: String,
    /// The client.
    pub client: Option<SocketAddr>,
    /// The upstream's name.
    pub upstream: Option<String>,
    /// The server's name.
    pub server: Option<String>,
    /// Bytes to the server.
    pub bytes_up: u64,
    /// Bytes to the client.
    pub bytes_down: u64,
    /// From beginning to end.
    pub duration_ms: u64,
    /// Time to connect.
    pub connect_ms: Option<u64>,
    /// Time to the first byte from the server.
    pub first_byte_ms: Option<u64>,
    /// Why it ended.
    pub reason: String,
    /// Takeovers survived.
    pub takeovers: u64,
}

/// The log.
pub struct AccessLog {
    /// Where its files are, of which the newest is `access.log`.
    pub directory: TempDir,
}

impl AccessLog {
    /// An empty one.
    #[track_caller]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("temporary directory") }
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// What a settings file says of it.
    pub fn settings(&self) -> String {
        format!("[access_log]\npath = {:?}\nformat = \"json\"\n", self.path())
    }

    /// All whole lines, in no order.
    #[track_caller]
    pub fn lines(&self) -> Vec<Line> {
        let entries = fs::read_dir(self.directory.path()).expect("list").map(|entry| entry.expect("entry"));
        let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("access.log"));
        let texts = logs.map(|log| fs::read_to_string(log.path()).expect("read the log"));
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        texts
            .flat_map(|text| {
                text.split_inclusive('\n').filter(|l| l.ends_with('\n')).map(parse).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The lines, as soon as there are so many.
    #[track_caller]
    pub fn until_lines(&self, count: usize) -> Vec<Line> {
        until(&format!("{count} lines are written"), || {
            Some(self.lines()).filter(|lines| lines.len() >= count)
        })
    }

    /// The line of this client, once there is one.
    #[track_caller]
    pub fn line_of(&self, client: SocketAddr) -> Line {
        until("its line is written", || self.lines().into_iter().find(|line| line.client == Some(client)))
    }

    /// No connection is in it twice.
    #[track_caller]
    pub fn assert_once(&self) {
        let mut seen: BTreeMap<(Option<SocketAddr>, String), Line> = BTreeMap::new();
        for line in self.lines() {
            let key = (line.client, line.start.clone());
            if let Some(other) = seen.insert(key, line.clone()) {
                panic!("told twice: {other:?} and {line:?}");
            }
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}
