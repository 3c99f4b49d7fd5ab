//! What one run has come to: what the load generator measures, in JSON from process to process.

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sample {
    /// Of a case that counts work.
    Work(Work),
    /// Of a case in which something is killed.
    Kill(Kill),
}

impl Sample {
    /// What other work on the machine had of a processor meanwhile, 1 being all of one; 0 if that is not known.
    pub fn noise(&self) -> f64 {
        match self {
            Self::Work(work) => work.cpu.other / work.seconds,
            Self::Kill(_) => 0.0,
        }
    }
}

/// Work that was done in a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// How long the while was.
    pub seconds: f64,
    /// Bytes, connections, requests or echoes: see [`crate::cases::Case`].
    pub units: u64,
    /// Connections and requests that failed, datagrams that were lost.
    pub failed: u64,
    /// What half of the requests did not exceed, microseconds; 0 if no latency is measured.
    pub p50_us: f64,
    /// The same of 99 in 100.
    pub p99_us: f64,
    /// Whose processor time it took.
    pub cpu: Shares,
}

/// Processor time, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// Of all processes of the target.
    pub target: f64,
    /// Of the load generator.
    pub load: f64,
    /// Of the server.
    pub server: f64,
    /// Of everything else on the machine: noise.
    pub other: f64,
}

/// What came of killing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kill {
    /// New connections that were tried.
    pub attempts: u64,
    /// Those of them that failed, or had no answer within a second.
    pub failed: u64,
    /// Streams that were open.
    pub streams: u64,
    /// Those of them that were reset, ended, spoilt, or silent for a second.
    pub lost: u64,
    /// The longest time in which no new connection was answered, milliseconds.
    pub gap_ms: f64,
    /// The longest time without an answer in a stream that was not lost, milliseconds; 0 if there is none.
    pub stall_ms: f64,
}
