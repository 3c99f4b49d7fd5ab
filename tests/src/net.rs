//! A network namespace of its own for each test: every port is free, nothing leaks in or out.

use std::net::{Ipv6Addr, SocketAddr};

use nix::sched::{CloneFlags, unshare};

use crate::sys;

/// A second IPv6 address of the loopback interface, beside `::1`.
pub const SECOND_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Moves this thread to a new network namespace with a loopback interface. First thing in a test:
/// threads and processes started from here on are in it too.
#[track_caller]
pub fn isolate() {
    let result = unshare(CloneFlags::CLONE_NEWNET);
    result.expect("a network namespace needs root: run `cargo xtask test` as root");
    sys::loopback_up().expect("bring lo up");
    sys::loopback_address(SECOND_IPV6).expect("give lo a second IPv6 address");
}

/// The address that the text is. For constants of tests.
#[track_caller]
pub fn at(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("no address: {address}"))
}
