//! One line of the access log. Pure.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::table::LogEntry;

/// Now, by both clocks.
#[derive(Clone, Copy)]
pub struct Now {
    /// The wall's.
    pub time: SystemTime,
    /// The monotonic one, milliseconds, wrapping.
    pub ms: u32,
}

/// What the numbers of an entry stand for.
#[derive(Default)]
pub struct Names {
    /// The listener's name.
    pub listener: String,
    /// Its address.
    pub address: String,
    /// The upstream's name.
    pub upstream: Option<String>,
    /// The server's.
    pub server: Option<String>,
}

/// A line. Its keys are a contract; more may be added.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When it ended (RFC 3339).
    time: String,
    /// When it was accepted, or began.
    start: String,
    /// `tcp` or `udp`.
    protocol: &'static str,
    /// The listener's name.
    listener: String,
    /// Its address.
    address: String,
    /// The client's address.
    client: Option<SocketAddr>,
    /// The upstream's name.
    upstream: Option<String>,
    /// The server's.
    server: Option<String>,
    /// Bytes that reached the server.
    bytes_up: u64,
    /// Bytes that reached the client.
    bytes_down: u64,
    /// From start to end.
    duration_ms: u64,
    /// How long connecting to the server took.
    connect_ms: Option<u16>,
    /// From the start until the client got the first byte from the server.
    first_byte_ms: Option<u32>,
    /// Why it ended.
    reason: String,
    /// Takeovers that it has survived.
    takeovers: u8,
}

impl Line {
    /// What an entry says.
    pub fn of(entry: &LogEntry, names: Names, now: Now) -> Self {
        let ended = now.time - Duration::from_millis(now.ms.wrapping_sub(entry.ended_ms).into());
        let stamp = |time| humantime::format_rfc3339_millis(time).to_string();
        Self {
            time: stamp(ended),
            start: stamp(ended - Duration::from_millis(entry.duration_ms())),
            protocol: if entry.is_udp() { "udp" } else { "tcp" },
            listener: names.listener,
            address: names.address,
            client: client(entry),
            upstream: names.upstream,
            server: names.server,
            bytes_up: entry.bytes[0],
            bytes_down: entry.bytes[1],
            duration_ms: entry.duration_ms(),
            connect_ms: entry.connect_ms(),
            first_byte_ms: entry.first_byte_ms(),
            reason: entry.ending().map_or_else(|| "unknown".into(), |ending| ending.to_string()),
            takeovers: entry.takeovers,
        }
    }

    /// As one object, with the line's end.
    pub fn json(&self) -> String {
        // Maps with keys that are not text, the one thing that cannot be written, are nowhere in it.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// As `key=value` with blanks between, the time alone first; `-` is what there is none of.
    pub fn text(&self) -> String {
        let mut text = self.time.clone();
        let mut put = |key: &str, value: &str| {
            let value = quoted(value);
            // Writing to a String does not fail.
            let _ = write!(text, " {key}={value}");
        };
        put("start", &self.start);
        put("protocol", self.protocol);
        put("listener", &self.listener);
        put("address", &self.address);
        put("client", &or_dash(self.client));
        put("upstream", &or_dash(self.upstream.as_ref()));
        put("server", &or_dash(self.server.as_ref()));
        put("bytes_up", &self.bytes_up.to_string());
        put("bytes_down", &self.bytes_down.to_string());
        put("duration_ms", &self.duration_ms.to_string());
        put("connect_ms", &or_dash(self.connect_ms));
        put("first_byte_ms", &or_dash(self.first_byte_ms));
        put("reason", &self.reason);
        put("takeovers", &self.takeovers.to_string());
        text.push('\n');
        text
    }
}

fn client(entry: &LogEntry) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(entry.client);
    (!ip.is_unspecified()).then(|| SocketAddr::new(IpAddr::V6(ip).to_canonical(), entry.port))
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// As it is, unless somebody might take it for more than one word.
fn quoted(value: &str) -> String {
    let is_plain = |char: char| char.is_ascii_graphic() && !"\"\\=".contains(char);
    if !value.is_empty() && value.chars().all(is_plain) { value.into() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    fn line() -> Line {
        let mut entry = LogEntry::new_zeroed();
        entry.bytes = [517, 1 << 33];
        entry.client[10..].copy_from_slice(&[0xff, 0xff, 10, 1, 2, 3]);
        (entry.port, entry.begun_ms, entry.ended_ms, entry.takeovers) = (53, u32::MAX - 999, 500, 2);
        let names = Names {
            listener: "db".into(),
            address: "tcp://0.0.0.0:5432".into(),
            upstream: Some("post gres=\n".into()),
            server: None,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Line::of(&entry, names, Now { time, ms: 1500 })
    }

    #[test]
    fn a_line_is_one_line_of_words_with_times_of_the_wall() {
        let expected = "2023-11-14T22:13:19.000Z start=2023-11-14T22:13:17.500Z protocol=tcp listener=db \
                        address=tcp://0.0.0.0:5432 client=10.1.2.3:53 upstream=\"post gres=\\n\" server=- \
                        bytes_up=517 bytes_down=8589934592 duration_ms=1500 connect_ms=- first_byte_ms=- \
                        reason=unknown takeovers=2\n";
        assert_eq!(line().text(), expected);
    }

    #[test]
    fn json_is_one_line_too() {
        let text = line().json();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["upstream"], "post gres=\n");
        assert_eq!((&value["client"], &value["bytes_up"]), (&"10.1.2.3:53".into(), &517.into()));
        assert!(value["server"].is_null() && value["connect_ms"].is_null());
    }
}
