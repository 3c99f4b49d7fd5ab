//! `kill`: streams that are open and new connections, each with a message there and back, while what serves them
//! is killed. When half of the time is over, it says so on standard output, and who started it does that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::exchange::Exchange;
use super::{KILL, say};
use crate::sample::Kill;
use crate::set::Set;

/// Open streams.
const STREAMS: usize = 16;
/// A message on each of them so often.
const STREAM_PERIOD: Duration = Duration::from_millis(10);
/// A new connection so often, whatever becomes of those before it.
const PERIOD: Duration = Duration::from_millis(2);
/// What has had no answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one turn may wait.
const TURN: Duration = Duration::from_millis(1);

/// Goes on for so long, then waits for what is under way.
pub fn run(to: SocketAddr, length: Duration) -> Result<Kill> {
    let mut set = Set::new()?;
    let mut streams = Streams::open(to, &set)?;
    let mut fresh = Fresh::new(to);
    let began = Instant::now();
    let mut is_killed = false;
    loop {
        let now = Instant::now();
        let is_over = now - began >= length;
        if !is_killed && now - began >= length / 2 {
            is_killed = true;
            say(KILL)?;
        }
        if is_over && fresh.under_way.is_empty() && streams.are_at_rest() {
            return Ok(result(&fresh, &streams));
        }
        fresh.turn(&set, now, is_over);
        streams.turn(now, is_over);
        for token in set.wait(TURN)? {
            match token.checked_sub(STREAMS) {
                None => streams.event(token),
                Some(number) => fresh.event(number),
            }
        }
    }
}

fn result(fresh: &Fresh, streams: &Streams) -> Kill {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let kept = streams.all.iter().filter(|stream| stream.exchange.is_some());
    Kill {
        attempts: fresh.attempts as u64,
        failed: fresh.failed,
        streams: STREAMS as u64,
        lost: streams.all.iter().filter(|stream| stream.exchange.is_none()).count() as u64,
        gap_ms: ms(fresh.gaps.longest),
        stall_ms: ms(kept.map(|stream| stream.gaps.longest).max().unwrap_or_default()),
    }
}

/// The longest time between two answers.
struct Gaps {
    last: Instant,
    longest: Duration,
}

impl Gaps {
    fn new(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO }
    }

    fn answer(&mut self, now: Instant) {
        self.longest = self.longest.max(now.saturating_duration_since(self.last));
        self.last = now;
    }
}

/// An open stream; without an exchange it is lost.
struct Stream {
    exchange: Option<Exchange>,
    number: u64,
    gaps: Gaps,
}

struct Streams {
    all: Vec<Stream>,
}

impl Streams {
    fn open(to: SocketAddr, set: &Set) -> Result<Self> {
        let open = |token| {
            let exchange = Exchange::start(to, set, token).context("cannot open a stream")?;
            Ok(Stream { exchange: Some(exchange), number: 0, gaps: Gaps::new(Instant::now()) })
        };
        Ok(Self { all: (0..STREAMS).map(open).collect::<Result<_>>()? })
    }

    fn event(&mut self, token: usize) {
        let stream = &mut self.all[token];
        let Some(exchange) = stream.exchange.as_mut() else { return };
        match exchange.go_on() {
            Ok(true) => stream.gaps.answer(Instant::now()),
            Ok(false) => {}
            Err(_) => stream.exchange = None,
        }
    }

    /// Says what is due, and gives up who is silent.
    fn turn(&mut self, now: Instant, is_over: bool) {
        for stream in &mut self.all {
            let Some(exchange) = stream.exchange.as_mut() else { continue };
            let since = now.saturating_duration_since(exchange.began);
            let is_lost = if !exchange.is_answered() {
                since >= PATIENCE
            } else if since >= STREAM_PERIOD && !is_over {
                stream.number += 1;
                exchange.say(stream.number, now).is_err()
            } else {
                false
            };
            if is_lost {
                stream.exchange = None;
            }
        }
    }

    fn are_at_rest(&self) -> bool {
        self.all.iter().all(|stream| stream.exchange.as_ref().is_none_or(Exchange::is_answered))
    }
}

/// New connections, by number.
struct Fresh {
    to: SocketAddr,
    under_way: HashMap<usize, Exchange>,
    due: Instant,
    attempts: usize,
    failed: u64,
    gaps: Gaps,
}

impl Fresh {
    fn new(to: SocketAddr) -> Self {
        let now = Instant::now();
        Self { to, under_way: HashMap::new(), due: now, attempts: 0, failed: 0, gaps: Gaps::new(now) }
    }

    fn event(&mut self, number: usize) {
        let Some(exchange) = self.under_way.get_mut(&number) else { return };
        match exchange.go_on() {
            Ok(false) => return,
            Ok(true) => self.gaps.answer(Instant::now()),
            Err(_) => self.failed += 1,
        }
        self.under_way.remove(&number);
    }

    /// Starts what is due, and gives up what is late.
    fn turn(&mut self, set: &Set, now: Instant, is_over: bool) {
        while self.due <= now && !is_over {
            self.due += PERIOD;
            let number = self.attempts;
            self.attempts += 1;
            match Exchange::start(self.to, set, STREAMS + number) {
                Ok(exchange) => drop(self.under_way.insert(number, exchange)),
                Err(_) => self.failed += 1,
            }
        }
        let before = self.under_way.len();
        self.under_way.retain(|_, exchange| now.saturating_duration_since(exchange.began) < PATIENCE);
        self.failed += (before - self.under_way.len()) as u64;
    }
}
