//! A datagram check.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::UdpSocket;

use super::{Failure, MAX_ANSWER, has, unexpected};

/// Sends a datagram, and waits for one with what is expected.
pub async fn ask(address: SocketAddr, send: &[u8], expect: &[u8]) -> Result<(), Failure> {
    let socket = connected(address).await?;
    socket.send(send).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    let answer = &answer[..length];
    if has(answer, expect) { Ok(()) } else { Err(unexpected(answer)) }
}

/// Sends a datagram. An answer is well, and so is none; an ICMP error is not.
pub async fn send(address: SocketAddr, send: &[u8], limit: Duration) -> Result<(), Failure> {
    let socket = connected(address).await?;
    socket.send(send).await?;
    match tokio::time::timeout(limit, socket.recv(&mut [0; 1])).await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

async fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}
