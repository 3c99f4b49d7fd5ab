//! `proxy upstream`: a list of servers, and changes to them.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use super::{ask, columns::lay_out, complain, say, servers, status::wants_colours};
use crate::{
    cli::{UpstreamArgs, UpstreamVerb},
    control::{UpstreamRequest, Wish, status::UpstreamList},
};

/// Wrong usage.
const USAGE: u8 = 2;

/// The verb.
pub fn run(args: &UpstreamArgs) -> ExitCode {
    let path = &args.control;
    if let UpstreamVerb::List { upstream, json } = &args.verb {
        return list(path, upstream.clone(), *json);
    }
    match request(&args.verb) {
        Err(problem) => {
            let _ = writeln!(io::stderr(), "proxy: {problem}");
            ExitCode::from(USAGE)
        }
        Ok(request) => match ask::change_upstream(path, &request) {
            Ok(done) => say(&done),
            Err(error) => complain(&error),
        },
    }
}

fn list(path: &Path, upstream: Option<String>, json: bool) -> ExitCode {
    let request = UpstreamRequest { upstream, wish: Wish::List {} };
    let text = |(line, list): (String, _)| match json {
        true => format!("{line}\n"),
        false => render(&list, wants_colours()),
    };
    match ask::upstreams(path, &request).map(text) {
        Ok(text) => {
            // A reader that went away does not undo the answer.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error),
    }
}

fn render(list: &UpstreamList, colours: bool) -> String {
    let names: Vec<_> = list.upstreams.iter().flat_map(|upstream| upstream.names.clone()).collect();
    let tables = [servers::list(&list.upstreams), servers::names(&names)];
    let texts = tables.iter().filter(|rows| !rows.is_empty()).map(|rows| lay_out(rows, colours));
    texts.collect::<Vec<_>>().join("\n")
}

/// What a verb asks for, or what is wrong with it.
fn request(verb: &UpstreamVerb) -> Result<UpstreamRequest, String> {
    let (words, trailing) = match verb {
        UpstreamVerb::List { .. } => return Err("a list is no change".into()),
        UpstreamVerb::Weight { words } => {
            let (weight, words) = words.split_last().ok_or("give a server and a weight")?;
            (words, Some(weight))
        }
        UpstreamVerb::Drain { words }
        | UpstreamVerb::Ready { words }
        | UpstreamVerb::Add { words, .. }
        | UpstreamVerb::Remove { words } => (&words[..], None),
    };
    let (server, upstream) = words.split_last().ok_or("give a server")?;
    let server = server.clone();
    let wish = match verb {
        UpstreamVerb::Drain { .. } => Wish::Drain { server },
        UpstreamVerb::Ready { .. } => Wish::Ready { server },
        UpstreamVerb::Add { weight, backup, .. } => {
            Wish::Add { address: server, weight: *weight, backup: *backup }
        }
        UpstreamVerb::Remove { .. } => Wish::Remove { server },
        UpstreamVerb::Weight { .. } | UpstreamVerb::List { .. } => {
            Wish::Weight { server, weight: weight(trailing.map_or("", String::as_str))? }
        }
    };
    Ok(UpstreamRequest { upstream: upstream.first().cloned(), wish })
}

fn weight(text: &str) -> Result<Option<u32>, String> {
    match text {
        "default" => Ok(None),
        number => match number.parse() {
            Ok(weight) => Ok(Some(weight)),
            Err(_) => Err(format!("{number} is no weight; give 0 to 1000, or default")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser as _;

    fn parsed(words: &str) -> Result<UpstreamRequest, String> {
        let line = format!("proxy upstream {words} --control /x");
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Verb::Upstream(args) = cli.verb else { return Err("another verb".into()) };
        assert_eq!(args.control, Path::new("/x"));
        request(&args.verb)
    }

    #[test]
    fn words_are_put_in_their_places() {
        let (server, db) = ("a:1".to_owned(), Some("db".to_owned()));
        let cases = [
            ("drain a:1", None, Wish::Drain { server: server.clone() }),
            ("drain db a:1", db.clone(), Wish::Drain { server: server.clone() }),
            ("ready db a:1", db.clone(), Wish::Ready { server: server.clone() }),
            ("weight a:1 3", None, Wish::Weight { server: server.clone(), weight: Some(3) }),
            ("weight db a:1 default", db.clone(), Wish::Weight { server: server.clone(), weight: None }),
            (
                "add db a:1 --weight 7",
                db,
                Wish::Add { address: server.clone(), weight: Some(7), backup: false },
            ),
            ("add a:1 --backup", None, Wish::Add { address: server.clone(), weight: None, backup: true }),
            ("remove a:1", None, Wish::Remove { server }),
        ];
        for (words, upstream, wish) in cases {
            assert_eq!(parsed(words), Ok(UpstreamRequest { upstream, wish }), "{words}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(parsed("weight a:1 much").unwrap_err().contains("no weight"));
        for words in ["drain", "drain a b c", "weight a:1", "grow a:1"] {
            assert!(parsed(words).is_err(), "{words}");
        }
    }
}
