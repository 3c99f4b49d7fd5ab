//! Where lines go: a file, a pipe or a terminal, which may be full, slow, or gone.

use std::{
    io::{ErrorKind, Write},
    thread,
    time::Duration,
};

/// Wait before a pipe that is full is tried again.
const RETRY: Duration = Duration::from_millis(25);

/// It, and in what state it is.
pub struct Output<W> {
    to: W,
    /// Its last line is not whole.
    is_torn: bool,
    /// The last attempt failed, which was logged.
    has_failed: bool,
}

impl<W: Write> Output<W> {
    /// Begins to write.
    pub fn new(to: W) -> Self {
        Self { to, is_torn: false, has_failed: false }
    }

    /// Writes elsewhere from now on.
    pub fn replace(&mut self, to: W) {
        *self = Self { has_failed: self.has_failed, ..Self::new(to) };
    }

    /// Writes whole lines, and answers how many of them were not taken. Waits while a pipe is full, unless there is
    /// no time.
    pub fn put(&mut self, lines: &[u8], has_time: impl Fn() -> bool) -> u64 {
        let mut left = lines;
        if self.is_torn {
            // What is broken off is a line of its own, which nobody can take for another.
            match self.write(b"\n", &has_time) {
                Ok(_) => self.is_torn = false,
                Err(_) => return count(left),
            }
        }
        while !left.is_empty() {
            match self.write(left, &has_time) {
                Ok(taken) => left = &left[taken..],
                Err(error) => {
                    let done = &lines[..lines.len() - left.len()];
                    self.is_torn = done.last().is_some_and(|last| *last != b'\n');
                    if !std::mem::replace(&mut self.has_failed, true) {
                        tracing::warn!("the access log takes no lines, which are dropped: {error}");
                    }
                    return count(left);
                }
            }
        }
        if std::mem::take(&mut self.has_failed) {
            tracing::info!("the access log takes lines again");
        }
        0
    }

    fn write(&mut self, bytes: &[u8], has_time: impl Fn() -> bool) -> std::io::Result<usize> {
        loop {
            match self.to.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && has_time() => thread::sleep(RETRY),
                other => return other,
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then nothing.
    struct Small(Vec<u8>, usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.1);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..taken]);
            self.1 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_breaks_off_is_a_line_of_its_own() {
        let mut output = Output::new(Small(Vec::new(), 7));
        assert_eq!(output.put(b"one\ntwo\nthree\n", || true), 2);
        assert_eq!(output.put(b"four\n", || true), 1);
        output.to.1 = 100;
        assert_eq!(output.put(b"five\n", || true), 0);
        assert_eq!(output.to.0, b"one\ntwo\nfive\n");
        output.to.1 = 4;
        assert_eq!(output.put(b"six\nseven\n", || true), 1);
        output.replace(Small(Vec::new(), 100));
        assert_eq!(output.put(b"eight\n", || true), 0);
        assert_eq!(output.to.0, b"eight\n");
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_waited_for_while_there_is_time() {
        let left = std::cell::Cell::new(3);
        let has_time = || left.replace(left.get() - 1) > 1;
        assert_eq!(Output::new(Full).put(b"one\n", has_time), 1);
        assert_eq!(left.get(), 0);
    }
}
