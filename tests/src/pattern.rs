//! Bytes whose value depends on their position in the stream, so that loss, doubling and
//! reordering show.

use std::io::{Read, Result, Write};
use std::sync::LazyLock;

/// A prime: no multiple of a buffer, page or pipe size moves the pattern onto itself.
const PERIOD: usize = 65_521;
const CHUNK: usize = 64 * 1024;

/// The pattern, long enough to take a chunk from any phase.
fn table() -> Vec<u8> {
    // A multiplicative hash of the position, so that neighbours differ.
    let byte = |i: usize| ((i % PERIOD).wrapping_mul(2_654_435_761) >> 13) as u8;
    (0..PERIOD + CHUNK).map(byte).collect()
}

/// At most `size` bytes of the pattern from a position on: fewer, but never none, if `size` is large.
pub fn from(position: usize, size: usize) -> &'static [u8] {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(table);
    let phase = position % PERIOD;
    &TABLE[phase..phase + size.min(CHUNK)]
}

/// Writes the first `length` bytes of the pattern.
pub fn write(to: &mut impl Write, length: usize) -> Result<()> {
    let table = table();
    let mut position = 0;
    while position < length {
        let size = CHUNK.min(length - position);
        let phase = position % PERIOD;
        to.write_all(&table[phase..phase + size])?;
        position += size;
    }
    Ok(())
}

/// Reads to the end of the stream. Returns the number of bytes; panics at the first wrong one.
pub fn verify(from: &mut impl Read) -> Result<usize> {
    let table = table();
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    loop {
        let size = from.read(&mut buffer)?;
        if size == 0 {
            return Ok(position);
        }
        let phase = position % PERIOD;
        let right = buffer[..size] == table[phase..phase + size];
        assert!(right, "wrong bytes in the {size} from position {position}");
        position += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifies_what_it_writes() {
        let mut bytes = Vec::new();
        write(&mut bytes, 300_001).expect("write to memory");
        assert_eq!(verify(&mut bytes.as_slice()).expect("read from memory"), 300_001);
    }

    #[test]
    #[should_panic(expected = "wrong bytes")]
    fn sees_a_lost_page() {
        let mut bytes = Vec::new();
        write(&mut bytes, 300_001).expect("write to memory");
        bytes.drain(8192..12288);
        let _ = verify(&mut bytes.as_slice());
    }
}
