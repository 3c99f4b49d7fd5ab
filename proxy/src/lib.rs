//! An L4 hot-standby proxy. `ARCHITECTURE.md` says how the parts fit.
pub mod check;
pub mod cli;
pub mod client;
pub mod completions;
pub mod config;
pub mod control;
mod fault;
pub mod handover;
pub mod limits;
pub mod log;
pub mod orders;
pub mod pool;
pub mod procfs;
pub mod relay;
pub mod steering;
pub mod supervisor;
pub mod sys;
pub mod table;
