//! The control arm of the seed experiment: one of two processes on a plain `SO_REUSEPORT` group,
//! without a kernel program, answering each request with its name.
//!
//! `plain_pool tcp|udp ADDRESS NAME`; prints "ready" when it listens, and runs until it is killed.

use std::env;
use std::io::Result;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;

use proxy_tests::servers::answer_lines;
use socket2::{Domain, Socket, Type};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [protocol, address, name] = arguments.as_slice() else {
        panic!("usage: plain_pool tcp|udp ADDRESS NAME");
    };
    let address = address.parse().expect("an address");
    match protocol.as_str() {
        "tcp" => tcp(address, name),
        "udp" => udp(address, name),
        other => panic!("neither tcp nor udp: {other}"),
    }
}

fn bind(kind: Type, address: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn tcp(address: SocketAddr, name: &str) -> Result<()> {
    let socket = bind(Type::STREAM, address)?;
    socket.listen(1024)?;
    println!("ready");
    for stream in TcpListener::from(socket).incoming() {
        let (stream, name) = (stream?, name.to_owned());
        thread::spawn(move || answer_lines(&name, stream));
    }
    Ok(())
}

fn udp(address: SocketAddr, name: &str) -> Result<()> {
    let socket = UdpSocket::from(bind(Type::DGRAM, address)?);
    println!("ready");
    let mut buffer = [0; 2048];
    loop {
        let (size, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&[name.as_bytes(), b" ", &buffer[..size]].concat(), peer)?;
    }
}
