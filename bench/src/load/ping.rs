//! `ping`: messages there and back on connections that stay open, the next as soon as one has come back.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};

use super::exchange::Exchange;
use super::meter::{Meter, TURN};
use crate::sample::Work;
use crate::set::Set;

/// Connections.
const CONNECTIONS: usize = 64;

/// Goes on until the meter is full. A connection that fails is an error.
pub fn run(to: SocketAddr, mut meter: Meter) -> Result<Work> {
    let mut set = Set::new()?;
    let start = |token| Exchange::start(to, &set, token).context("cannot connect");
    let mut open = (0..CONNECTIONS).map(start).collect::<Result<Vec<_>>>()?;
    let mut number = 0;
    loop {
        for token in set.wait(TURN)? {
            let exchange = &mut open[token];
            if exchange.is_answered() || !exchange.go_on().context("an open connection failed")? {
                continue;
            }
            let now = Instant::now();
            meter.took(now - exchange.began);
            number += 1;
            exchange.say(number, now).context("an open connection failed")?;
        }
        if let Some(work) = meter.turn()? {
            return Ok(work);
        }
    }
}
