//! The line between the two: words, and documents with descriptors.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    time::Duration,
};

use crate::sys::{Fd, fd, memory, rights};

/// Environment variable that tells a successor the number of its end of the line.
pub const VARIABLE: &str = "PROXY_HANDOVER";
/// Longest time that one message waits for the other end.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest word, bytes.
const MAX_WORD: usize = 4096;
/// Longest document, bytes: a million flows of 96 bytes each, and room.
const MAX_DOCUMENT: u64 = 256 << 20;

/// What the successor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It can take over.
    Ready,
    /// It has.
    Taken,
    /// It cannot, and why.
    Refused(String),
}

/// One end.
#[derive(Clone, Copy, Debug)]
pub struct Line(Fd);

impl Line {
    /// Both ends.
    ///
    /// # Errors
    /// The descriptor limit is reached.
    pub fn pair() -> io::Result<(Self, Self)> {
        rights::pair(PATIENCE).map(|(one, other)| (Self(one), Self(other)))
    }

    /// The successor's end, if this process was started as one.
    pub fn from_environment() -> Option<Self> {
        let number = std::env::var(VARIABLE).ok()?.parse().ok()?;
        Some(Self(Fd::from_raw(number)))
    }

    /// Its descriptor.
    pub fn fd(self) -> Fd {
        self.0
    }

    /// Closes it.
    pub fn close(self) {
        fd::close(self.0);
    }

    /// Says a word.
    ///
    /// # Errors
    /// The other end is gone or does not listen.
    pub fn say(self, word: &Word) -> io::Result<()> {
        let text = match word {
            Word::Ready => "ready".into(),
            Word::Taken => "taken".into(),
            Word::Refused(why) => format!("refused {}", &why[..why.floor_char_boundary(MAX_WORD / 2)]),
        };
        rights::send(self.0, text.as_bytes(), &[])
    }

    /// Hears a word; to be asked when the line is readable.
    ///
    /// # Errors
    /// `UnexpectedEof`: the other end is gone. `InvalidData`: it said something else.
    pub fn hear(self) -> io::Result<Word> {
        let mut buffer = [0; MAX_WORD];
        let mut unasked = Vec::new();
        let len = self.receive(&mut buffer, &mut unasked);
        unasked.into_iter().for_each(fd::close);
        let len = len?;
        match std::str::from_utf8(&buffer[..len]) {
            Ok("ready") => Ok(Word::Ready),
            Ok("taken") => Ok(Word::Taken),
            Ok(text) if text.starts_with("refused ") => Ok(Word::Refused(text[8..].into())),
            _ => Err(invalid("no such word")),
        }
    }

    /// Sends a document and descriptors, which stay open here.
    ///
    /// # Errors
    /// The other end is gone, or has not read for a second.
    pub fn send(self, document: &[u8], fds: &[Fd]) -> io::Result<()> {
        let mut file = memory::file(c"proxy-handover")?;
        file.write_all(document)?;
        let carrier = Fd::keep(file);
        let first = rights::send(self.0, &(fds.len() as u64).to_ne_bytes(), &[carrier]);
        fd::close(carrier);
        first?;
        fds.chunks(rights::MOST_AT_ONCE).try_for_each(|chunk| rights::send(self.0, b"more", chunk))
    }

    /// Receives a document and its descriptors, when the line is readable.
    ///
    /// # Errors
    /// `UnexpectedEof`: the other end is gone. `InvalidData`: it sent something else.
    pub fn receive_document(self) -> io::Result<(Vec<u8>, Vec<Fd>)> {
        let (mut count, mut carriers) = ([0; 8], Vec::new());
        self.receive(&mut count, &mut carriers)?;
        let [carrier] = carriers[..] else { return Err(invalid("a document has one carrier")) };
        let document = read(carrier)?;
        let count = u64::from_ne_bytes(count) as usize;
        let mut fds = Vec::new();
        while fds.len() < count {
            self.receive(&mut [0; 8], &mut fds)?;
        }
        Ok((document, fds))
    }

    fn receive(self, buffer: &mut [u8], fds: &mut Vec<Fd>) -> io::Result<usize> {
        let received = match rights::receive(self.0, buffer, fds) {
            // The other end was closed with something unread, which is told once; what it said last comes after.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                rights::receive(self.0, buffer, fds)
            }
            other => other,
        };
        match received? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(len),
        }
    }
}

fn read(carrier: Fd) -> io::Result<Vec<u8>> {
    let mut file = File::from(carrier.into_owned());
    file.rewind()?;
    let mut document = Vec::new();
    file.take(MAX_DOCUMENT).read_to_end(&mut document)?;
    Ok(document)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bell;

    #[test]
    fn words_are_heard_and_the_end_is_told() {
        let (ours, theirs) = Line::pair().unwrap();
        for word in [Word::Ready, Word::Taken, Word::Refused("no room".into())] {
            ours.say(&word).unwrap();
            assert_eq!(theirs.hear().unwrap(), word);
        }
        rights::send(ours.fd(), b"hello", &[]).unwrap();
        assert_eq!(theirs.hear().unwrap_err().kind(), io::ErrorKind::InvalidData);
        ours.say(&Word::Refused("ä".repeat(10_000))).unwrap();
        assert!(matches!(theirs.hear(), Ok(Word::Refused(why)) if why.len() == MAX_WORD / 2));
        ours.close();
        assert_eq!(theirs.hear().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        theirs.close();
    }

    #[test]
    fn a_document_of_any_length_comes_with_all_its_descriptors() {
        let (ours, theirs) = Line::pair().unwrap();
        let bell = bell::create().unwrap();
        for count in [0, 1, 253, 600] {
            let document = vec![7; count * 1000];
            ours.send(&document, &vec![bell; count]).unwrap();
            let (got, fds) = theirs.receive_document().unwrap();
            assert_eq!((got, fds.len()), (document, count));
            fds.into_iter().for_each(fd::close);
        }
        ours.say(&Word::Ready).unwrap();
        assert_eq!(theirs.receive_document().unwrap_err().kind(), io::ErrorKind::InvalidData);
        ours.close();
        theirs.close();
        fd::close(bell);
    }
}
