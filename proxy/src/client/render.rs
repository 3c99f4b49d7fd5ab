//! The answer to `status`, for people.

use super::{
    columns::{Cell, Colour, lay_out, number, paint, word},
    handover, servers, takeovers,
};
use crate::control::status::{ListenerStatus, PoolStatus, Status};

/// The whole, some lines.
pub fn render(status: &Status, colours: bool) -> String {
    let mut text = headline(status, colours);
    text += &warnings(status, colours);
    let takeovers = takeovers::rows(&status.recent_takeovers);
    let servers = servers::rows(&status.servers);
    let tables = [pools(status), listeners(status), servers, servers::names(&status.names), takeovers];
    for rows in tables.into_iter().filter(|rows| !rows.is_empty()) {
        text += "\n";
        text += &lay_out(&rows, colours);
    }
    text += &handover::describe(&status.upgrade).map_or(String::new(), |line| format!("\n{line}\n"));
    text += &format!(
        "\nfailovers {}   takeovers {}   lost flows {}   control restarts {}   supervisor successions {}\n",
        status.failovers,
        status.takeovers,
        status.lost_flows,
        status.control.restarts,
        status.supervisor.successions
    );
    text
}

fn headline(status: &Status, colours: bool) -> String {
    let (words, colour) = match (&status.serving, status.draining.as_str()) {
        (_, "draining") => (format!("draining, {} left", open(status)), Colour::Yellow),
        (_, "drained") => ("drained, nothing is left".into(), Colour::Yellow),
        (Some(seat), _) => match status.pools.iter().find(|pool| pool.state != "ready") {
            None => (format!("new traffic goes to the {seat}"), Colour::Green),
            Some(PoolStatus { seat: other, state, .. }) => {
                (format!("new traffic goes to the {seat}; DEGRADED, the {other} is {state}"), Colour::Yellow)
            }
        },
        (None, _) => ("NOT SERVING: no pool is live".into(), Colour::Red),
    };
    let words = if colours { paint(&words, colour) } else { words };
    format!("proxy {}, supervisor {}: {words}\n", status.supervisor.version, status.supervisor.pid)
}

/// How much is open, in words.
pub fn open(status: &Status) -> String {
    let connections: u64 = status.pools.iter().map(|pool| pool.connections).sum();
    let flows: u64 = status.pools.iter().map(|pool| pool.udp_flows).sum();
    format!("{} and {}", count(connections, "connection"), count(flows, "UDP flow"))
}

fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

fn warnings(status: &Status, colours: bool) -> String {
    let mut warnings = Vec::new();
    if !status.supervisor.up {
        warnings.push("the supervisor is gone or stopped: no pool will be replaced; if no twin takes its place, end the pools (kill -KILL) and start the proxy again".to_owned());
    } else if status.supervisor.twin_pid.is_none() {
        warnings.push("the supervisor has no twin: nobody would take its place".to_owned());
    }
    for pool in status.pools.iter().filter(|pool| pool.live) {
        let expired = pool.workers.iter().enumerate().filter(|(_, worker)| worker.lease_remaining_ms == 0);
        warnings.extend(expired.map(|(worker, _)| {
            format!("{}: worker {worker} is passed by, its lease has run out", pool.seat)
        }));
    }
    let paint = |line: String| if colours { paint(&line, Colour::Red) } else { line };
    warnings.into_iter().map(|line| paint(line) + "\n").collect()
}

fn pools(status: &Status) -> Vec<Vec<Cell>> {
    let mut rows = vec![vec![
        word("SEAT"),
        word("STATE"),
        number("PID"),
        number("EPOCH"),
        number("LEASE"),
        number("CONNECTIONS"),
        number("UDP FLOWS"),
        number("RESTARTS"),
    ]];
    rows.extend(
        status.pools.iter().map(|pool| pool_row(pool, status.serving.as_deref() == Some(&pool.seat))),
    );
    rows
}

fn pool_row(pool: &PoolStatus, serving: bool) -> Vec<Cell> {
    let colour = match pool.state.as_str() {
        "ready" => Colour::Green,
        "starting" | "suspect" => Colour::Yellow,
        _ => Colour::Red,
    };
    vec![
        word(format!("{}{}", pool.seat, if serving { " <-" } else { "" })),
        word(&pool.state).coloured(colour),
        number(pool.pid.map_or("-".into(), |pid| pid.to_string())),
        number(pool.epoch),
        number(format!("{} ms", pool.lease_remaining_ms)),
        number(pool.connections),
        number(pool.udp_flows),
        number(pool.restarts),
    ]
}

fn listeners(status: &Status) -> Vec<Vec<Cell>> {
    let mut rows = vec![vec![
        word("LISTENER"),
        word("UPSTREAM"),
        number("QUEUE"),
        number("WAITING"),
        number("OPEN"),
        number("TOTAL"),
    ]];
    rows.extend(status.listeners.iter().map(listener_row));
    rows
}

fn listener_row(listener: &ListenerStatus) -> Vec<Cell> {
    let queue = match (listener.accept_queue_length, listener.receive_queue_bytes) {
        (Some(length), _) => length.to_string(),
        (None, Some(bytes)) => format!("{bytes} B"),
        (None, None) => "-".into(),
    };
    vec![
        word(&listener.address),
        word(if listener.retired { "retired" } else { &listener.upstream }),
        number(queue),
        number(listener.waiting),
        number(listener.open),
        number(listener.total),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{ServerStatus, SupervisorStatus, WorkerStatus};

    fn pool(seat: &str, state: &str, leases: [u64; 2]) -> PoolStatus {
        let worker = |lease_remaining_ms| WorkerStatus { lease_remaining_ms, ..WorkerStatus::default() };
        PoolStatus {
            seat: seat.into(),
            pid: Some(4712),
            epoch: 1,
            state: state.into(),
            live: true,
            lease_remaining_ms: leases[0].min(leases[1]),
            connections: 12,
            udp_flows: 3,
            restarts: 0,
            workers: leases.map(worker).into(),
        }
    }

    fn status() -> Status {
        Status {
            supervisor: SupervisorStatus {
                pid: 4711,
                version: "0.1.0".into(),
                up: true,
                twin_pid: Some(4710),
                successions: 0,
            },
            serving: Some("primary".into()),
            pools: vec![pool("primary", "ready", [87, 90]), pool("standby", "ready", [91, 91])],
            draining: "no".into(),
            listeners: vec![
                ListenerStatus {
                    address: "tcp://0.0.0.0:5432".into(),
                    upstream: "postgres".into(),
                    accept_queue_length: Some(2),
                    waiting: 3,
                    open: 24,
                    total: 1234,
                    ..ListenerStatus::default()
                },
                ListenerStatus {
                    address: "udp://[::]:53".into(),
                    upstream: "dns".into(),
                    receive_queue_bytes: Some(768),
                    ..ListenerStatus::default()
                },
            ],
            servers: vec![
                ServerStatus {
                    name: "10.0.0.1:5432".into(),
                    upstream: "postgres".into(),
                    state: "up".into(),
                    up: true,
                    open: 24,
                    ..ServerStatus::default()
                },
                ServerStatus {
                    name: "10.0.0.2:5432".into(),
                    upstream: "postgres".into(),
                    state: "ejected".into(),
                    passed_over_ms: 900,
                    failures: 1,
                    ..ServerStatus::default()
                },
            ],
            ..Status::default()
        }
    }

    #[test]
    fn all_is_seen_at_a_glance() {
        let expected = "\
proxy 0.1.0, supervisor 4711: new traffic goes to the primary

SEAT        STATE   PID  EPOCH  LEASE  CONNECTIONS  UDP FLOWS  RESTARTS
primary <-  ready  4712      1  87 ms           12          3         0
standby     ready  4712      1  91 ms           12          3         0

LISTENER            UPSTREAM  QUEUE  WAITING  OPEN  TOTAL
tcp://0.0.0.0:5432  postgres      2        3    24   1234
udp://[::]:53       dns       768 B        0     0      0

SERVER         UPSTREAM  STATE                   OPEN  FAILURES
10.0.0.1:5432  postgres  up                        24         0
10.0.0.2:5432  postgres  passed over for 900 ms     0         1

failovers 0   takeovers 0   lost flows 0   control restarts 0   supervisor successions 0
";
        assert_eq!(render(&status(), false), expected);
    }

    #[test]
    fn what_is_wrong_stands_on_top() {
        let mut status = status();
        status.supervisor.up = false;
        status.pools[0] = pool("primary", "suspect", [87, 0]);
        let text = render(&status, false);
        assert!(text.contains("the supervisor is gone"), "{text}");
        status.supervisor = SupervisorStatus { up: true, twin_pid: None, ..status.supervisor };
        assert!(render(&status, false).contains("no twin"));
        assert!(text.contains("primary: worker 1 is passed by"), "{text}");
        assert!(text.contains("goes to the primary; DEGRADED, the primary is suspect"), "{text}");
        status.serving = None;
        assert!(render(&status, false).contains("NOT SERVING"));
        status.draining = "draining".into();
        assert!(render(&status, false).contains("draining, 24 connections and 6 UDP flows left"));
    }

    #[test]
    fn colours_only_when_asked_for() {
        assert!(!render(&status(), false).contains('\x1b'));
        assert!(render(&status(), true).contains("\x1b[32mready\x1b[0m"));
    }
}
