//! `short`: connects, sends a message, waits for it to come back, closes; and again.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::exchange::Exchange;
use super::meter::{Meter, TURN};
use crate::sample::Work;
use crate::set::Set;

/// Connections at a time.
const AT_A_TIME: usize = 32;

/// Goes on until the meter is full.
pub fn run(to: SocketAddr, mut meter: Meter) -> Result<Work> {
    let mut set = Set::new()?;
    let start = |set: &Set, token| Exchange::start(to, set, token).context("cannot connect");
    let mut open = (0..AT_A_TIME).map(|token| start(&set, token)).collect::<Result<Vec<_>>>()?;
    loop {
        for token in set.wait(TURN)? {
            match open[token].go_on() {
                Ok(false) => continue,
                Ok(true) => meter.took(open[token].began.elapsed()),
                Err(_) => meter.failed(1),
            }
            // Closes the one before.
            open[token] = start(&set, token)?;
        }
        if let Some(work) = meter.turn()? {
            return Ok(work);
        }
    }
}
