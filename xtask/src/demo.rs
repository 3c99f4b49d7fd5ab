//! The demo upstream: two servers, A and B, each answering TCP and UDP on one port and telling who
//! answered, how often, and whom.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A client that says nothing for so long is sent away.
const SILENCE: Duration = Duration::from_secs(60);

/// Longest line that is read from a client, in bytes.
const LINE: u64 = 8 * 1024;

/// The running servers. They end with the process.
pub struct Demo {
    servers: Vec<SocketAddr>,
}

impl Demo {
    /// Starts both servers on free ports of 127.0.0.1.
    pub fn start() -> Result<Self> {
        let servers = ["A", "B"].into_iter().map(serve).collect::<Result<_>>()?;
        Ok(Self { servers })
    }

    /// Where they listen, TCP and UDP alike.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }
}

fn serve(name: &'static str) -> Result<SocketAddr> {
    let (tcp, udp) = bind()?;
    let address = tcp.local_addr()?;
    let answers = Arc::new(Answers { name, count: AtomicU64::new(0) });
    let datagrams = Arc::clone(&answers);
    thread::spawn(move || {
        for client in tcp.incoming().flatten() {
            let answers = Arc::clone(&answers);
            thread::spawn(move || answers.tcp(client));
        }
    });
    thread::spawn(move || datagrams.udp(&udp));
    Ok(address)
}

/// A TCP and a UDP socket on the same free port.
fn bind() -> Result<(TcpListener, UdpSocket)> {
    let mut last = None;
    // A free TCP port may be taken for UDP; a few tries are plenty.
    for _ in 0..16 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

struct Answers {
    name: &'static str,
    count: AtomicU64,
}

impl Answers {
    fn answer(&self, what: &str, from: SocketAddr) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        format!("server {}, answer {count}, to {from}: {what}\n", self.name)
    }

    /// Answers an HTTP request and closes, or answers lines until the client closes.
    fn tcp(&self, client: TcpStream) -> Result<()> {
        client.set_read_timeout(Some(SILENCE))?;
        let peer = client.peer_addr()?;
        let mut to = client.try_clone()?;
        let mut from = BufReader::new(client);
        while let Some(text) = line(&mut from)? {
            if !text.contains(" HTTP/1.") {
                to.write_all(self.answer(&text, peer).as_bytes())?;
                continue;
            }
            while line(&mut from)?.is_some_and(|header| !header.is_empty()) {}
            let body = self.answer(&text, peer);
            let length = body.len();
            return write!(
                to,
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            );
        }
        Ok(())
    }

    fn udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 2048];
        loop {
            // A failed receive or send is an ICMP error of an earlier datagram: nothing to mend.
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]);
            let _ = socket.send_to(self.answer(text.trim_end(), peer).as_bytes(), peer);
        }
    }
}

/// The next line without its end, or None at the end of the stream.
fn line(from: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    if std::io::Read::take(from, LINE).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()))
}
