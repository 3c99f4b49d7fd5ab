//! Sessions as the flow table has them now. Records change while they are read: one that is another by then is
//! left out.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::super::view::View;
use crate::{
    slots,
    sys::{Fd, time},
    table::{Criteria, Direction, Kind, Record, State, flag},
};

/// Times from here on are a moment that is yet to come, milliseconds.
const LATER: u32 = u32::MAX - 60_000;

/// A connection or flow. Its keys are a contract (more may be added).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The listener's name.
    pub listener: String,
    /// Its address.
    pub address: String,
    /// The client's address, if it is known.
    pub client: Option<SocketAddr>,
    /// The name of its upstream, once it has a server.
    pub upstream: Option<String>,
    /// The server's name.
    pub server: Option<String>,
    /// `accepted`, `connecting`, `established`, `half-closed`, `closing`.
    pub state: String,
    /// Since it was accepted, or began.
    pub age_ms: u64,
    /// Since anything last happened; after 49 days it begins anew.
    pub idle_ms: u32,
    /// Bytes that reached the server.
    pub bytes_up: u64,
    /// Bytes that reached the client.
    pub bytes_down: u64,
    /// Takeovers that it has survived.
    pub takeovers: u8,
}

/// All sessions that are meant, read as they are asked for.
pub fn all<'a>(view: &'a View<'_>, criteria: Vec<Criteria>) -> impl Iterator<Item = Session> + use<'a> {
    let names: BTreeMap<usize, (String, String)> = slots::all(view.config, &view.table)
        .map(|slot| (slot.number, (slot.upstream.name.clone(), slot.name())))
        .collect();
    let addresses: Vec<String> = view.config.listeners.iter().map(|own| own.address.to_string()).collect();
    let tags = (0..).zip(view.table.tags());
    tags.filter_map(move |(number, cell)| {
        let is_udp = match cell.get().kind {
            Kind::Client => false,
            Kind::UdpFlow => true,
            _ => return None,
        };
        let (fd, now_ms) = (Fd::from_raw(number), time::monotonic_ms());
        let record = view.table.record(fd)?;
        let generation = record.generation();
        if record.state() == State::Free
            || !criteria.iter().any(|one| one.match_flow(&view.table, fd, record))
        {
            return None;
        }
        let mut session = facts(view, fd, record, is_udp, now_ms)?;
        let listener = record.listener() as usize;
        session.listener = view.config.listeners.get(listener)?.name.clone();
        session.address = addresses.get(listener)?.clone();
        (session.upstream, session.server) =
            record.server().and_then(|server| names.get(&(server as usize)).cloned()).unzip();
        (record.generation() == generation && record.state() != State::Free).then_some(session)
    })
}

fn facts(view: &View<'_>, fd: Fd, record: &Record, is_udp: bool, now_ms: u64) -> Option<Session> {
    let known = |client: SocketAddr| Some(client).filter(|client| !client.ip().is_unspecified());
    // What happened may be a little later than our idea of now.
    let since = |ms: u32| Some((now_ms as u32).wrapping_sub(ms)).filter(|ms| *ms < LATER).unwrap_or_default();
    let mut session = Session {
        state: state(record).into(),
        idle_ms: since(record.active_ms()),
        client: known(view.table.client_of(fd, record)),
        takeovers: record.takeovers(),
        ..Session::default()
    };
    if is_udp {
        let facts = view.table.udp_facts(fd)?;
        session.protocol = "udp".into();
        session.age_ms = record.age_ms(facts.opened_ms(), now_ms);
        [session.bytes_up, session.bytes_down] = Direction::BOTH.map(|way| facts.bytes(way));
    } else {
        let facts = view.table.facts(fd, record);
        session.protocol = "tcp".into();
        session.age_ms = record.age_ms(view.table.accepted_ms(fd, record), now_ms);
        [session.bytes_up, session.bytes_down] =
            Direction::BOTH.map(|way| facts.map_or(0, |facts| facts.bytes(way)));
    }
    Some(session)
}

fn state(record: &Record) -> &'static str {
    let is_shut = Direction::BOTH.iter().any(|way| record.has(flag::of(flag::SHUT, *way)));
    match record.state() {
        State::Accepted => "accepted",
        State::Connecting => "connecting",
        State::Established if is_shut => "half-closed",
        State::Established => "established",
        State::Free | State::Closing => "closing",
    }
}
