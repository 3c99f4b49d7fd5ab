//! Flags of a record. The ones named per direction are for [`Direction::Up`]; shift left by one
//! for [`Direction::Down`] (or use [`of`]).

use super::Direction;

/// The source has ended and the end was passed on, or is about to be: stored BEFORE the shutdown.
pub const SHUT: u32 = 1 << 0;
/// A turn's budget ended with bytes left to move.
pub const MORE: u32 = 1 << 2;
/// We reset the flow ourselves, or are about to.
pub const RESET: u32 = 1 << 4;
/// The flow was adopted: a dead worker may have taken the error off one of its sockets.
pub const ADOPTED: u32 = 1 << 5;
/// The flow was adopted and its stream positions were not compared yet.
pub const UNAUDITED: u32 = 1 << 6;
/// UDP: its server takes no datagrams, or it has had its last answer. Set by whoever has seen it; the owner
/// ends the flow. Beside [`WENT_ON`] the only flag of a UDP flow that changes, so that several may set them.
pub const FAILED: u32 = 1 << 7;
/// TCP: it waits for a server. (Where a UDP flow has [`FAILED`].)
pub const QUEUED: u32 = 1 << 7;
/// It is a UDP flow, whatever its tag says.
pub const UDP: u32 = 1 << 8;
/// TCP: the client was let in, and is counted for its source.
pub const ADMITTED: u32 = 1 << 9;
/// TCP: the client has to begin with a PROXY header, which was not taken off its stream yet.
pub const HEADER_DUE: u32 = 1 << 10;
/// A PROXY header told of the flow, and what is in its [`super::ToldCell`].
pub const TOLD: u32 = 1 << 11;
/// TCP: its upstream is chosen by what it begins with, which has not come yet.
pub const HELLO_DUE: u32 = 1 << 14;
/// UDP: the client has sent more after an answer, so this is no mere question; or what has gone by it is not known. (Where
/// a TCP connection has [`HELLO_DUE`].)
pub const WENT_ON: u32 = 1 << 14;
/// The source is a unix socket.
pub const UNIX: u32 = 1 << 12;
/// TCP: its upstream was chosen by what it began with: the number is in the high half.
pub const ROUTED: u32 = 1 << 15;
/// The low half.
pub(super) const LOW: u32 = (1 << HIGH_SHIFT) - 1;
/// The high half: the number of the upstream.
pub(super) const HIGH_SHIFT: u32 = 16;

/// A per-direction flag.
pub const fn of(flag: u32, direction: Direction) -> u32 {
    flag << direction as u32
}
