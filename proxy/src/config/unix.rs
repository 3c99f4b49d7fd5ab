//! Places of unix sockets, in settings of listeners and servers alike.

use std::{
    hash::Hasher as _,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use siphasher::sip::SipHasher24;

use crate::{
    settings::{ConfigError, Given},
    sys::address::MAX_PATH,
};

/// What a setting begins with that is about one.
pub const SCHEME: &str = "unix://";

/// The path, from what follows [`SCHEME`]: absolute, and one that the kernel takes.
pub fn path(given: &Given<String>, path: &str) -> Result<PathBuf, ConfigError> {
    let wrong = |problem: &str| Err(given.bad(problem, "it looks like unix:///run/app.sock"));
    match path {
        _ if !path.starts_with('/') || path.ends_with('/') => wrong("is no absolute path of a socket"),
        _ if path.contains('\0') => wrong("has a zero in its path"),
        _ if path.len() > MAX_PATH => wrong(&format!("has a path of more than {MAX_PATH} bytes")),
        _ => Ok(Path::new(path).into()),
    }
}

/// What stands for a unix socket where an address is wanted: one that nothing can have (RFC 6666, and port 0), the
/// same for the same path in every version: sockets and flows are handed over by it.
pub fn stand_in(path: &Path) -> SocketAddr {
    let mut hasher = SipHasher24::new();
    hasher.write(path.as_os_str().as_encoded_bytes());
    let discarded = 0x0100 << 112;
    (Ipv6Addr::from_bits(discarded | u128::from(hasher.finish())), 0).into()
}
