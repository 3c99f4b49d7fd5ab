//! `/metrics`, `/healthz` and `/readyz`. A connection serves one request.

use std::{convert::Infallible, future::pending, io};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::{
    clients::{self, in_time},
    metrics,
    view::View,
};

/// Longest head of a request, bytes; a longer one is answered with 431.
const MAX_HEAD: usize = 8192;

/// Serves the metrics address for good, if there is one.
pub async fn serve(listener: Option<&TcpListener>, view: &View<'_>) {
    let Some(listener) = listener else { return pending().await };
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    let handle = async |stream| {
        if let Err(error) = in_time(converse(stream, view)).await {
            tracing::debug!("a client of the metrics address went away: {error}");
        }
    };
    clients::serve(accept, &view.metrics_refused, handle).await;
}

async fn converse(stream: TcpStream, view: &View<'_>) -> io::Result<()> {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(respond(request.method(), request.uri().path(), view))
    });
    // The time limit is the caller's, for the whole of it.
    let served = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    served.await.map_err(io::Error::other)
}

fn respond(method: &Method, path: &str, view: &View<'_>) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
        return text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => metrics(view),
        "/readyz" if !view.ready() => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/readyz" => text(StatusCode::OK, "ready\n"),
        _ => text(StatusCode::OK, "ok\n"),
    }
}

fn metrics(view: &View<'_>) -> Response<Full<Bytes>> {
    match metrics::render(view) {
        Ok(body) => typed(StatusCode::OK, prometheus::TEXT_FORMAT, body),
        Err(error) => {
            tracing::error!("cannot write metrics: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write metrics: see the proxy's log\n")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
