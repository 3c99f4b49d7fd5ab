//! What the supervisor tells control without being asked, one message each.

use std::{fs::File, io};

use crate::sys::{Fd, fd, rights};

/// A notice.
#[derive(Debug)]
pub enum Notice {
    /// The access log goes to this file from now on.
    Reopened(File),
    /// No pool of this supervisor does anything any more: what is in the rings of the access log is to be written,
    /// and control to end.
    Leave,
}

const REOPENED: &[u8] = b"reopened";
const LEAVE: &[u8] = b"leave";

impl Notice {
    /// Sends it by a line that keeps messages apart and does not block.
    ///
    /// # Errors
    /// `WouldBlock`: control has not heard many before. `BrokenPipe`: nobody is there.
    pub fn send(self, line: Fd) -> io::Result<()> {
        match self {
            Self::Leave => rights::send(line, LEAVE, &[]),
            Self::Reopened(file) => {
                let file = Fd::keep(file);
                let sent = rights::send(line, REOPENED, &[file]);
                fd::close(file);
                sent
            }
        }
    }

    /// Receives one.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `UnexpectedEof`: the line is closed. `InvalidData`: it is none.
    pub fn receive(line: Fd) -> io::Result<Self> {
        let (mut word, mut files) = ([0; 16], Vec::new());
        let length = rights::receive(line, &mut word, &mut files);
        let mut files = files.into_iter().map(|file| File::from(file.into_owned()));
        match (&word[..length?], files.next()) {
            (b"", _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (LEAVE, None) => Ok(Self::Leave),
            (REOPENED, Some(file)) => Ok(Self::Reopened(file)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Forgets those that a dead control has not heard.
    pub fn forget_all(line: Fd) {
        while Self::receive(line).is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::io::Read as _;

    #[test]
    fn a_notice_comes_with_its_file() {
        let (ours, theirs) = socket::message_pair().unwrap();
        Notice::Reopened(File::open("/proc/self/comm").unwrap()).send(ours).unwrap();
        Notice::Leave.send(ours).unwrap();
        let Notice::Reopened(mut file) = Notice::receive(theirs).unwrap() else { panic!("reopened") };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        assert!(matches!(Notice::receive(theirs), Ok(Notice::Leave)));
        assert_eq!(Notice::receive(theirs).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        socket::send_message(ours, b"reopened").unwrap();
        assert_eq!(Notice::receive(theirs).unwrap_err().kind(), io::ErrorKind::InvalidData);
        Notice::Leave.send(ours).unwrap();
        Notice::forget_all(theirs);
        fd::close(ours);
        assert_eq!(Notice::receive(theirs).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        fd::close(theirs);
    }
}
