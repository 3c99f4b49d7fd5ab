//! Congestion control of TCP sockets (`TCP_CONGESTION`, tcp(7)).

use std::{io, net::SocketAddr, sync::OnceLock};

use super::{
    Fd, check,
    fd::close,
    socket::{Protocol, new_socket},
};

/// What there is in every kernel, allowed to everybody, and does not pace.
const UNPACED: &[u8] = b"reno";

/// Longest name of an algorithm, with its end (`TCP_CA_NAME_MAX`, include/net/tcp.h).
const NAME_MAX: usize = 16;

/// An algorithm's name, such as that of new sockets (`net.ipv4.tcp_congestion_control`), without its end.
type Name = Vec<u8>;

/// Has a socket send as fast as its peer takes it, if the kernel's own choice of congestion control would pace it. To
/// be done before it is connected, or listens: once paced, always paced (`sk_pacing_status`, include/net/sock.h).
///
/// That it is not allowed is no error: the socket stays as it is.
pub fn unpace(socket: Fd) {
    if is_needed() {
        let _ = set(socket, UNPACED);
    }
}

/// Whether the kernel's choice paces.
pub fn is_needed() -> bool {
    default().is_some_and(paces_by_name)
}

/// Gives back what [`unpace`] has done, by this process or another. What has the kernel's choice already is not
/// touched: a socket that was told one does not follow when the kernel's choice changes (`tcp_ca_openreq_child`,
/// net/ipv4/tcp_minisocks.c).
pub fn reset(socket: Fd) {
    if let Some(default) = default()
        && get(socket).is_ok_and(|name| name == UNPACED && name != default)
    {
        let _ = set(socket, default);
    }
}

/// Looks up the kernel's choice, once. To be done before there are pools: it takes a descriptor.
pub fn look_up() {
    default();
}

/// The kernel's choice at the first look; `None` if it could not be read.
fn default() -> Option<&'static [u8]> {
    static DEFAULT: OnceLock<Option<Name>> = OnceLock::new();
    DEFAULT.get_or_init(|| of_new_socket().ok()).as_deref()
}

/// BBR is the only one in Linux that sends by the clock without being told to.
fn paces_by_name(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

fn of_new_socket() -> io::Result<Name> {
    let socket = new_socket(Protocol::Tcp, SocketAddr::from(([127, 0, 0, 1], 0)), libc::SOCK_CLOEXEC)?;
    let name = get(socket);
    close(socket);
    name
}

fn set(socket: Fd, name: &[u8]) -> io::Result<()> {
    let (level, option, len) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.len() as libc::socklen_t);
    // SAFETY: `len` bytes are read from what `name` borrows.
    check(unsafe { libc::setsockopt(socket.raw(), level, option, name.as_ptr().cast(), len) }).map(drop)
}

fn get(socket: Fd) -> io::Result<Name> {
    let (mut name, mut len) = ([0u8; NAME_MAX], NAME_MAX as libc::socklen_t);
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
    // SAFETY: at most `len` bytes are written to a live local.
    check(unsafe { libc::getsockopt(socket.raw(), level, option, name.as_mut_ptr().cast(), &mut len) })?;
    Ok(name.into_iter().take_while(|byte| *byte != 0).collect())
}

/// Whether a socket's algorithm sends by the clock.
#[cfg(test)]
pub fn paces(socket: Fd) -> io::Result<bool> {
    get(socket).map(|name| paces_by_name(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> Fd {
        new_socket(Protocol::Tcp, SocketAddr::from(([127, 0, 0, 1], 0)), libc::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn a_name_is_set_and_read() {
        let socket = socket();
        assert_eq!(get(socket).unwrap(), default().unwrap());
        set(socket, UNPACED).unwrap();
        assert_eq!(get(socket).unwrap(), UNPACED);
        assert!(set(socket, b"nonsense").is_err());
        close(socket);
    }

    #[test]
    fn what_paces_is_replaced_and_comes_back() {
        let socket = socket();
        unpace(socket);
        let default = default().unwrap();
        let expected = if paces_by_name(default) { UNPACED } else { default };
        assert_eq!(get(socket).unwrap(), expected);
        reset(socket);
        assert_eq!(get(socket).unwrap(), default);
        // Another supervisor had done it, when another choice was the kernel's.
        set(socket, UNPACED).unwrap();
        reset(socket);
        assert_eq!(get(socket).unwrap(), default);
        close(socket);
    }
}
