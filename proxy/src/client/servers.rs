//! Upstream servers and names, for people.

use std::time::Duration;

use super::columns::{Cell, Colour, number, word};
use crate::control::status::{NameStatus, ServerStatus, UpstreamStatus};

/// A row for each server, in the status.
pub fn rows(servers: &[ServerStatus]) -> Vec<Vec<Cell>> {
    let mut rows =
        vec![vec![word("SERVER"), word("UPSTREAM"), word("STATE"), number("OPEN"), number("FAILURES")]];
    rows.extend(servers.iter().map(|server| {
        let (name, upstream) = (word(&server.name), word(&server.upstream));
        vec![name, upstream, state(server), number(server.open), number(server.failures)]
    }));
    rows
}

/// A row for each name, in the status; none if there is none.
pub fn names(names: &[NameStatus]) -> Vec<Vec<Cell>> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut rows =
        vec![vec![word("NAME"), word("UPSTREAM"), number("ADDRESSES"), number("ANSWERED"), word("")]];
    rows.extend(names.iter().map(|name| {
        let answered = name.answered_ms.map_or("-".into(), |age| format!("{} ago", time(age)));
        let error = name.error.as_ref().map_or(word(""), |error| word(error).coloured(Colour::Yellow));
        vec![word(&name.name), word(&name.upstream), number(name.addresses), number(answered), error]
    }));
    rows
}

/// A row for each server of a list, one upstream after the other.
pub fn list(upstreams: &[UpstreamStatus]) -> Vec<Vec<Cell>> {
    let mut rows = vec![vec![
        word("UPSTREAM"),
        word("SERVER"),
        word("STATE"),
        number("FOR"),
        number("WEIGHT"),
        number("OPEN"),
        number("TOTAL"),
        number("FAILURES"),
    ]];
    for upstream in upstreams {
        rows.extend(upstream.servers.iter().map(|server| {
            vec![
                word(&upstream.name),
                word(&server.name),
                state(server),
                number(server.since_ms.map_or("-".into(), time)),
                number(server.weight),
                number(server.open),
                number(server.total),
                number(server.failures),
            ]
        }));
        if upstream.servers.is_empty() {
            rows.push(vec![word(&upstream.name), word("none").coloured(Colour::Red)]);
        }
    }
    rows
}

/// The state of a server, what is wrong with it, and what of it is by order.
fn state(server: &ServerStatus) -> Cell {
    let (text, colour) = match server.state.as_str() {
        "retired" => return word("retired"),
        "ejected" => (format!("passed over for {} ms", server.passed_over_ms), Colour::Red),
        "down" => {
            let error = server.check.as_ref().and_then(|check| check.error.as_deref());
            (error.map_or("down".into(), |error| format!("down: {error}")), Colour::Red)
        }
        "draining" => ("draining".into(), Colour::Yellow),
        "unknown" => ("to be checked".into(), Colour::Yellow),
        _ if server.up => ("up".into(), Colour::Green),
        _ => ("failed, to be tried".into(), Colour::Yellow),
    };
    let weight = format!("weight {}", server.weight);
    let orders = [(server.drained, "drained"), (server.reweighed, weight.as_str()), (server.added, "added")];
    let orders: Vec<&str> = orders.into_iter().filter(|(is_so, _)| *is_so).map(|(_, order)| order).collect();
    let kind = if server.backup { ", backup" } else { "" };
    let orders =
        if orders.is_empty() { String::new() } else { format!(" (by order: {})", orders.join(", ")) };
    word(format!("{text}{kind}{orders}")).coloured(colour)
}

/// Milliseconds in words, of the two largest units.
fn time(ms: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    let units: Vec<&str> = text.split(' ').take(2).collect();
    if ms < 1000 { format!("{ms} ms") } else { units.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::{super::columns::lay_out, *};
    use crate::control::status::CheckStatus;

    fn server(name: &str, state: &str) -> ServerStatus {
        ServerStatus {
            name: name.into(),
            state: state.into(),
            up: true,
            weight: 1,
            ..ServerStatus::default()
        }
    }

    #[test]
    fn a_list_tells_what_is_wrong_and_what_is_by_order() {
        let error = Some("no answer within 1s".into());
        let check = Some(CheckStatus { error, ..CheckStatus::default() });
        let servers = vec![
            ServerStatus { since_ms: Some(93_000), open: 7, total: 90, ..server("10.0.0.1:5432", "up") },
            ServerStatus { since_ms: Some(400), check, ..server("10.0.0.2:5432", "down") },
            ServerStatus {
                drained: true,
                reweighed: true,
                weight: 5,
                ..server("db:1/10.0.0.3:1", "draining")
            },
            ServerStatus { added: true, backup: true, ..server("10.0.0.4:1", "up") },
        ];
        let named =
            |name: &str, servers| UpstreamStatus { name: name.into(), servers, ..UpstreamStatus::default() };
        let expected = "\
UPSTREAM  SERVER           STATE                                      FOR  WEIGHT  OPEN  TOTAL  FAILURES
db        10.0.0.1:5432    up                                      1m 33s       1     7     90         0
db        10.0.0.2:5432    down: no answer within 1s               400 ms       1     0      0         0
db        db:1/10.0.0.3:1  draining (by order: drained, weight 5)       -       5     0      0         0
db        10.0.0.4:1       up, backup (by order: added)                 -       1     0      0         0
empty     none
";
        assert_eq!(lay_out(&list(&[named("db", servers), named("empty", Vec::new())]), false), expected);
    }

    #[test]
    fn names_are_told_if_there_are_any() {
        assert!(names(&[]).is_empty());
        let name = NameStatus {
            name: "db:1".into(),
            upstream: "u".into(),
            addresses: 2,
            answered_ms: Some(3_700_000),
            error: Some("request timed out".into()),
        };
        let expected = "\
NAME  UPSTREAM  ADDRESSES   ANSWERED
db:1  u                 2  1h 1m ago  request timed out
";
        assert_eq!(lay_out(&names(&[name]), false), expected);
    }
}
