//! What a pool gives up before it makes threads, in this order.

use std::io;

use crate::sys::credentials::{self, User};

/// Root's pools become `user`, without groups and capabilities; nobody gains rights by exec.
///
/// # Errors
/// The kernel refuses; the pool must not run then.
pub fn confine(user: Option<&User>) -> io::Result<()> {
    if let Some(user) = user {
        credentials::become_user(user)?;
    }
    credentials::no_new_privileges()
}
