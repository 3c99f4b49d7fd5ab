//! A check by HTTP.

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Failure;

/// Longest head of an answer, bytes.
const MAX_HEAD: usize = 16 << 10;

/// Asks for `path`. The status has to be one of `statuses`, from, to; nothing else of the answer is read.
pub async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
    statuses: (u16, u16),
) -> Result<(), Failure> {
    let status =
        status(stream, host, path).await.map_err(|why| Failure::Failed(format!("by HTTP: {why}")))?;
    let (from, to) = statuses;
    match (from..=to).contains(&status.as_u16()) {
        true => Ok(()),
        false => Err(Failure::Failed(format!("the status is {status}, and not from {from} to {to}"))),
    }
}

async fn status(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> Result<StatusCode, Box<dyn std::error::Error>> {
    let request = Request::get(path).header(HOST, host).header(CONNECTION, "close");
    let agent = concat!("proxy/", env!("CARGO_PKG_VERSION"));
    let request = request.header(USER_AGENT, agent).body(Empty::<Bytes>::new())?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer?.status()),
        // It may have ended after the answer was in.
        ended = connection => match ended {
            Ok(()) => Ok(answer.await?.status()),
            Err(error) => Err(error.into()),
        },
    }
}
