//! Accepting clients: a limit on how many, and on how long each may take.

use std::{cell::Cell, io, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

/// Most clients at once; further ones are closed unheard, and counted.
pub const MAX_CLIENTS: usize = 64;

/// Longest time for a client to ask, and again to take the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts clients for good, and serves each by `handle`.
pub async fn serve<S>(accept: impl AsyncFn() -> io::Result<S>, refused: &Cell<u64>, handle: impl AsyncFn(S)) {
    let mut clients = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = accept() => match accepted {
                Ok(_) if clients.len() >= MAX_CLIENTS => refused.set(refused.get() + 1),
                Ok(stream) => clients.push(handle(stream)),
                Err(error) => give_way(error).await,
            },
            Some(()) = clients.next() => {}
        }
    }
}

/// Without a descriptor the client goes on waiting, and the listener stays readable: not to spin,
/// clients that are served already are given a moment to end.
async fn give_way(error: io::Error) {
    tracing::warn!("cannot accept a client: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// What `work` answers, if it does so in time.
pub async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
