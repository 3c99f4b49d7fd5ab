//! Rights to paths.

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path};

/// Whether this process may write to a path (make files, for a directory): eaccess(3).
pub fn may_write(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: `path` is a C string that lives for the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}
