//! A stream check: connect, send, expect.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Failure, MAX_ANSWER, has, unexpected};

/// Talks to a server that is connected.
pub async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    send: &[u8],
    expect: &[u8],
) -> Result<(), Failure> {
    stream.write_all(send).await?;
    let mut answer = Vec::new();
    while !has(&answer, expect) {
        if answer.len() >= MAX_ANSWER || stream.read_buf(&mut answer).await? == 0 {
            return Err(unexpected(&answer));
        }
    }
    Ok(())
}
