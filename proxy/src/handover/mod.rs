//! What an old supervisor and its successor say to each other. The successor is another process, of another
//! version perhaps, with a flow table of its own, so nothing here is the layout of a table: the **offer** tells
//! what there is, before anything stands still; the **flows** are images of records, with their descriptors.
//!
//! ```text
//! old                                   successor
//! starts it          ── offer ──>       checks its settings, loads the kernel program, starts its pools
//!                    <── ready ──       (or: refused, and why)
//! parks its workers  ── flows ──>       makes records of them, its workers claim them
//!                    <── taken ──       after it has decided so in the old one's flow table
//! ends
//! ```
//!
//! Until it is taken, the old one can go on at any moment, whatever has become of the successor.

pub mod flows;
pub mod line;
pub mod offer;

/// Version of all that is said. It changes when an older successor, or an older supervisor, would get
/// something wrong; what can be left out (a default) changes nothing.
pub const FORMAT: u32 = 1;
