//! What the end-to-end tests share: a network namespace for each test ([`net`]), what to start the
//! proxy with ([`builder`]), the running [`proxy`] with its [`status`] and [`metrics`], a [`faulty`] one that dies
//! where a test wants it to, its [`settings`] file, its flow [`table`] to spoil, upstream [`servers`], a name server
//! ([`dns`]), [`clients`], verified [`traffic`]
//! and [`flows`], bytes [`in_flight`], processor time withheld ([`cgroup`]), deaths of pools ([`takeover`]), upgrades and reloads
//! ([`handover`]), a seeded [`storm`] of faults, the measurement of the [`gap`] of a takeover, Debian's
//! [`programs`], [`reloads`] again and again, and waiting for a condition with a deadline ([`wait`]). System calls
//! that have no safe wrapper elsewhere are in [`sys`].
//!
//! Everything here panics with a message when something goes wrong: it is all tests.

pub mod access_log;
pub mod builder;
pub mod cgroup;
pub mod clients;
pub mod dns;
pub mod faulty;
pub mod flows;
pub mod gap;
pub mod handover;
pub mod in_flight;
pub mod manager;
pub mod metrics;
pub mod net;
pub mod pattern;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod reloads;
pub mod servers;
pub mod settings;
pub mod status;
pub mod storm;
pub mod sys;
pub mod table;
pub mod takeover;
pub mod traffic;
pub mod unix;
pub mod wait;

/// The seat that is tried first.
pub const PRIMARY: &str = "primary";
/// The seat that is tried next.
pub const STANDBY: &str = "standby";
