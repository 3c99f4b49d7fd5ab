//! Why a connection or flow ended.

use std::fmt;

use super::Rejection;

/// Codes from here on are [`Rejection`]s.
const FIRST_REJECTION: u8 = 64;

/// Why a connection or flow ended. Its code is in the flow's record before anything else is done to end it, so
/// that the heir of a worker that dies in the middle says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have ended, the client first.
    ClientEnded,
    /// Both sides have ended, the server first.
    ServerEnded,
    /// The client has reset the connection, or is gone.
    ClientReset,
    /// The server has.
    ServerReset,
    /// Nothing came or went for the idle timeout.
    Idle,
    /// One side had ended, and nothing came or went for the half-close timeout.
    HalfClosed,
    /// It has lived for as long as it may.
    Lifetime,
    /// UDP: its server has sent as many datagrams as it may.
    Responses,
    /// UDP: its server does not take datagrams.
    ServerFailed,
    /// An administrator has closed it.
    Ordered,
    /// It was still open when the proxy ended.
    Stopped,
    /// It could not be carried on after the death of its pool.
    Lost,
    /// UDP: it was silent, and made room for a new one where no more could be open.
    Evicted,
    /// It was turned away.
    Refused(Rejection),
}

impl Ending {
    /// All that are no rejections, with their names in the access log.
    pub const PLAIN: [(Self, &'static str); 13] = [
        (Self::ClientEnded, "client_ended"),
        (Self::ServerEnded, "server_ended"),
        (Self::ClientReset, "client_reset"),
        (Self::ServerReset, "server_reset"),
        (Self::Idle, "idle"),
        (Self::HalfClosed, "half_closed"),
        (Self::Lifetime, "lifetime"),
        (Self::Responses, "responses"),
        (Self::ServerFailed, "server_failed"),
        (Self::Ordered, "ordered"),
        (Self::Stopped, "stopped"),
        (Self::Lost, "lost"),
        (Self::Evicted, "evicted"),
    ];

    /// A number for it that is not 0.
    pub fn code(self) -> u8 {
        match self {
            Self::Refused(rejection) => FIRST_REJECTION + rejection as u8,
            plain => {
                let place = Self::PLAIN.iter().position(|(known, _)| *known == plain);
                place.map_or(0, |place| place as u8 + 1)
            }
        }
    }

    /// The ending of a code; `None` for 0, and what is none.
    pub fn of_code(code: u8) -> Option<Self> {
        match code.checked_sub(FIRST_REJECTION) {
            Some(number) => Rejection::ALL.get(usize::from(number)).map(|(known, _)| Self::Refused(*known)),
            None => Self::PLAIN.get(usize::from(code).wrapping_sub(1)).map(|(known, _)| *known),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Refused(rejection) = self {
            return write!(formatter, "refused_{}", Rejection::ALL[*rejection as usize].1);
        }
        let name = Self::PLAIN.iter().find(|(known, _)| known == self).map_or("", |(_, name)| name);
        formatter.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_there_for_all() {
        let refusals = Rejection::ALL.map(|(rejection, _)| Ending::Refused(rejection));
        let all: Vec<Ending> = Ending::PLAIN.iter().map(|(plain, _)| *plain).chain(refusals).collect();
        for ending in &all {
            assert_eq!(Ending::of_code(ending.code()), Some(*ending));
            assert!(!ending.to_string().is_empty());
        }
        assert_eq!(Ending::Refused(Rejection::Limit).to_string(), "refused_limit");
        assert_eq!([0, 63, 255].map(Ending::of_code), [None; 3]);
    }
}
