//! Sets of messages of one batch.

use crate::sys::udp::BATCH;

/// A set of messages of an inbox, by index, in the order they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(u64);

const _: () = assert!(BATCH < u64::BITS as usize);

impl Chosen {
    /// The first `count` messages, at most [`BATCH`].
    pub fn first(count: usize) -> Self {
        Self((1 << count.min(BATCH)) - 1)
    }

    /// Those of them for which `wanted` holds.
    pub fn filter(self, wanted: impl Fn(usize) -> bool) -> Self {
        Self(self.iter().filter(|index| wanted(*index)).fold(0, |bits, index| bits | 1 << index))
    }

    /// Those of them that are not in `others`.
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Their indexes, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(index)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_keep_order_and_subtract() {
        let all = Chosen::first(7);
        let even = all.filter(|index| index % 2 == 0);
        assert_eq!(even.iter().collect::<Vec<_>>(), [0, 2, 4, 6]);
        assert_eq!(all.without(even).iter().collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(Chosen::first(0).iter().next(), None);
        assert_eq!(Chosen::first(BATCH).iter().count(), BATCH);
    }
}
