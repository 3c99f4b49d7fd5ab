//! What a pool gives up before it makes threads, in this order.

use std::io;

use crate::sys::credentials::{self, Capability, User};

/// Root's pools become `user`, without groups. Nobody keeps a capability but those that are `kept` (an ordinary user
/// may have been granted some to load the kernel program) or gains rights by exec.
///
/// # Errors
/// The kernel refuses; the pool must not run then.
pub fn confine(user: Option<&User>, kept: &[Capability]) -> io::Result<()> {
    if let Some(user) = user {
        credentials::become_user(user)?;
    }
    credentials::keep_only(kept)?;
    credentials::no_new_privileges()
}
