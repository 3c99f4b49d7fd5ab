//! A WebSocket with messages of all sizes both ways, in order.

use std::net::TcpStream;

use proxy_tests::clients::connect;
use proxy_tests::net::{at, isolate};
use proxy_tests::{pattern, servers};
use tungstenite::{Error, Message, WebSocket, client};

use crate::course::Course;
use crate::{DEATHS, LISTEN, SERVER, start_proxy};

/// Messages.
const STRIDE: u64 = 500;
/// Messages on the way; what they hold fits into socket buffers.
const WINDOW: u64 = 4;
const LARGEST: u64 = 60_000;

#[test]
fn socket_goes_on() {
    for death in DEATHS {
        isolate();
        let server = servers::Tcp::start(SERVER, servers::echo_messages);
        let proxy = start_proxy("tcp");
        Course::new(STRIDE).run(&proxy, "tcp", death, talk);
        assert_eq!(server.accepted(), 1);
    }
}

fn talk(course: &Course) {
    let (mut socket, _) = client(format!("ws://{LISTEN}/"), connect(at(LISTEN))).expect("a handshake");
    let mut sent = 0;
    while course.goes_on() || course.done() < sent {
        while course.goes_on() && sent < course.done() + WINDOW {
            socket.send(message(sent)).expect("send");
            sent += 1;
        }
        let number = course.done();
        assert!(socket.read().expect("an answer") == message(number), "message {number}");
        course.advance(1);
    }
    close(socket);
}

fn message(number: u64) -> Message {
    let size = number.wrapping_mul(7919) % LARGEST;
    Message::binary(pattern::from(number as usize * 1000, size as usize))
}

/// The close handshake: the server answers it, and then ends the stream.
fn close(mut socket: WebSocket<TcpStream>) {
    socket.close(None).expect("close");
    let end = std::iter::from_fn(|| Some(socket.read())).find_map(std::result::Result::err);
    assert!(matches!(end, Some(Error::ConnectionClosed)), "{end:?}");
}
