//! Listeners at unix sockets. Such a socket is in no reuseport group and cannot be steered, so there is one, which
//! all workers share: whose turn it is they find out by the same policy (relay/tcp/shared.rs). What refuses new
//! connections is that its path is gone.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    check::{Level, place},
    config::Listener,
    sys::{Fd, fd, unix},
};

/// Everybody may connect who may look into the directory.
const MODE: u32 = 0o666;

/// A path that this proxy listens at.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The listener's number.
    pub listener: u32,
    path: &'static Path,
    /// Device and inode of the socket's file: what is at the path later may be another's.
    file: (u64, u64),
}

impl Place {
    /// Of a socket that is bound there.
    ///
    /// # Errors
    /// Nothing is there any more.
    pub fn of(listener: u32, path: &'static Path) -> io::Result<Self> {
        Ok(Self { listener, path, file: file(path)? })
    }

    /// Removes the path: nobody can connect any more, and what waits can still be accepted. To do it again is
    /// harmless.
    pub fn remove(&self) {
        if file(self.path).is_ok_and(|there| there == self.file)
            && let Err(error) = fs::remove_file(self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a unix socket stays where it is");
        }
    }
}

fn file(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()))
}

/// Makes a listener's socket, at which nobody listens yet. One that a dead process has left is replaced.
///
/// # Errors
/// Somebody else listens there, or the place is not writable, or no socket's.
pub fn bind(listener: &Listener, path: &Path) -> Result<Fd> {
    let place = place::listener(format!("listener {}: {}", listener.name, listener.address), path);
    if place.level == Level::Fail {
        bail!("{place}");
    }
    let what = || format!("cannot listen on {}", listener.address);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(what)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(what),
        _ => {}
    }
    let socket = unix::listener().with_context(what)?;
    unix::bind(socket, path, MODE).inspect_err(|_| fd::close(socket)).with_context(what)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::ListenAddress,
        sys::{listener, socket},
    };

    #[test]
    fn a_path_is_taken_shared_with_nobody_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let path: &'static Path = Box::leak(directory.path().join("to/be/made").into_boxed_path());
        let settings = Listener {
            name: "app".into(),
            address: ListenAddress::unix(path),
            upstream: 0,
            group: 0,
            v6_only: false,
            rules: Default::default(),
            is_retired: false,
        };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        let socket = bind(&settings, path).unwrap();
        assert!(unix::connect(unix::stream().unwrap(), path).is_err(), "not yet");
        listener::listen(socket, 1).unwrap();
        unix::connect(unix::stream().unwrap(), path).unwrap();
        let taken = format!("{:#}", bind(&settings, path).unwrap_err());
        assert!(taken.contains(&format!("unix://{}", path.display())) && taken.contains("another process"));

        let place = Place::of(0, path).unwrap();
        place.remove();
        place.remove();
        assert!(socket::accept(socket).is_ok(), "what waited is still there");
        let _other = std::os::unix::net::UnixListener::bind(path).unwrap();
        place.remove();
        assert!(path.exists(), "another's is let be");
    }
}
