//! Requests about upstreams, as they come by the control socket: a word, and a document.

use serde::{Deserialize, Serialize};

/// What such a request begins with.
const WORD: &str = "upstream ";

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The upstream; `None`: the only one, or for a list all.
    #[serde(default)]
    pub upstream: Option<String>,
    /// What is asked for.
    #[serde(flatten)]
    pub wish: Wish,
}

/// What is asked for. A server is named as in the status, or by its address, or as the settings give it: then, if
/// that is a name, all servers at its addresses are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Tell what there is.
    List {},
    /// Nothing new to a server.
    Drain {
        /// The server.
        server: String,
    },
    /// Its share again.
    Ready {
        /// The server.
        server: String,
    },
    /// Another share.
    Weight {
        /// The server.
        server: String,
        /// The weight; `None`: as the settings say.
        weight: Option<u32>,
    },
    /// One more server.
    Add {
        /// Where.
        address: String,
        /// Its weight; `None`: 1.
        weight: Option<u32>,
        /// Whether it is a backup.
        backup: bool,
    },
    /// A server less, of those that were added.
    Remove {
        /// The server.
        server: String,
    },
}

impl Request {
    /// As a line.
    pub fn encode(&self) -> String {
        // Maps with keys that are not text, the one thing that cannot be written, are nowhere in it.
        WORD.to_owned() + &serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a line; `None` if it is none about upstreams, and why it is not understood if that is so.
    pub fn parse(line: &str) -> Option<Result<Self, String>> {
        let document = line.strip_prefix(WORD)?;
        Some(
            serde_json::from_str(document).map_err(|error| format!("the request is not understood: {error}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let (server, address) = ("a \"b\":1".to_owned(), "10.0.0.1:5".to_owned());
        for wish in [
            Wish::List {},
            Wish::Drain { server: server.clone() },
            Wish::Ready { server: server.clone() },
            Wish::Weight { server: server.clone(), weight: Some(3) },
            Wish::Weight { server: server.clone(), weight: None },
            Wish::Add { address, weight: None, backup: true },
            Wish::Remove { server },
        ] {
            for upstream in [None, Some("db".to_owned())] {
                let request = Request { upstream, wish: wish.clone() };
                let line = request.encode();
                assert!(!line.contains('\n'));
                assert_eq!(Request::parse(&line), Some(Ok(request)), "{line}");
            }
        }
    }

    #[test]
    fn what_is_none_is_told() {
        assert_eq!(Request::parse("status"), None);
        for line in ["upstream ", "upstream {}", "upstream {\"grow\":{}}", "upstream {\"drain\":{}}"] {
            assert!(Request::parse(line).unwrap().unwrap_err().contains("not understood"), "{line}");
        }
    }
}
