//! `proxy sessions`.

use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    process::ExitCode,
};

use super::{
    AskError, ask,
    columns::{Cell, lay_out, number, word},
    complain,
};
use crate::{
    cli::{CloseArgs, FilterArgs, ListArgs, SessionsVerb, WhichArgs},
    control::{
        CLOSE, LIST,
        sessions::{Closed, Filter, Session},
    },
};

/// The verb.
pub fn run(verb: &SessionsVerb) -> ExitCode {
    let result = match verb {
        SessionsVerb::List(args) => list(args).map(|()| ExitCode::SUCCESS),
        SessionsVerb::Close(args) => close(args),
    };
    result.unwrap_or_else(|error| complain(&error))
}

fn filter(given: &FilterArgs) -> String {
    let FilterArgs { source, server, listener } = given.clone();
    // Text and numbers: they can be written.
    serde_json::to_string(&Filter { source, server, listener }).unwrap_or_default()
}

fn list(args: &ListArgs) -> Result<(), AskError> {
    let path = &args.which.control.control;
    let lines = ask::list(path, &(LIST.to_owned() + &filter(&args.which.filter)))?;
    let read = |line: String| match serde_json::from_str(&line) {
        Ok(session) => Ok((session, line)),
        Err(error) => Err(AskError::Garbled { path: path.clone(), error }),
    };
    let mut sessions = lines.into_iter().map(read).collect::<Result<Vec<(Session, String)>, AskError>>()?;
    sessions.sort_by_cached_key(|(session, _)| order(session));
    let mut out = BufWriter::new(io::stdout().lock());
    // A reader that went away has seen enough.
    let _ = match args.json {
        true => sessions.iter().try_for_each(|(_, line)| writeln!(out, "{line}")),
        false => {
            write!(out, "{}", render(sessions.iter().map(|(session, _)| session), io::stdout().is_terminal()))
        }
    };
    let _ = out.flush();
    Ok(())
}

/// By listener, then by client.
fn order(session: &Session) -> (String, String, Option<std::net::SocketAddr>) {
    (session.listener.clone(), session.protocol.clone(), session.client)
}

fn render<'a>(sessions: impl Iterator<Item = &'a Session>, colours: bool) -> String {
    let heads = ["LISTENER", "PROTOCOL", "CLIENT", "SERVER", "STATE"].map(word);
    let numbers = ["AGE", "IDLE", "UP", "DOWN", "TAKEOVERS"].map(number);
    let mut rows = vec![heads.into_iter().chain(numbers).collect::<Vec<Cell>>()];
    rows.extend(sessions.map(row));
    lay_out(&rows, colours)
}

fn row(session: &Session) -> Vec<Cell> {
    let or_dash = |text: Option<String>| word(text.unwrap_or_else(|| "-".into()));
    vec![
        word(&session.listener),
        word(&session.protocol),
        or_dash(session.client.map(|client| client.to_string())),
        or_dash(session.server.clone()),
        word(&session.state),
        number(time(session.age_ms)),
        number(time(session.idle_ms.into())),
        number(bytes(session.bytes_up)),
        number(bytes(session.bytes_down)),
        number(session.takeovers),
    ]
}

fn time(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn bytes(count: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / size as f64),
        None => format!("{count} B"),
    }
}

fn close(args: &CloseArgs) -> Result<ExitCode, AskError> {
    let WhichArgs { filter: given, control } = &args.which;
    let closed: Closed = ask::json(&control.control, &(CLOSE.to_owned() + &filter(given)))?;
    let text = if args.json { serde_json::to_string(&closed).unwrap_or_default() } else { describe(&closed) };
    let _ = writeln!(io::stdout(), "{text}");
    Ok(if closed.silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(closed: &Closed) -> String {
    let plural = if closed.closed == 1 { "" } else { "s" };
    let mut text = format!("{} session{plural} closed", closed.closed);
    if !closed.silent.is_empty() {
        text += &format!(
            "; what these carry may be open still, for they do not answer: {}; see `proxy status`, and try again",
            closed.silent.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_rows_and_what_is_not_known_a_dash() {
        let session = Session {
            protocol: "tcp".into(),
            listener: "db".into(),
            client: Some("10.0.0.1:5".parse().unwrap()),
            state: "established".into(),
            age_ms: 7_300_000,
            idle_ms: 59_999,
            bytes_up: 1023,
            bytes_down: 3 << 29,
            ..Session::default()
        };
        let expected = "LISTENER  PROTOCOL  CLIENT      SERVER  STATE        AGE  IDLE      UP     DOWN  TAKEOVERS\n\
                        db        tcp       10.0.0.1:5  -       established  2 h  59 s  1023 B  1.5 GiB          0\n";
        assert_eq!(render([&session].into_iter(), false), expected);
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let silent = vec!["worker 1 of the standby pool (pid 7)".to_owned()];
        assert_eq!(describe(&Closed { closed: 1, silent: Vec::new() }), "1 session closed");
        let text = describe(&Closed { closed: 0, silent });
        assert!(
            text.starts_with("0 sessions closed; ") && text.contains("worker 1 of the standby"),
            "{text}"
        );
    }
}
