//! One question to the control socket.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde::de::DeserializeOwned;

use crate::{
    control::{
        Reply, UpstreamRequest,
        status::{Status, UpstreamList},
    },
    orders::Order,
};

/// Longest time for an answer: control gives an order 5 s, and each way 5 s more.
const LIMIT: Duration = Duration::from_secs(15);

/// Longest answer, bytes: 1024 listeners and 1024 servers of some 200 bytes each, and room.
const MAX_ANSWER: u64 = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error(
        "no proxy answers at {path} ({error}); start one with `proxy run`, or name the control socket of the one \
         that runs with --control PATH"
    )]
    NotRunning {
        /// The control socket.
        path: PathBuf,
        /// The kernel's word.
        error: io::Error,
    },
    /// We may not.
    #[error("no right to open {path}; run this as root, or as the user that the proxy was started by")]
    Denied {
        /// The control socket.
        path: PathBuf,
    },
    /// Control is there and says nothing.
    #[error(
        "control does not answer at {path} (traffic does not need it); if it goes on, kill the process \
         proxy-control: the supervisor starts a new one"
    )]
    Silent {
        /// The control socket.
        path: PathBuf,
    },
    /// Too many clients, or control has just died.
    #[error("control at {path} closed the connection without an answer; try again in a moment")]
    Closed {
        /// The control socket.
        path: PathBuf,
    },
    /// Something else.
    #[error("cannot talk to control at {path}: {error}")]
    Failed {
        /// The control socket.
        path: PathBuf,
        /// The kernel's word.
        error: io::Error,
    },
    /// The answer is none of this version's.
    #[error("the answer from {path} is not understood ({error}); is it a proxy of another version?")]
    Garbled {
        /// The control socket.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// Control or the supervisor refused.
    #[error("{0}")]
    Refused(String),
}

/// The answer to `status`, as it came: one line of JSON, without the line's end.
///
/// # Errors
/// Any but `Garbled` and `Refused`.
pub fn status_line(path: &Path) -> Result<String, AskError> {
    ask(path, "status")
}

/// The answer to `status`.
///
/// # Errors
/// Any.
pub fn status(path: &Path) -> Result<Status, AskError> {
    read_status(path, &status_line(path)?)
}

/// Reads an answer to `status`.
///
/// # Errors
/// `Garbled`.
pub fn read_status(path: &Path, line: &str) -> Result<Status, AskError> {
    serde_json::from_str(line).map_err(|error| AskError::Garbled { path: path.into(), error })
}

/// The lines of a list, without the last one, which says that it is whole.
///
/// # Errors
/// Any.
pub fn list(path: &Path, request: &str) -> Result<Vec<String>, AskError> {
    let (sender, receiver) = mpsc::channel();
    let (socket, request) = (path.to_owned(), request.to_owned());
    thread::spawn(move || read_lines(&socket, &request, &sender));
    let mut lines: Vec<String> = Vec::new();
    loop {
        match receiver.recv_timeout(LIMIT) {
            Ok(Ok(line)) => lines.push(line),
            Ok(Err(error)) => return Err(explain(path, error)),
            Err(RecvTimeoutError::Timeout) => return Err(explain(path, ErrorKind::TimedOut.into())),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match lines.pop().and_then(|last| serde_json::from_str(&last).ok()) {
        Some(Reply::Done(_)) => Ok(lines),
        Some(Reply::Error(why)) => Err(AskError::Refused(why)),
        None => Err(AskError::Closed { path: path.into() }),
    }
}

/// Sends on each line of the answer as it comes.
fn read_lines(path: &Path, request: &str, to: &mpsc::Sender<io::Result<String>>) {
    let connected = UnixStream::connect(path).and_then(|mut stream| {
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(stream)
    });
    match connected {
        // Whoever listens has given up, if it cannot be sent.
        Err(error) => drop(to.send(Err(error))),
        Ok(stream) => _ = BufReader::new(stream).lines().try_for_each(|line| to.send(line)),
    }
}

/// The answer to a request that has an answer of its own.
///
/// # Errors
/// Any.
pub fn json<T: DeserializeOwned>(path: &Path, request: &str) -> Result<T, AskError> {
    let answer = ask(path, request)?;
    if let Ok(Reply::Error(why)) = serde_json::from_str(&answer) {
        return Err(AskError::Refused(why));
    }
    serde_json::from_str(&answer).map_err(|error| AskError::Garbled { path: path.into(), error })
}

/// Gives an order.
///
/// # Errors
/// Any.
pub fn order(path: &Path, order: &Order) -> Result<(), AskError> {
    let answer = ask(path, &order.encode())?;
    match serde_json::from_str(&answer) {
        Ok(Reply::Done(_)) => Ok(()),
        Ok(Reply::Error(why)) => Err(AskError::Refused(why)),
        Err(error) => Err(AskError::Garbled { path: path.into(), error }),
    }
}

/// The answer to `upstream list`, as it came and as it is understood.
///
/// # Errors
/// Any.
pub fn upstreams(path: &Path, request: &UpstreamRequest) -> Result<(String, UpstreamList), AskError> {
    let line = ask(path, &request.encode())?;
    if let Ok(Reply::Error(why)) = serde_json::from_str(&line) {
        return Err(AskError::Refused(why));
    }
    match serde_json::from_str(&line) {
        Ok(list) => Ok((line, list)),
        Err(error) => Err(AskError::Garbled { path: path.into(), error }),
    }
}

/// Has an upstream changed. Answers what has been done.
///
/// # Errors
/// Any.
pub fn change_upstream(path: &Path, request: &UpstreamRequest) -> Result<String, AskError> {
    match serde_json::from_str(&ask(path, &request.encode())?) {
        Ok(Reply::Done(done)) => Ok(done),
        Ok(Reply::Error(why)) => Err(AskError::Refused(why)),
        Err(error) => Err(AskError::Garbled { path: path.into(), error }),
    }
}

fn ask(path: &Path, request: &str) -> Result<String, AskError> {
    let (sender, receiver) = mpsc::channel();
    let (socket, request) = (path.to_owned(), request.to_owned());
    // Connecting has no time limit of its own, and blocks while the socket's backlog is full.
    thread::spawn(move || sender.send(converse(&socket, &request)));
    let answer = receiver.recv_timeout(LIMIT).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    match answer {
        Ok(answer) if answer.is_empty() => Err(AskError::Closed { path: path.into() }),
        Ok(answer) => Ok(answer),
        Err(error) => Err(explain(path, error)),
    }
}

fn converse(path: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn explain(path: &Path, error: io::Error) -> AskError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => AskError::NotRunning { path, error },
        ErrorKind::PermissionDenied => AskError::Denied { path },
        ErrorKind::TimedOut => AskError::Silent { path },
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => AskError::Closed { path },
        _ => AskError::Failed { path, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead, os::unix::net::UnixListener};

    /// Answers one client, and says what it asked.
    fn serve_once(name: &str, answer: &'static str) -> (PathBuf, thread::JoinHandle<String>) {
        let path = std::env::temp_dir().join(format!("proxy-ask-{name}-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            io::BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        (path, server)
    }

    #[test]
    fn an_order_is_asked_and_its_answer_understood() {
        let cases = [
            ("done", "{\"done\":\"drain\"}\n", None),
            ("refused", "{\"error\":\"not now\"}\n", Some("not now")),
            ("garbled", "hello\n", Some("another version")),
            ("closed", "", Some("without an answer")),
        ];
        for (name, answer, expected) in cases {
            let (path, server) = serve_once(name, answer);
            let result = order(&path, &Order::Drain);
            assert_eq!(server.join().unwrap(), "drain\n");
            std::fs::remove_file(&path).unwrap();
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) if error.to_string().contains(words) => {}
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }

    #[test]
    fn without_a_proxy_the_way_on_is_told() {
        let error = status(Path::new("/nonexistent/proxy.sock")).unwrap_err().to_string();
        assert!(error.contains("no proxy answers at /nonexistent/proxy.sock"), "{error}");
        assert!(error.contains("--control"), "{error}");
    }
}
