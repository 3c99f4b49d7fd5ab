//! Servers at unix sockets, and clients of them.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::servers::PATIENCE;

/// Serves every connection to a path with `serve`, on a thread of its own, for as long as the test lives. Everybody
/// may connect: pools are nobody's.
#[track_caller]
pub fn serve<F>(path: &Path, serve: F)
where
    F: Fn(UnixStream) -> io::Result<()> + Send + Clone + 'static,
{
    let listener = UnixListener::bind(path).expect("bind a unix socket");
    fs::set_permissions(path, Permissions::from_mode(0o777)).expect("open it to all");
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let serve = serve.clone();
            thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = serve(stream);
            });
        }
    });
}

/// Sends back whatever comes, to the end.
#[track_caller]
pub fn echo(path: &Path) {
    serve(path, |mut stream| {
        let mut to = stream.try_clone()?;
        io::copy(&mut stream, &mut to).map(drop)
    });
}

/// Answers each line with `NAME LINE`.
#[track_caller]
pub fn lines(path: &Path, name: &'static str) {
    serve(path, move |stream| {
        let mut to = stream.try_clone()?;
        BufReader::new(stream).lines().try_for_each(|line| writeln!(to, "{name} {}", line?))
    });
}

/// Hands each accepted connection to the test.
#[track_caller]
pub fn handing_over(path: &Path) -> mpsc::Receiver<UnixStream> {
    let (to, from) = mpsc::channel();
    serve(path, move |stream| to.send(stream).map_err(io::Error::other));
    from
}

/// A connection that waits for nothing longer than [`PATIENCE`].
#[track_caller]
pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path);
    let stream = stream.unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream
}
