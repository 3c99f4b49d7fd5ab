//! What an error on a UDP socket means. Pure.

use std::io;

use crate::{sys, table::ConnectFailure};

/// What an error means for the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No room just now; the flow goes on.
    Congestion,
    /// The server does not take datagrams (what ICMP or the route says); the flow ends.
    Server(ConnectFailure),
    /// This datagram cannot be sent; the flow goes on.
    Datagram,
}

impl Fault {
    /// What an error of a send or a receive means. Which ICMP messages become errors of a connected
    /// socket: `__udp4_lib_err`, net/ipv4/udp.c. `EMSGSIZE` among them tells of a smaller path MTU,
    /// which is no fault of the server.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or(0) {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Self::Congestion,
            libc::ECONNREFUSED => Self::Server(ConnectFailure::Refused),
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => {
                Self::Server(ConnectFailure::Unreachable)
            }
            libc::ENOPROTOOPT | libc::EPROTO | libc::EACCES => Self::Server(ConnectFailure::Other),
            _ => Self::Datagram,
        }
    }
}

/// Whether the kernel or the route may have refused a send for its segments: no checksum offload
/// (`EIO`), or a segment larger than the path takes unfragmented (`EINVAL`, `EMSGSIZE`; `udp_send_skb`).
pub fn refuses_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP))
}

/// Whether opening a flow failed for want of something of ours: descriptors, memory, epoll watches,
/// local ports (`EAGAIN`, `inet_autobind`).
pub fn is_exhausted(error: &io::Error) -> bool {
    sys::is_exhausted(error) || error.raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_path_mtu_is_no_fault_of_the_server() {
        let of = |code| Fault::of(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EMSGSIZE), Fault::Datagram);
        assert_eq!(of(libc::ECONNREFUSED), Fault::Server(ConnectFailure::Refused));
        assert_eq!(of(libc::EHOSTUNREACH), Fault::Server(ConnectFailure::Unreachable));
        assert_eq!(of(libc::EAGAIN), Fault::Congestion);
    }
}
