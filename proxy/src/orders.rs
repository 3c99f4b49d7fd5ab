//! What an administrator may order: sent by control to the supervisor, one message each, answered
//! by one message each. Pure: no I/O.

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Order {
    const WORDS: [(Self, &'static str); 5] = [
        (Self::Failover, "failover"),
        (Self::Failback, "failback"),
        (Self::Drain, "drain"),
        (Self::Stop, "stop"),
        (Self::StopNow, "stop-now"),
    ];

    /// The order's word, as it stands in messages.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize].1
    }

    /// The order of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(order, _)| *order)
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
    /// As a message, at most 512 bytes.
    pub fn encode(&self) -> String {
        match self {
            Self::Done => "done".into(),
            Self::Refused(why) => format!("refused {}", why.chars().take(480).collect::<String>()),
        }
    }

    /// Reads a message.
    pub fn decode(message: &str) -> Self {
        match message.strip_prefix("refused ") {
            None if message == "done" => Self::Done,
            None => Self::Refused(format!("the supervisor answered {message:?}")),
            Some(why) => Self::Refused(why.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_answers_survive_the_wire() {
        for (order, word) in Order::WORDS {
            assert_eq!(Order::parse(word), Some(order));
            assert_eq!(order.word(), word);
        }
        assert_eq!(Order::parse("rm -rf"), None);
        let refused = Answer::Refused("the standby is not ready".into());
        assert_eq!(Answer::decode(&refused.encode()), refused);
        assert_eq!(Answer::decode(&Answer::Done.encode()), Answer::Done);
    }
}
