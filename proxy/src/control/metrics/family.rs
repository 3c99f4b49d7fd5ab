//! Building metric families.

use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};

use crate::table::{HISTOGRAM_BOUNDS_MS, Histogram};

/// Label names and values.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// A family under construction.
pub struct Family(MetricFamily);

impl Family {
    /// A number that only grows; its name ends in `_total`.
    pub fn counter(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::COUNTER)
    }

    /// A number that goes up and down.
    pub fn gauge(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::GAUGE)
    }

    /// Durations in buckets.
    pub fn histogram(name: &str, help: &str) -> Self {
        Self::new(name, help, MetricType::HISTOGRAM)
    }

    /// With one value, without labels.
    pub fn of(mut self, value: f64) -> Self {
        self.add(&[], value);
        self
    }

    /// Adds a value of a counter or gauge. (Floats are exact for counts up to 2^53.)
    pub fn add(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = labelled(labels);
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// Adds the sum of histograms: their buckets are not cumulated, those of the format are.
    pub fn add_histogram<'h>(&mut self, labels: Labels<'_>, parts: impl IntoIterator<Item = &'h Histogram>) {
        let mut counts = [0u64; HISTOGRAM_BOUNDS_MS.len() + 1];
        let mut sum_us = 0u64;
        for part in parts {
            for (count, bucket) in counts.iter_mut().zip(&part.buckets) {
                *count = count.wrapping_add(bucket.get());
            }
            sum_us = sum_us.wrapping_add(part.sum_us.get());
        }
        let mut total = 0;
        let buckets = HISTOGRAM_BOUNDS_MS.iter().zip(counts).map(|(bound_ms, count)| {
            total += count;
            bucket(*bound_ms, total)
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum_us as f64 / 1e6);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.0.mut_metric().push(metric);
    }

    /// The family, unless nothing was added: the format has no empty ones.
    pub fn finish(self) -> Option<MetricFamily> {
        Some(self.0).filter(|family| !family.get_metric().is_empty())
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        Self(family)
    }
}

fn bucket(bound_ms: u64, cumulative_count: u64) -> proto::Bucket {
    let mut bucket = proto::Bucket::default();
    bucket.set_upper_bound(bound_ms as f64 / 1000.0);
    bucket.set_cumulative_count(cumulative_count);
    bucket
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    });
    Metric::from_label(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;
    use zerocopy::FromZeros;

    #[test]
    fn histograms_are_summed_and_cumulated() {
        let (one, other) = (Histogram::new_zeroed(), Histogram::new_zeroed());
        one.observe_us(500);
        one.observe_us(60_000_000);
        other.observe_us(1500);
        let mut family = Family::histogram("x_seconds", "X.");
        family.add_histogram(&[("server", "a\"b")], [&one, &other]);
        let text = TextEncoder::new().encode_to_string(&[family.finish().unwrap()]).unwrap();
        let expected = [
            "# TYPE x_seconds histogram",
            r#"x_seconds_bucket{server="a\"b",le="0.001"} 1"#,
            r#"x_seconds_bucket{server="a\"b",le="0.002"} 2"#,
            r#"x_seconds_bucket{server="a\"b",le="10"} 2"#,
            r#"x_seconds_bucket{server="a\"b",le="+Inf"} 3"#,
            r#"x_seconds_sum{server="a\"b"} 60.002"#,
            r#"x_seconds_count{server="a\"b"} 3"#,
        ];
        for line in expected {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn an_empty_family_is_left_out() {
        assert!(Family::gauge("x", "X.").finish().is_none());
    }
}
