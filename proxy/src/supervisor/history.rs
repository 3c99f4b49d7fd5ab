//! Tells each takeover: to the metrics, to the ring that `status` shows, and to the log.
//!
//! Workers count what they adopt and lose for all takeovers together. What was counted since the last
//! look is put down to the oldest takeover that goes on, or if none does to the last one (an idle
//! connection is audited later than adopted). So the takeovers' numbers add up to the metrics'
//! (but for what was not put down when the supervisor died); of
//! takeovers that overlap one may show what is another's.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    sys::process::Ending,
    table::{AdoptedState, FailoverReason, LostReason, RECENT_TAKEOVERS, Table, TakeoverCell, TakeoverStage},
};

use super::{plan::name, seats};

/// A death whose consequences are being dealt with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Death {
    /// When it was seen, monotonic nanoseconds.
    pub at: u64,
    /// The number of the takeover; `None` if the pool left nothing.
    pub number: Option<u64>,
}

/// What a dead pool left, and was not swept yet.
pub struct Unswept {
    /// Its epoch.
    pub epoch: u32,
    /// Its death; the default for what was found and is no dead pool's.
    pub death: Death,
    /// Why a flow is lost that nobody has adopted by then.
    pub reason: LostReason,
}

/// Flows adopted and lost, of all times.
type Totals = ([u64; AdoptedState::ALL.len()], [[u64; 2]; LostReason::ALL.len()]);

/// What was told so far.
pub struct History {
    table: Table,
    told: Totals,
}

impl History {
    /// Nothing yet.
    pub fn new(table: Table) -> Self {
        Self { table, told: totals(&table) }
    }

    /// A pool died and left something. Answers the takeover's number.
    pub fn begin(&self, seat: u32, epoch: u32, reason: FailoverReason, died_at_ns: u64) -> u64 {
        let block = self.table.supervisor();
        block.takeovers.add(1);
        let number = block.takeovers.get();
        block.recent_takeovers[place(number)].begin(number, |cell| {
            cell.seat.set(seat.into());
            cell.epoch.set(epoch.into());
            cell.reason.set(reason as u64);
            cell.died_at_ns.set(died_at_ns);
            cell.time_ms
                .set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64));
        });
        number
    }

    /// A stage of a takeover is over, which began at `since`, monotonic nanoseconds.
    pub fn stage(&self, number: Option<u64>, stage: TakeoverStage, since: u64) {
        let took_us = seats::elapsed_us(since);
        if let Some(number) = number {
            self.table.supervisor().takeover_duration[stage as usize].observe_us(took_us);
            self.with(number, |cell| cell.set_stage_us(stage, took_us));
        }
    }

    /// How a pool ended.
    pub fn ended(&self, number: Option<u64>, ending: Ending) {
        let code = match ending {
            Ending::Killed(signal) => signal as u64,
            Ending::Exited(code) => 256 + code as u64,
            // As if it were not over yet: nobody will know.
            Ending::Unknown => 0,
        };
        if let Some(number) = number {
            self.with(number, |cell| cell.ending.set(code));
        }
    }

    /// Puts what was adopted and lost since the last call down to the takeover `oldest`, or to the last one.
    pub fn put_down(&mut self, oldest: Option<u64>) {
        let now = totals(&self.table);
        if now == self.told {
            return;
        }
        let told = std::mem::replace(&mut self.told, now);
        let number = oldest.unwrap_or_else(|| self.table.supervisor().takeovers.get());
        self.with(number, |cell| {
            for (state, _, _) in AdoptedState::ALL {
                let index = state as usize;
                cell.adopted[index].add(now.0[index].wrapping_sub(told.0[index]));
            }
            for (reason, _) in LostReason::ALL {
                let index = reason as usize;
                let [tcp, udp] = [0, 1].map(|of| now.1[index][of].wrapping_sub(told.1[index][of]));
                cell.lost.tcp[index].add(tcp);
                cell.lost.udp[index].add(udp);
            }
        });
    }

    /// Logs a takeover all of whose flows have an owner again.
    pub fn log(&self, number: u64) {
        self.with(number, |cell| {
            let ms = |stage| cell.stage_us(stage).unwrap_or(0) as f64 / 1000.0;
            tracing::info!(
                pool = name(cell.seat.get() as u32),
                epoch = cell.epoch.get(),
                reason = FailoverReason::ALL.get(cell.reason.get() as usize).map_or("", |(_, label)| label),
                fence_ms = ms(TakeoverStage::Fence),
                queues_ms = ms(TakeoverStage::Queues),
                adopt_ms = ms(TakeoverStage::Adopt),
                sweep_ms = ms(TakeoverStage::Sweep),
                adopted = in_words(cell.adopted_by_kind()),
                lost = in_words(cell.lost_by_kind()),
                "taken over"
            );
        });
    }

    /// Does nothing if so many takeovers have begun since that it is forgotten.
    fn with(&self, number: u64, action: impl FnOnce(&TakeoverCell)) {
        let cell = &self.table.supervisor().recent_takeovers[place(number)];
        if number > 0 && cell.number() == number {
            action(cell);
        }
    }
}

fn place(number: u64) -> usize {
    (number % RECENT_TAKEOVERS as u64) as usize
}

fn totals(table: &Table) -> Totals {
    let adopted = |(state, _, _)| table.sum_counters(|worker| worker.adopted[state as usize].get());
    (AdoptedState::ALL.map(adopted), LostReason::ALL.map(|(reason, _)| table.lost(reason)))
}

/// Such as `tcp idle 12, udp established 3`; `none`.
fn in_words(counts: impl Iterator<Item = (&'static str, &'static str, u64)>) -> String {
    let words: Vec<_> = counts.map(|(protocol, what, count)| format!("{protocol} {what} {count}")).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
