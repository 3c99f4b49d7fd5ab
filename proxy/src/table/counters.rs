//! Counters in shared memory. Each has one writer at a time, so adding is a load and a store.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use zerocopy::{FromZeros, KnownLayout};

use super::Ending;

/// A number that only grows, for the life of what it is about: mostly the supervisor's.
#[repr(transparent)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Begins anew, where the number is about something else from now on.
    pub(super) fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// Is told a counter, and its name as words. See [`Counted`].
pub type Visit<'a> = dyn FnMut(&[&str], &Counter) + 'a;

/// What holds counters. One list of them serves writing them down and reading them again, so that no
/// counter is forgotten on one side; and it names every field, so that none is forgotten on both.
pub trait Counted {
    /// Visits every counter. The names are a contract with the supervisor of another version.
    fn each_counter(&self, visit: &mut Visit<'_>);
}

/// A number that goes up and down.
#[repr(transparent)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn up(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// Takes one away; stays at 0.
    pub fn down(&self) {
        self.set(self.get().saturating_sub(1));
    }

    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of a [`Histogram`]'s buckets, milliseconds; the last bucket is everything above.
pub const HISTOGRAM_BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];

/// The names of a [`Histogram`]'s buckets.
const HISTOGRAM_BUCKETS: [&str; HISTOGRAM_BOUNDS_MS.len() + 1] =
    ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000", "above"];

/// Durations, counted by bucket (not cumulated).
#[repr(C)]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct Histogram {
    /// Counts by [`HISTOGRAM_BOUNDS_MS`], and one for what is above.
    pub buckets: [Counter; HISTOGRAM_BOUNDS_MS.len() + 1],
    /// Sum of all durations, microseconds.
    pub sum_us: Counter,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe_us(&self, microseconds: u64) {
        let above = |bound: &&u64| microseconds > **bound * 1000;
        self.buckets[HISTOGRAM_BOUNDS_MS.iter().take_while(above).count()].add(1);
        self.sum_us.add(microseconds);
    }
}

impl Counted for Histogram {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { buckets, sum_us } = self;
        for (bound, count) in HISTOGRAM_BUCKETS.iter().zip(buckets) {
            visit(&[bound], count);
        }
        visit(&["sum_us"], sum_us);
    }
}

/// Why a connection was turned away right after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `--max-connections` is reached.
    Limit,
    /// The process has no descriptor left.
    Descriptors,
    /// No upstream server could be reached.
    Upstream,
    /// Its listener does not let its client in.
    Denied,
    /// Its listener's `max_connections` is reached.
    ListenerLimit,
    /// Its listener's `max_connections_per_source` is reached.
    SourceLimit,
    /// Its listener's `max_connection_rate` is reached.
    Rate,
    /// All upstream servers have as many connections as they may have, and it may not wait.
    ServersFull,
    /// It has to begin with a PROXY header, and began with something else.
    HeaderInvalid,
    /// The PROXY header took too long.
    HeaderTimeout,
    /// It ended before its PROXY header did.
    HeaderMissing,
    /// A server cannot be connected to from the client's address, as its upstream wants.
    Source,
    /// It has waited for a server with room for the upstream's `queue_timeout`.
    QueueTimeout,
}

impl Rejection {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::Limit, "limit"),
        (Self::Descriptors, "descriptors"),
        (Self::Upstream, "upstream"),
        (Self::Denied, "denied"),
        (Self::ListenerLimit, "listener_limit"),
        (Self::SourceLimit, "source_limit"),
        (Self::Rate, "rate"),
        (Self::ServersFull, "servers_full"),
        (Self::HeaderInvalid, "header_invalid"),
        (Self::HeaderTimeout, "header_timeout"),
        (Self::HeaderMissing, "header_missing"),
        (Self::Source, "source"),
        (Self::QueueTimeout, "queue_timeout"),
    ];
}

/// Why datagrams were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// `--max-flows` is reached, or no descriptor is left for flows, and no flow is silent enough to make room.
    Limit,
    /// The process has no descriptor left.
    Descriptors,
    /// No upstream server takes it: none is up, or the server answered with an ICMP error.
    Upstream,
    /// A socket's send buffer was full.
    Congestion,
    /// Larger than a datagram may be on its way out (`EMSGSIZE`), or otherwise not sendable.
    Unsendable,
    /// Their listener does not let their client in.
    Denied,
    /// Their flow would be one more than their listener's `max_connections`.
    ListenerLimit,
    /// Their flow would be one more than their listener's `max_connections_per_source`.
    SourceLimit,
    /// Their flow would be more than their listener's `max_connection_rate`.
    Rate,
    /// All upstream servers have as many flows as they may have.
    ServersFull,
    /// It has to begin with a PROXY header, and does not.
    Header,
    /// A server cannot be reached from the client's address, as its upstream wants.
    Source,
}

impl DropReason {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Limit, "limit"),
        (Self::Descriptors, "descriptors"),
        (Self::Upstream, "upstream"),
        (Self::Congestion, "congestion"),
        (Self::Unsendable, "unsendable"),
        (Self::Denied, "denied"),
        (Self::ListenerLimit, "listener_limit"),
        (Self::SourceLimit, "source_limit"),
        (Self::Rate, "rate"),
        (Self::ServersFull, "servers_full"),
        (Self::Header, "header"),
        (Self::Source, "source"),
    ];
}

/// Endings of flows that might have gone on, which are counted.
pub const EXPIRIES: [Ending; 5] =
    [Ending::Idle, Ending::HalfClosed, Ending::Lifetime, Ending::Responses, Ending::Evicted];

/// What one worker has counted for one listener.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ListenerCounters {
    /// TCP connections taken from the accept queue (rejected ones too); UDP flows begun.
    pub accepted: Counter,
    /// Connections or flows open now.
    pub open: Gauge,
    /// Of a group's first listener: connections and flows open now at all of its addresses.
    pub open_in_group: Gauge,
    /// Rejected connections, by [`Rejection`].
    pub rejected: [Counter; Rejection::ALL.len()],
    /// Connections that wait for a server.
    pub waiting: Gauge,
    /// Connections that have waited for one, or do.
    pub waited: Counter,
    /// Bytes from clients.
    pub received_bytes: Counter,
    /// Bytes to clients.
    pub sent_bytes: Counter,
    /// UDP datagrams from clients.
    pub datagrams_received: Counter,
    /// UDP datagrams to clients.
    pub datagrams_sent: Counter,
    /// UDP datagrams dropped either way, by [`DropReason`].
    pub datagrams_dropped: [Counter; DropReason::ALL.len()],
    /// UDP datagrams from clients, sent on by a flow of another worker.
    pub foreign_datagrams: Counter,
    /// Connections and flows that were ended, by [`EXPIRIES`].
    pub expired: [Counter; EXPIRIES.len()],
}

impl ListenerCounters {
    /// Counts a rejected connection.
    pub fn reject(&self, reason: Rejection) {
        self.rejected[reason as usize].add(1);
    }

    /// Counts a connection or flow that is ended, if it is by one of [`EXPIRIES`].
    pub fn expire(&self, why: Ending) {
        self.of_expiry(why).into_iter().for_each(|count| count.add(1));
    }

    /// The counter of one of [`EXPIRIES`].
    pub fn of_expiry(&self, ending: Ending) -> Option<&Counter> {
        let place = EXPIRIES.iter().position(|known| *known == ending)?;
        self.expired.get(place)
    }

    /// Counts dropped datagrams.
    pub fn dropped(&self, reason: DropReason, datagrams: u64) {
        self.datagrams_dropped[reason as usize].add(datagrams);
    }
}

impl Counted for ListenerCounters {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self {
            accepted,
            open: _,
            open_in_group: _,
            rejected,
            waiting: _,
            waited,
            received_bytes,
            sent_bytes,
            datagrams_received,
            datagrams_sent,
            datagrams_dropped,
            foreign_datagrams,
            expired,
        } = self;
        visit(&["accepted"], accepted);
        for ((_, reason), count) in Rejection::ALL.iter().zip(rejected) {
            visit(&["rejected", reason], count);
        }
        visit(&["waited"], waited);
        visit(&["received_bytes"], received_bytes);
        visit(&["sent_bytes"], sent_bytes);
        visit(&["datagrams_received"], datagrams_received);
        visit(&["datagrams_sent"], datagrams_sent);
        for ((_, reason), count) in DropReason::ALL.iter().zip(datagrams_dropped) {
            visit(&["datagrams_dropped", reason], count);
        }
        visit(&["foreign_datagrams"], foreign_datagrams);
        for (ending, count) in EXPIRIES.iter().zip(expired) {
            visit(&["expired", &ending.to_string()], count);
        }
    }
}

/// Why connecting to an upstream server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// It answered RST, or ICMP port unreachable.
    Refused,
    /// `--connect-timeout` passed.
    Timeout,
    /// There is no way to it.
    Unreachable,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// All, with their label values.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::Unreachable, "unreachable"),
        (Self::Other, "other"),
    ];
}

/// What one worker has counted for one upstream server.
#[repr(C, align(64))]
#[derive(Debug, FromZeros, KnownLayout)]
pub struct ServerCounters {
    /// TCP connections made and UDP flows begun.
    pub connections: Counter,
    /// Connections and flows open now, or being made.
    pub open: Gauge,
    /// Failures to connect, by [`ConnectFailure`].
    pub failures: [Counter; ConnectFailure::ALL.len()],
    /// Times that it was ejected.
    pub ejections: Counter,
    /// How long connecting took.
    pub connect_duration: Histogram,
}

impl Counted for ServerCounters {
    fn each_counter(&self, visit: &mut Visit<'_>) {
        let Self { connections, open: _, failures, ejections, connect_duration } = self;
        visit(&["connections"], connections);
        visit(&["ejections"], ejections);
        for ((_, reason), count) in ConnectFailure::ALL.iter().zip(failures) {
            visit(&["failures", reason], count);
        }
        connect_duration.each_counter(&mut |name, count| visit(&["connect_duration", name[0]], count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_called_by_their_bounds() {
        let bounds = HISTOGRAM_BOUNDS_MS.map(|bound| bound.to_string());
        assert_eq!(HISTOGRAM_BUCKETS[..bounds.len()], bounds);
    }

    #[test]
    fn a_duration_lands_in_its_bucket() {
        let histogram = Histogram::new_zeroed();
        for microseconds in [0, 1000, 1001, 20_000_000] {
            histogram.observe_us(microseconds);
        }
        assert_eq!(histogram.buckets[0].get(), 2);
        assert_eq!(histogram.buckets[1].get(), 1);
        assert_eq!(histogram.buckets[HISTOGRAM_BOUNDS_MS.len()].get(), 1);
        assert_eq!(histogram.sum_us.get(), 20_002_001);
    }
}
