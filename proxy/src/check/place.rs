//! The place of the control socket.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, net::UnixStream},
    path::Path,
};

use super::Finding;
use crate::sys::access;

/// Longest path of a local socket, bytes (unix(7)): 108 with the zero at its end.
const MAX_PATH: usize = 107;

const ELSEWHERE: &str = "give another path with --control";

/// Whether a control socket can be made there.
pub fn control_socket(path: &Path) -> Finding {
    let what = format!("control socket {}", path.display());
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Finding::fail(what, format!("the path has more than {MAX_PATH} bytes"), ELSEWHERE);
    }
    if UnixStream::connect(path).is_ok() {
        return Finding::fail(
            what,
            "another proxy is running there",
            format!("stop it (`proxy stop --control {}`), or {ELSEWHERE}", path.display()),
        );
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            Finding::fail(what, "something that is no socket is there", format!("remove it, or {ELSEWHERE}"))
        }
        _ => directory(what, path),
    }
}

/// Directories that are missing are made; so the nearest one that is there counts.
fn directory(what: String, path: &Path) -> Finding {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let nearest = path.ancestors().skip(1).find(|directory| directory.exists()).unwrap_or(Path::new("/"));
    if !nearest.is_dir() {
        return Finding::fail(what, format!("{} is no directory", nearest.display()), ELSEWHERE);
    }
    if !access::may_write(nearest) {
        let problem = format!("no right to make files in {}", nearest.display());
        return Finding::fail(what, problem, format!("run as root, or {ELSEWHERE}"));
    }
    Finding::ok(what)
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use std::os::unix::net::UnixListener;

    fn problem(path: &Path) -> String {
        control_socket(path).problem
    }

    #[test]
    fn a_place_is_free_taken_or_wrong() {
        let directory = std::env::temp_dir().join(format!("proxy-place-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("s");
        assert_eq!(control_socket(&socket).level, Level::Ok);
        assert_eq!(control_socket(&directory.join("to/be/made")).level, Level::Ok);

        let listener = UnixListener::bind(&socket).unwrap();
        assert!(problem(&socket).contains("another proxy is running there"));
        drop(listener);
        assert_eq!(control_socket(&socket).level, Level::Ok, "a socket left behind is replaced");

        fs::write(directory.join("f"), "").unwrap();
        assert!(problem(&directory.join("f")).contains("no socket"));
        assert!(problem(&directory.join("f/s")).contains("is no directory"));
        assert!(problem(&directory.join("x".repeat(200))).contains("107 bytes"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
