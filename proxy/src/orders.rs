//! What an administrator may order: sent by control to the supervisor, one message each, answered
//! by one message each. Pure: no I/O.

use std::mem::discriminant;

/// Longest message, bytes: an order with a path, or an answer with a reason.
pub const MAX_MESSAGE: usize = 4608;

const REFUSED: &str = "refused ";

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// New traffic to the standby.
    Failover,
    /// New traffic to the primary.
    Failback,
    /// Refuse new connections.
    Drain,
    /// Drain, then end.
    Stop,
    /// End at once.
    StopNow,
    /// Hand over to the same binary with the settings as they are now.
    Reload,
    /// Hand over to the binary at this absolute path; `None`: at the path that this one was started by.
    Upgrade(Option<String>),
}

impl Order {
    const WORDS: [(Self, &'static str); 7] = [
        (Self::Failover, "failover"),
        (Self::Failback, "failback"),
        (Self::Drain, "drain"),
        (Self::Stop, "stop"),
        (Self::StopNow, "stop-now"),
        (Self::Reload, "reload"),
        (Self::Upgrade(None), "upgrade"),
    ];

    /// The order's word.
    pub fn word(&self) -> &'static str {
        let is_this = |(known, _): &&(Self, _)| discriminant(known) == discriminant(self);
        Self::WORDS.iter().find(is_this).map_or("", |(_, word)| word)
    }

    /// As a message: the word, and a path after a blank.
    pub fn encode(&self) -> String {
        match self {
            Self::Upgrade(Some(path)) => format!("upgrade {path}"),
            other => other.word().into(),
        }
    }

    /// Reads a message.
    pub fn parse(message: &str) -> Option<Self> {
        if let Some(path) = message.strip_prefix("upgrade ") {
            return path.starts_with('/').then(|| Self::Upgrade(Some(path.into())));
        }
        Self::WORDS.iter().find(|(_, known)| *known == message).map(|(order, _)| order.clone())
    }
}

/// The supervisor's answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, or (drain, stop) has begun.
    Done,
    /// It is not done, and why.
    Refused(String),
}

impl Answer {
    /// Logs why it is not done, for an order that came as a signal.
    pub fn log(self) {
        if let Self::Refused(why) = self {
            tracing::error!("refused: {why}");
        }
    }

    /// As a message; a reason that is too long for one is cut.
    pub fn encode(&self) -> String {
        match self {
            Self::Done => "done".into(),
            Self::Refused(why) => {
                format!("{REFUSED}{}", &why[..why.floor_char_boundary(MAX_MESSAGE - REFUSED.len())])
            }
        }
    }

    /// Reads a message.
    pub fn decode(message: &str) -> Self {
        match message.strip_prefix(REFUSED) {
            None if message == "done" => Self::Done,
            None => Self::Refused(format!("the supervisor answered {message:?}")),
            Some(why) => Self::Refused(why.into()),
        }
    }
}

/// An order or its answer with the order's number, which tells the answer to an order that nobody waits for any
/// more from the one that is waited for.
pub fn number(number: u64, message: &str) -> String {
    format!("{number} {message}")
}

/// Takes a numbered message apart.
pub fn numbered(message: &[u8]) -> Option<(u64, &str)> {
    let (number, message) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    Some((number.parse().ok()?, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_survive_the_wire() {
        for (order, word) in Order::WORDS {
            assert_eq!(Order::parse(word).as_ref(), Some(&order));
            assert_eq!((order.word(), order.encode().as_str()), (word, word));
        }
        let upgrade = Order::Upgrade(Some("/opt/new proxy".into()));
        assert_eq!(Order::parse(&upgrade.encode()), Some(upgrade));
        assert_eq!(Order::parse("upgrade proxy"), None);
        assert_eq!(
            numbered(number(7, "upgrade /opt/new proxy").as_bytes()),
            Some((7, "upgrade /opt/new proxy"))
        );
        assert_eq!((numbered(b"drain"), numbered(b"x drain")), (None, None));
        assert_eq!(Order::parse("rm -rf"), None);
        let refused = Answer::Refused("the standby is not ready".into());
        assert_eq!(Answer::decode(&refused.encode()), refused);
        assert_eq!(Answer::decode(&Answer::Done.encode()), Answer::Done);
        let long = Answer::Refused("ä".repeat(MAX_MESSAGE)).encode();
        assert_eq!((long.len(), long.ends_with('ä')), (MAX_MESSAGE, true));
    }
}
