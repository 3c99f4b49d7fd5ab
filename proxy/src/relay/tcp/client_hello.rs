//! The server name of a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), as far as its bytes have come. Pure.

/// Most bytes that are looked at, records and all: a greater ClientHello has no name for us.
pub const MOST: usize = 16 << 10;

/// What the first bytes of a stream say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Nothing yet: the name may be in what is to come.
    Partial,
    /// A ClientHello for this server name, in lower case.
    Named(String),
    /// A ClientHello without one.
    Nameless,
    /// No ClientHello.
    Other,
}

/// Reads the first bytes of a stream.
pub fn read(bytes: &[u8]) -> Hello {
    let bytes = &bytes[..bytes.len().min(MOST)];
    let (message, end) = handshake(bytes);
    let name = server_name(&message).map_err(|stop| if let Stop::Partial = stop { end } else { stop });
    match name {
        Ok(name) => name.and_then(normal).map_or(Hello::Nameless, Hello::Named),
        Err(Stop::Partial) if bytes.len() < MOST => Hello::Partial,
        Err(Stop::Partial) => Hello::Nameless,
        Err(Stop::Garbage) => Hello::Other,
    }
}

/// Why reading does not go on.
#[derive(Debug)]
enum Stop {
    Partial,
    Garbage,
}

/// What has come of the first handshake message, its records' fragments put together (RFC 8446, 5.1), and why
/// there is no more.
fn handshake(mut bytes: &[u8]) -> (Vec<u8>, Stop) {
    const HANDSHAKE: u8 = 22;
    const LONGEST_FRAGMENT: usize = 1 << 14;
    let mut message = Vec::new();
    while !is_whole(&message) && !bytes.is_empty() {
        // Of a head that has not come whole, what has come has to fit.
        let (head, rest) = bytes.split_at(bytes.len().min(5));
        let len = head.get(3..5).map_or(1, |len| usize::from(len[0]) << 8 | usize::from(len[1]));
        let is_fine = head[0] == HANDSHAKE && head.get(1).is_none_or(|major| *major == 3);
        if !is_fine || !(1..=LONGEST_FRAGMENT).contains(&len) {
            return (message, Stop::Garbage);
        }
        let (fragment, rest) = rest.split_at(len.min(rest.len()));
        message.extend_from_slice(fragment);
        bytes = rest;
    }
    (message, Stop::Partial)
}

/// Whether a handshake message has come to its end: after it there may be records of other kinds.
fn is_whole(message: &[u8]) -> bool {
    let len = |head: &[u8; 4]| u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    message.first_chunk().is_some_and(|head| message.len() >= 4 + len(head))
}

/// The host name of a ClientHello's `server_name` extension.
fn server_name(message: &[u8]) -> Result<Option<&[u8]>, Stop> {
    const CLIENT_HELLO: u8 = 1;
    const SERVER_NAME: usize = 0;
    let mut message = Part { bytes: message, to_come: usize::MAX >> 1 };
    if message.byte()? != CLIENT_HELLO {
        return Err(Stop::Garbage);
    }
    let mut hello = message.vector(3)?;
    // Version and random; session, cipher suites, compression methods.
    hello.part(2 + 32)?;
    for width in [1, 2, 1] {
        hello.vector(width)?;
    }
    if hello.is_over() {
        return Ok(None);
    }
    let mut extensions = hello.vector(2)?;
    while !extensions.is_over() {
        let kind = extensions.number(2)?;
        let mut data = extensions.vector(2)?;
        if kind == SERVER_NAME {
            return host_name(&mut data);
        }
    }
    Ok(None)
}

fn host_name<'a>(extension: &mut Part<'a>) -> Result<Option<&'a [u8]>, Stop> {
    const HOST_NAME: u8 = 0;
    let mut names = extension.vector(2)?;
    while !names.is_over() {
        let kind = names.byte()?;
        let name = names.vector(2)?;
        if kind == HOST_NAME {
            return if name.to_come == 0 { Ok(Some(name.bytes)) } else { Err(Stop::Partial) };
        }
    }
    Ok(None)
}

/// A name in lower case; `None` for what cannot be a host's.
fn normal(name: &[u8]) -> Option<String> {
    const LONGEST: usize = 255;
    let is_fine = (1..=LONGEST).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    let name = std::str::from_utf8(name).ok().filter(|_| is_fine)?;
    Some(name.to_ascii_lowercase())
}

/// Bytes of known length, of which the last may not have come yet.
#[derive(Clone, Copy)]
struct Part<'a> {
    bytes: &'a [u8],
    to_come: usize,
}

impl<'a> Part<'a> {
    fn is_over(&self) -> bool {
        self.bytes.is_empty() && self.to_come == 0
    }

    /// Takes the next `len` bytes, as far as they have come.
    fn part(&mut self, len: usize) -> Result<Self, Stop> {
        if len > self.bytes.len() + self.to_come {
            return Err(Stop::Garbage);
        }
        let (bytes, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        let to_come = len - bytes.len();
        *self = Self { bytes: rest, to_come: self.to_come - to_come };
        Ok(Self { bytes, to_come })
    }

    /// Takes a number of `width` bytes, the first of them the highest.
    fn number(&mut self, width: usize) -> Result<usize, Stop> {
        let part = self.part(width)?;
        match part.to_come {
            0 => Ok(part.bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))),
            _ => Err(Stop::Partial),
        }
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.number(1).map(|byte| byte as u8)
    }

    /// Takes a vector that has its length before it, as a number of `width` bytes.
    fn vector(&mut self, width: usize) -> Result<Self, Stop> {
        let len = self.number(width)?;
        self.part(len)
    }
}

#[cfg(test)]
#[path = "client_hello_tests.rs"]
mod tests;
