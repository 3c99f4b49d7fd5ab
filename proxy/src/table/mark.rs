//! Marks of a record: what is known of a flow beside its flags ([`super::flag`]), and is not handed over with them.

use super::Direction;

/// The access log was told of its end.
pub const LOGGED: u8 = 1 << 0;
/// TCP, by [`Direction`]: bytes come in such amounts that they are spliced. A guess from what came last.
pub const BULK: [u8; Direction::BOTH.len()] = [1 << 1, 1 << 2];
/// TCP: more than bytes has come from the client before there was a server.
pub const EARLY_END: u8 = 1 << 3;
/// TCP: the server's socket asks a silent peer whether it is there.
pub const KEPT_ALIVE: u8 = 1 << 4;
/// TCP: the server's socket sends small writes at once.
pub const PROMPT: u8 = 1 << 5;
/// TCP, by [`Direction`]: no event may tell of bytes that come from the source. Never without
/// [`MORE`](super::flag::MORE), the reason for it.
pub const PAUSED: [u8; Direction::BOTH.len()] = [1 << 6, 1 << 7];
