//! The control socket's place in the file system, held by one supervisor at a time.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    check::{Level, place},
    sys::Fd,
};

/// The bound socket; dropping it removes the file.
pub struct ControlSocket {
    /// The listening socket.
    pub socket: Fd,
    /// What is locked for as long as the shared descriptor table lives, in whichever process.
    pub lock: Fd,
    path: PathBuf,
    /// The file is this supervisor's to remove.
    is_owned: bool,
}

impl ControlSocket {
    /// Binds the socket, readable and writable by its owner only.
    ///
    /// # Errors
    /// Another proxy holds it, or the place is not writable.
    pub fn bind(path: &Path) -> Result<Self> {
        // What is there and is no socket belongs to somebody, and is not ours to replace.
        let place = place::control_socket(path);
        if place.level == Level::Fail {
            bail!("{place}");
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}; choose another --control", directory.display()))?;
        }
        let lock = lock(path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        let place = || format!("cannot make the control socket {}; choose another --control", path.display());
        let listener = UnixListener::bind(path).with_context(place)?;
        listener.set_nonblocking(true).with_context(place)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(place)?;
        Ok(Self { socket: Fd::keep(listener), lock: Fd::keep(lock), path: path.to_owned(), is_owned: true })
    }
}

impl ControlSocket {
    /// Another supervisor's, which goes on if this one does not take over.
    pub fn inherit(path: &Path, [socket, lock]: [Fd; 2]) -> Self {
        Self { socket, lock, path: path.to_owned(), is_owned: false }
    }

    /// Makes the file this supervisor's to remove, or another one's.
    pub fn own(&mut self, is_owned: bool) {
        self.is_owned = is_owned;
    }

    /// Removes the file.
    pub fn remove(&self) {
        if self.is_owned {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock =
        File::options().create(true).truncate(false).write(true).open(&lock_path).with_context(|| {
            format!("cannot write {}; choose another --control", Path::new(&lock_path).display())
        })?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another proxy is running with the control socket {0}; stop it (proxy stop --control {0}) or give \
             this one its own --control",
            path.display()
        ),
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", Path::new(&lock_path).display()))
        }
    }
}
