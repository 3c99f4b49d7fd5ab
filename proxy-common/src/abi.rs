//! Names and limits of the kernel program's maps. User space looks the maps up by these names.

/// Name of the `sk_reuseport` program.
pub const PROGRAM: &str = "steer";

/// `BPF_MAP_TYPE_REUSEPORT_SOCKARRAY`: every listening socket, indexed by [`crate::slot`].
pub const SOCKETS: &str = "SOCKETS";

/// `BPF_MAP_TYPE_HASH`: socket cookie (`u64`, `SO_COOKIE`) to listener number (`u32`). The kernel
/// hands the program one socket of the reuseport group; its cookie tells which listener it is.
pub const LISTENERS: &str = "LISTENERS";

/// `BPF_MAP_TYPE_ARRAY`, one entry of [`crate::lease::Liveness`], mapped into user space
/// (`BPF_F_MMAPABLE`) so that a heartbeat is a plain store.
pub const LIVENESS: &str = "LIVENESS";

/// `BPF_MAP_TYPE_ARRAY` of `u32` by listener number, kept by the program: the seat chosen last,
/// with [`LAST_FAIL_OPEN`] set if that was for want of a live one.
pub const LAST: &str = "LAST";

/// See [`LAST`].
pub const LAST_FAIL_OPEN: u32 = 2;

/// `BPF_MAP_TYPE_PERCPU_ARRAY` of `u64`: verdicts, indexed by [`crate::slot::verdict_index`]. After
/// the listeners comes one row more, for packets to a socket that is not in [`LISTENERS`].
pub const VERDICTS: &str = "VERDICTS";

/// Constant of the program, a `u32` that the loader sets: the number of workers in each pool that
/// the slots of [`SOCKETS`] are laid out for.
pub const WORKER_COUNT: &str = "WORKER_COUNT";

/// Constant of the program, a `u32` that the loader sets: the number of listeners, which is also
/// the row of [`VERDICTS`] for sockets that belong to none.
pub const LISTENER_COUNT: &str = "LISTENER_COUNT";

/// Listeners that the maps hold as compiled; the loader shrinks or grows the maps to what it needs.
pub const DEFAULT_MAX_LISTENERS: u32 = 1024;
