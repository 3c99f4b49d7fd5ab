//! Heeding what the supervisor tells without being asked.

use std::{future::pending, io::ErrorKind, os::fd::AsRawFd as _};

use tokio::{io::Interest, net::UnixDatagram};

use super::access_log::Writer;
use crate::{notices::Notice, sys::Fd};

/// Heeds notices (`line` is a `SOCK_SEQPACKET` socket in truth) until control is to end.
pub async fn heed(line: &UnixDatagram, log: Option<&Writer>) {
    let socket = Fd::from_raw(line.as_raw_fd());
    loop {
        match line.async_io(Interest::READABLE, || Notice::receive(socket)).await {
            Ok(Notice::Reopened(file)) => {
                if let Some(log) = log {
                    log.replace(file);
                }
            }
            Ok(Notice::Leave) => return,
            Err(error) if error.kind() == ErrorKind::InvalidData => {}
            // With the supervisor and both pools gone, which others see to.
            Err(_) => return pending().await,
        }
    }
}
