//! The control socket: one line asks, one line of JSON answers, and the connection is closed.
//! Requests are `status`, those about upstreams ([`upstreams`]) and [`sessions`], and [`Order`]s. What is listed of
//! sessions is lines of JSON, and a last one that says how many.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    clients::{self, in_time},
    sessions::{self, Filter},
    status::Status,
    supervisor::Supervisor,
    upstreams::{self, Wish},
    view::View,
};
use crate::{
    orders::{MAX_MESSAGE, Order},
    table::Criteria,
};

/// Longest request line, bytes.
pub const MAX_REQUEST: u64 = MAX_MESSAGE as u64;

/// An answer, but for that to `status`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// The order is done, or (drain, stop) has begun.
    Done(String),
    /// It is not, and why; or there is no such request.
    Error(String),
}

/// Serves the control socket for good.
pub async fn serve(listener: &UnixListener, view: &View<'_>, supervisor: &Supervisor) {
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    let handle = async |stream| {
        if let Err(error) = converse(stream, view, supervisor).await {
            tracing::debug!("a client of the control socket went away: {error}");
        }
    };
    clients::serve(accept, &view.control_refused, handle).await;
}

/// Begins the request for a list of sessions; a [`Filter`] follows.
pub const LIST: &str = "sessions list ";
/// Begins the order to close sessions, likewise.
pub const CLOSE: &str = "sessions close ";
/// Bytes of a list that are written at once.
const CHUNK: usize = 64 << 10;

async fn converse(mut stream: UnixStream, view: &View<'_>, supervisor: &Supervisor) -> io::Result<()> {
    let request = in_time(read_line(&mut stream)).await?;
    if let Some(filter) = request.as_deref().and_then(|request| request.strip_prefix(LIST)) {
        return list(&mut stream, filter, view).await;
    }
    let mut answer = match request {
        Some(request) => answer(&request, view, supervisor).await,
        None => error(format!("a request is one line of at most {MAX_REQUEST} bytes")),
    };
    answer.push('\n');
    in_time(stream.write_all(answer.as_bytes())).await
}

/// The line asked, without its end; `None` if it is too long or no text.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_REQUEST + 1)).read_until(b'\n', &mut line).await?;
    let fits = line.len() as u64 <= MAX_REQUEST;
    Ok(String::from_utf8(line).ok().filter(|_| fits).map(|line| line.trim().to_owned()))
}

async fn answer(request: &str, view: &View<'_>, supervisor: &Supervisor) -> String {
    if request == "status" {
        return json(&Status::of(view));
    }
    match upstreams::Request::parse(request) {
        None => {}
        Some(Err(why)) => return error(why),
        Some(Ok(request)) => return about_upstreams(&request, view),
    }
    if let Some(filter) = request.strip_prefix(CLOSE) {
        return match criteria(filter, view).and_then(some) {
            Ok(criteria) => {
                tracing::info!(filter, "sessions are closed by order");
                json(&sessions::close(view, &criteria).await)
            }
            Err(why) => error(why),
        };
    }
    let Some(order) = Order::parse(request) else {
        return error(format!("there is no request {request:?}"));
    };
    tracing::debug!(order = order.word(), "passing an order on");
    match supervisor.pass(&order).await {
        Ok(()) => json(&Reply::Done(order.word().into())),
        Err(why) => error(why),
    }
}

fn about_upstreams(request: &upstreams::Request, view: &View<'_>) -> String {
    let upstream = request.upstream.as_deref();
    match &request.wish {
        Wish::List {} => upstreams::list(view, upstream).map_or_else(error, |list| json(&list)),
        wish => upstreams::perform(view, upstream, wish).map_or_else(error, |done| json(&Reply::Done(done))),
    }
}

/// Writes the sessions that are meant, as fast as they are read.
async fn list(stream: &mut UnixStream, filter: &str, view: &View<'_>) -> io::Result<()> {
    let criteria = match criteria(filter, view) {
        Ok(criteria) => criteria,
        Err(why) => return in_time(stream.write_all((error(why) + "\n").as_bytes())).await,
    };
    let (mut count, mut text) = (0, String::new());
    for session in sessions::all(view, criteria) {
        count += 1;
        text += &json(&session);
        text.push('\n');
        if text.len() >= CHUNK {
            in_time(stream.write_all(text.as_bytes())).await?;
            text.clear();
        }
    }
    text += &json(&Reply::Done(format!("{count}")));
    text.push('\n');
    in_time(stream.write_all(text.as_bytes())).await
}

/// Everything is closed by nobody who has not said what.
fn some(criteria: Vec<Criteria>) -> Result<Vec<Criteria>, String> {
    match criteria.contains(&Criteria::default()) {
        true => Err("no filter: say which sessions are to be closed".into()),
        false => Ok(criteria),
    }
}

fn criteria(filter: &str, view: &View<'_>) -> Result<Vec<Criteria>, String> {
    let filter: Filter = serde_json::from_str(filter).map_err(|error| format!("no filter: {error}"))?;
    filter.criteria(view)
}

fn error(why: String) -> String {
    json(&Reply::Error(why))
}

fn json(answer: &impl Serialize) -> String {
    // Maps with keys that are not text, the one thing that cannot be written, are nowhere in it.
    serde_json::to_string(answer).unwrap_or_else(|error| format!(r#"{{"error":"{error}"}}"#))
}
