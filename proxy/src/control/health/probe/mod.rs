//! One check of one server.

mod exec;
mod http;
mod stream;
mod udp;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::{TcpStream, UnixStream};

use crate::config::rules::Check;

/// Longest answer that is looked at, bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Most of an answer that an error tells, bytes.
const MAX_SHOWN: usize = 80;

/// Who is checked.
pub struct Target {
    /// The upstream's name.
    pub upstream: String,
    /// The server's name.
    pub server: String,
    /// Where it is checked.
    pub reach: Reach,
}

/// Where a server is reached.
pub enum Reach {
    /// At an address.
    Ip(SocketAddr),
    /// At a stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Reach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(formatter),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was not done in time.
    Timeout(Duration),
    /// The server, or what was asked about it, said so.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => {
                write!(formatter, "no answer within {}", humantime::format_duration(*limit))
            }
            Self::Failed(why) => formatter.write_str(why),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Checks a server, within `limit`.
///
/// # Errors
/// It did not go well.
pub async fn check(check: &Check, target: &Target, limit: Duration) -> Result<(), Failure> {
    // A datagram that nothing is expected of goes well if nobody complains for as long.
    if let (Check::Udp { send, expect }, Reach::Ip(address)) = (check, &target.reach)
        && expect.is_empty()
    {
        return udp::send(*address, send, limit).await;
    }
    let done = async {
        match &target.reach {
            Reach::Ip(address) => at_address(check, target, *address).await,
            Reach::Unix(path) => at_socket(check, target, path).await,
        }
    };
    tokio::time::timeout(limit, done).await.unwrap_or(Err(Failure::Timeout(limit)))
}

async fn at_address(check: &Check, target: &Target, address: SocketAddr) -> Result<(), Failure> {
    let connect = async || TcpStream::connect(address).await.map_err(|error| cannot_connect(target, &error));
    match check {
        Check::Tcp { send, expect } => stream::talk(connect().await?, send, expect).await,
        Check::Http { path, host, status } => {
            let host = host.clone().unwrap_or_else(|| address.to_string());
            http::get(connect().await?, &host, path, *status).await
        }
        Check::Udp { send, expect } => udp::ask(address, send, expect).await,
        Check::Exec { command } => {
            exec::run(command, target, [address.ip().to_string(), address.port().to_string()]).await
        }
    }
}

async fn at_socket(check: &Check, target: &Target, socket: &Path) -> Result<(), Failure> {
    let connect = async || UnixStream::connect(socket).await.map_err(|error| cannot_connect(target, &error));
    match check {
        Check::Tcp { send, expect } => stream::talk(connect().await?, send, expect).await,
        Check::Http { path, host, status } => {
            http::get(connect().await?, host.as_deref().unwrap_or("localhost"), path, *status).await
        }
        Check::Udp { .. } => Err(Failure::Failed("a unix socket takes no datagrams".into())),
        Check::Exec { command } => {
            exec::run(command, target, [socket.display().to_string(), "0".to_owned()]).await
        }
    }
}

fn cannot_connect(target: &Target, error: &io::Error) -> Failure {
    Failure::Failed(format!("cannot connect to {}: {error}", target.reach))
}

/// Whether an answer has it.
fn has(answer: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || answer.windows(expected.len()).any(|window| window == expected)
}

/// What came instead.
fn unexpected(answer: &[u8]) -> Failure {
    let shown = answer[..answer.len().min(MAX_SHOWN)].escape_ascii();
    Failure::Failed(format!("the answer lacks what is expected: \"{shown}\""))
}

#[cfg(test)]
#[path = "../probe_tests.rs"]
mod tests;
