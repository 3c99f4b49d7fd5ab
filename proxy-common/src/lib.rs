//! What the kernel program and user space share: map names and layouts ([`abi`]), the index
//! arithmetic of the socket array ([`slot`]), the liveness bits and leases ([`lease`]), and the
//! steering policy ([`steer`]). Nothing here allocates, does I/O, or reads a clock.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod abi;
pub mod lease;
pub mod slot;
pub mod steer;
