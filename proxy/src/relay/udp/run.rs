//! Runs: consecutive datagrams of one flow that one send can carry. Pure.

use crate::sys::udp::{MAX_SEGMENTS, MAX_SEND};

/// Datagrams of equal size, the last one perhaps shorter, as the kernel's segmentation wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes of each datagram but the last.
    pub segment: usize,
    /// Bytes of all.
    pub bytes: usize,
    /// How many datagrams.
    pub datagrams: usize,
}

impl Run {
    /// The run that a message is: `len` bytes in datagrams of `segment` bytes, or one if that is 0.
    pub fn of(len: usize, segment: usize) -> Self {
        if segment == 0 || len <= segment {
            return Self { segment: len, bytes: len, datagrams: 1 };
        }
        Self { segment, bytes: len, datagrams: len.div_ceil(segment) }
    }

    /// This run and the next one as one; `None` if they have to be sent one after the other.
    pub fn join(self, next: Self) -> Option<Self> {
        let all_full = self.segment > 0 && self.bytes == self.segment * self.datagrams;
        // An empty datagram would vanish in a run; a shorter one can only end it.
        let fits = next.segment == self.segment || (next.datagrams == 1 && next.bytes < self.segment);
        let joined = Self {
            segment: self.segment,
            bytes: self.bytes + next.bytes,
            datagrams: self.datagrams + next.datagrams,
        };
        let possible = all_full && fits && next.bytes > 0;
        (possible && joined.bytes <= MAX_SEND && joined.datagrams <= MAX_SEGMENTS).then_some(joined)
    }

    /// The segment size to tell the kernel; 0 if it is one datagram.
    pub fn gso(self) -> u16 {
        if self.datagrams > 1 { u16::try_from(self.segment).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(first: (usize, usize), next: (usize, usize)) -> Option<(usize, usize)> {
        let joined = Run::of(first.0, first.1).join(Run::of(next.0, next.1))?;
        Some((joined.bytes, joined.datagrams))
    }

    #[test]
    fn equal_sizes_join_and_a_shorter_one_ends_the_run() {
        assert_eq!(join((100, 0), (100, 0)), Some((200, 2)));
        assert_eq!(join((300, 100), (100, 0)), Some((400, 4)));
        assert_eq!(join((300, 100), (250, 100)), Some((550, 6)));
        assert_eq!(join((100, 0), (7, 0)), Some((107, 2)));
        assert_eq!(join((107, 100), (100, 0)), None, "it has ended");
        assert_eq!(join((100, 0), (101, 0)), None, "longer");
        assert_eq!(join((100, 0), (120, 60)), None, "other segments");
        assert_eq!(join((100, 0), (50, 100)), Some((150, 2)), "a run of one is a datagram");
    }

    #[test]
    fn empty_datagrams_go_alone() {
        assert_eq!(join((0, 0), (0, 0)), None);
        assert_eq!(join((100, 0), (0, 0)), None);
        assert_eq!(join((0, 0), (100, 0)), None);
        assert_eq!(Run::of(0, 0).datagrams, 1);
    }

    #[test]
    fn a_send_has_its_limits() {
        assert_eq!(join((6300, 100), (100, 0)), Some((6400, 64)));
        assert_eq!(join((6400, 100), (100, 0)), None, "segments");
        assert_eq!(join((40_000, 1000), (26_000, 1000)), None, "bytes");
        assert_eq!(Run::of(65_507, 0).gso(), 0);
        assert_eq!(Run::of(65_507, 1000).gso(), 1000);
    }

    #[test]
    fn what_is_joined_is_cut_as_it_was() {
        // Every sequence of six small sizes: cutting the joined bytes by the segment gives the sizes back.
        for code in 0..4usize.pow(6) {
            let sizes: Vec<usize> = (0..6).map(|place| code / 4usize.pow(place) % 4).collect();
            let mut cut = Vec::new();
            let mut flush = |run: Run| match run.gso() {
                0 => cut.push(run.bytes),
                segment => {
                    cut.extend(
                        (0..run.bytes).step_by(segment.into()).map(|at| (run.bytes - at).min(segment.into())),
                    );
                }
            };
            let mut run: Option<Run> = None;
            for size in &sizes {
                let next = Run::of(*size, 0);
                run = Some(match run {
                    None => next,
                    Some(run) => run.join(next).unwrap_or_else(|| {
                        flush(run);
                        next
                    }),
                });
            }
            flush(run.unwrap());
            assert_eq!(cut, sizes);
        }
    }
}
