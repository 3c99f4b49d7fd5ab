//! What a pool gives up before it makes threads, in this order.

use std::io;

use crate::sys::credentials::{self, User};

/// Root's pools become `user`, without groups. Nobody keeps a capability (an ordinary user may have
/// been granted some to load the kernel program) or gains rights by exec.
///
/// # Errors
/// The kernel refuses; the pool must not run then.
pub fn confine(user: Option<&User>) -> io::Result<()> {
    if let Some(user) = user {
        credentials::become_user(user)?;
    }
    credentials::drop_capabilities()?;
    credentials::no_new_privileges()
}
