//! Bytes in flight between a client and a server of any kind of stream, while pools come and go.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::sys::signal::Signal;

use crate::clients::carries;
use crate::handover::hand_over;
use crate::proxy::Proxy;
use crate::takeover::{assert_adopted, take_over};
use crate::{PRIMARY, pattern};

/// What both kinds of stream have in common.
pub trait Stream: Read + Write + Send + Sized + 'static {
    /// Another handle of the same stream.
    fn another(&self) -> Self;
    /// Ends what this side writes.
    fn end(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn another(&self) -> Self {
        self.try_clone().expect("clone")
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn another(&self) -> Self {
        self.try_clone().expect("clone")
    }

    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// `plenty` bytes in both directions, into buffers that are full, at a death and at a handover; then both ends. Only
/// this connection is open.
#[track_caller]
pub fn arrive_once_and_in_order(
    proxy: &Proxy,
    (mut client, mut server): (impl Stream, impl Stream),
    plenty: usize,
) {
    carries(&mut client, &mut server);
    let writers = [write(&client, plenty), write(&server, plenty)];
    proxy.until_metric("proxy_pipes", &[("state", "lent")], 2.0);
    take_over(proxy, PRIMARY, Signal::SIGKILL);
    assert_adopted(proxy, &[("protocol", "tcp"), ("state", "busy")], 1.0);
    hand_over(proxy, &["reload"]);
    let reader = thread::spawn(move || pattern::verify(&mut client));
    assert_eq!(pattern::verify(&mut server).expect("read"), plenty);
    assert_eq!(reader.join().expect("the reader").expect("read"), plenty);
    writers.into_iter().for_each(|writer| writer.join().expect("the writer"));
}

fn write(to: &impl Stream, plenty: usize) -> thread::JoinHandle<()> {
    let mut to = to.another();
    thread::spawn(move || {
        pattern::write(&mut to, plenty).expect("write");
        to.end().expect("an end");
    })
}
