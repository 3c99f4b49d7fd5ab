//! An L4 hot-standby proxy. `ARCHITECTURE.md` says how the parts fit.
pub mod steering;
pub mod sys;
