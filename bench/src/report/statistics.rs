//! Medians and percentiles. Pure.

/// The value in the middle, or the mean of the two there; `None` of none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// The least value that is not exceeded by so many percent, by nearest rank. The values are sorted.
pub fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0]), Some(5.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_percentile_is_a_value_that_was_seen() {
        assert_eq!(
            [0, 25, 50, 51, 100].map(|p| percentile(&[10, 20, 30, 40], p)),
            [10, 10, 20, 30, 40].map(Some)
        );
        assert_eq!(percentile(&[], 50), None);
    }
}
