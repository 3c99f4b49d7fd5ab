//! Places of unix sockets.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::Path,
};

use super::Finding;
use crate::sys::{access, address::MAX_PATH, fd::close, unix, would_block};

/// Whether a control socket can be made there.
pub fn control_socket(path: &Path) -> Finding {
    let taken =
        ("another proxy is running there", format!("stop it (`proxy stop --control {}`)", path.display()));
    socket(format!("control socket {}", path.display()), path, taken, "give another path with --control")
}

/// Whether a listener can be made there.
pub fn listener(what: String, path: &Path) -> Finding {
    socket(what, path, ("another process listens there", "stop it".into()), "give it another path")
}

fn socket(what: String, path: &Path, taken: (&str, String), elsewhere: &str) -> Finding {
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return Finding::fail(what, format!("the path has more than {MAX_PATH} bytes"), elsewhere);
    }
    if is_listened_at(path) {
        return Finding::fail(what, taken.0, format!("{}, or {elsewhere}", taken.1));
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            Finding::fail(what, "something that is no socket is there", format!("remove it, or {elsewhere}"))
        }
        _ => directory(what, path, elsewhere),
    }
}

/// Whether somebody does, with a full queue perhaps.
fn is_listened_at(path: &Path) -> bool {
    unix::stream().is_ok_and(|socket| {
        let connected = unix::connect(socket, path);
        close(socket);
        connected.is_ok() || connected.is_err_and(|error| would_block(&error))
    })
}

/// Directories that are missing are made; so the nearest one that is there counts.
fn directory(what: String, path: &Path, elsewhere: &str) -> Finding {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let nearest = path.ancestors().skip(1).find(|directory| directory.exists()).unwrap_or(Path::new("/"));
    if !nearest.is_dir() {
        return Finding::fail(what, format!("{} is no directory", nearest.display()), elsewhere);
    }
    if !access::may_write(nearest) {
        let problem = format!("no right to make files in {}", nearest.display());
        return Finding::fail(what, problem, format!("run as root, or {elsewhere}"));
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
