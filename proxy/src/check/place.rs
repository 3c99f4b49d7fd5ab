//! Places of unix sockets and of the access log.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::Path,
};

use super::Finding;
use crate::config::{Config, STANDARD_OUTPUT};
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

/// Whether the access log's file can be opened or made, as far as that can be told without making it.
pub fn access_log(config: &Config) -> Option<Finding> {
    let path = &config.access_log.as_ref()?.path;
    (path.as_os_str() != STANDARD_OUTPUT).then(|| log_file(path))
}

fn log_file(path: &Path) -> Finding {
    const ELSEWHERE: &str = "choose another path in [access_log]";
    let what = format!("access log {}", path.display());
    let directory = path.parent().unwrap_or(Path::new("/"));
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => Finding::fail(
            what,
            "it is a symbolic link, which is not followed",
            format!("remove it, or {ELSEWHERE}"),
        ),
        Ok(there) if there.is_dir() => Finding::fail(what, "it is a directory", ELSEWHERE),
        Ok(_) if access::may_write(path) => Finding::ok(what),
        Ok(_) => {
            let remedy = format!("chown it to the user that starts the proxy, or {ELSEWHERE}");
            Finding::fail(what, "no right to write to it", remedy)
        }
        // Unlike a control socket's, its directory is not made.
        Err(_) if !directory.is_dir() => {
            let problem = format!("there is no directory {}", directory.display());
            let remedy = format!("make it (systemd: LogsDirectory=, and a restart), or {ELSEWHERE}");
            Finding::fail(what, problem, remedy)
        }
        Err(_) => self::directory(what, path, ELSEWHERE),
    }
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

    #[test]
    fn a_log_has_a_directory_and_is_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        assert_eq!(log_file(&at("access.log")).level, Level::Ok);
        assert!(!at("access.log").exists(), "a check makes nothing");
        fs::write(at("access.log"), "").unwrap();
        assert_eq!(log_file(&at("access.log")).level, Level::Ok);
        std::os::unix::fs::symlink(at("access.log"), at("link")).unwrap();
        assert!(log_file(&at("link")).problem.contains("symbolic link"));
        assert!(log_file(directory.path()).problem.contains("it is a directory"));
        let missing = log_file(&at("missing/access.log"));
        assert!(
            missing.level == Level::Fail && missing.problem.contains("there is no directory"),
            "{missing}"
        );
        assert!(missing.problem.contains("LogsDirectory="));
    }

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
