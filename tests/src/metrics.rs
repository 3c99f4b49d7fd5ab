//! Scraping `/metrics` and reading the text format.

use std::collections::BTreeMap;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// What follows the head.
    pub body: String,
}

/// One GET request on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    get_by(address, path, "HTTP/1.1")
}

/// The same in a version of HTTP that knows no chunks, for servers that would send some.
pub fn get_unchunked(address: SocketAddr, path: &str) -> Result<Answer> {
    get_by(address, path, "HTTP/1.0")
}

fn get_by(address: SocketAddr, path: &str, version: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} {version}\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse_answer(&text).ok_or_else(|| std::io::Error::other(format!("not HTTP: {text:?}")))
}

fn parse_answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { code, body: body.to_owned() })
}

/// One line of the text format.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    fn matches(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let has = |(key, value): &(&str, &str)| self.labels.get(*key).is_some_and(|v| v == value);
        self.name == name && labels.iter().all(has)
    }
}

/// A scrape.
#[derive(Clone, Debug)]
pub struct Metrics(
    /// Every sample, in the order of the text.
    pub Vec<Sample>,
);

impl Metrics {
    /// Reads the text format. Panics on a line that it does not understand.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
        Self(lines.map(sample).collect())
    }

    /// The sum over all samples of this name that carry (at least) these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0.iter().filter(|s| s.matches(name, labels)).map(|s| s.value).sum()
    }

    /// Counters (of histograms too) that are less than in an earlier scrape.
    pub fn fallen_since(&self, earlier: &Self) -> Vec<String> {
        let fallen = |then: &Sample| {
            let now = self.same(then)?.value;
            (now < then.value)
                .then(|| format!("{} {:?}: {} before, {now} now", then.name, then.labels, then.value))
        };
        earlier.counters().filter_map(fallen).collect()
    }

    /// Counters of an earlier scrape that are not there any more.
    pub fn gone_since(&self, earlier: &Self) -> Vec<String> {
        let gone = earlier.counters().filter(|then| self.same(then).is_none());
        gone.map(|then| format!("{} {:?}", then.name, then.labels)).collect()
    }

    fn counters(&self) -> impl Iterator<Item = &Sample> {
        const ENDINGS: [&str; 4] = ["_total", "_count", "_sum", "_bucket"];
        self.0.iter().filter(|sample| ENDINGS.iter().any(|ending| sample.name.ends_with(ending)))
    }

    fn same(&self, other: &Sample) -> Option<&Sample> {
        self.0.iter().find(|sample| sample.name == other.name && sample.labels == other.labels)
    }

    /// Whether there is a sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// All samples of this name, for messages.
    pub fn show(&self, name: &str) -> String {
        let line = |s: &Sample| format!("{:?} {}", s.labels, s.value);
        let found = self.0.iter().filter(|s| s.name == name).map(line);
        format!("{name}: {}", found.collect::<Vec<_>>().join("; "))
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads `key="value",key="value"`. Values hold no quotes in what the proxy exports.
fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        labels.insert(key.to_owned(), value.to_owned());
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total Something.\n# TYPE a_total counter\n\
        a_total{pool=\"primary\",listener=\"tcp://[::]:80\"} 3\n\
        a_total{pool=\"standby\",listener=\"tcp://[::]:80\"} 4\nb 0.5\n";

    #[test]
    fn sums_by_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("a_total", &[("pool", "primary")]), 3.0);
        assert_eq!(metrics.sum("a_total", &[("listener", "tcp://[::]:80")]), 7.0);
        assert_eq!(metrics.sum("a_total", &[("pool", "none")]), 0.0);
        assert_eq!(metrics.sum("b", &[]), 0.5);
    }

    #[test]
    fn tells_of_counters_that_fell() {
        let (before, now) = (
            Metrics::parse(TEXT),
            Metrics::parse("a_total{pool=\"primary\",listener=\"tcp://[::]:80\"} 2\n"),
        );
        assert!(before.fallen_since(&before).is_empty() && before.gone_since(&before).is_empty());
        assert_eq!((now.fallen_since(&before).len(), now.gone_since(&before).len()), (1, 1));
    }

    #[test]
    #[should_panic(expected = "not a sample")]
    fn rejects_what_is_no_sample() {
        Metrics::parse("a_total{pool=primary} 3\n");
    }
}
