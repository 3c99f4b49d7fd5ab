//! The TCP clients of a storm, and the server behind the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use socket2::SockRef;

use super::end::{STUCK, Talk};
use super::log::Log;
use super::script::{End, Script};
use super::{LISTEN, SERVER, small_thread};
use crate::net::at;
use crate::servers;

/// One connection after the other, until the storm is over.
pub fn client(log: &Log) {
    while !log.is_over.load(Relaxed) {
        let number = log.next.fetch_add(1, Relaxed);
        let script = Script::of(log.seed, number);
        match connection(log, number, &script) {
            Ok(received) => {
                log.bytes.fetch_add(received as u64, Relaxed);
                log.connections.fetch_add(1, Relaxed);
            }
            Err(trouble) => log.fail(&format!("client of connection {number}: {trouble}; {script:?}")),
        }
    }
}

fn connection(log: &Log, number: u64, script: &Script) -> Result<usize, String> {
    let mut stream =
        TcpStream::connect_timeout(&at(LISTEN), STUCK).map_err(|error| format!("connect: {error}"))?;
    prepare(&stream, &script.client);
    stream.write_all(&number.to_be_bytes()).map_err(|error| format!("first bytes: {error}"))?;
    Talk::new(stream, &script.client, &script.server).run(&log.give_up).map_err(|trouble| trouble.to_string())
}

/// The server: its script begins when it has read the connection's number.
pub fn serve(log: &Arc<Log>) -> servers::Tcp {
    let log = Arc::clone(log);
    servers::Tcp::start(SERVER, move |stream| {
        let log = Arc::clone(&log);
        // The thread that we are on has a stack of 2 MB.
        small_thread("server", move || serve_one(&log, stream));
        Ok(())
    })
}

fn serve_one(log: &Log, mut stream: TcpStream) {
    let mut number = [0; 8];
    let _ = stream.set_read_timeout(Some(STUCK));
    match stream.read_exact(&mut number) {
        Ok(()) => {}
        // The client's script was to reset at once, and a reset overtakes bytes.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
        Err(error) => return log.fail(&format!("server: no number, {error}, {:?}", stream.peer_addr())),
    }
    let number = u64::from_be_bytes(number);
    if number >= log.next.load(Relaxed) {
        return log.fail(&format!("server: WRONG BYTES, connection {number} is not begun yet"));
    }
    let script = Script::of(log.seed, number);
    prepare(&stream, &script.server);
    match Talk::new(stream, &script.server, &script.client).run(&log.give_up) {
        Ok(received) => drop(log.bytes.fetch_add(received as u64, Relaxed)),
        Err(trouble) => log.fail(&format!("server of connection {number}: {trouble}; {script:?}")),
    }
}

fn prepare(stream: &TcpStream, end: &End) {
    // Neither can fail on a connected socket.
    let _ = stream.set_nodelay(true);
    if let Some(size) = end.receive_buffer {
        let _ = SockRef::from(stream).set_recv_buffer_size(size);
    }
}
