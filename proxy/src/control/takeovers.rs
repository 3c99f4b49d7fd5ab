//! The last takeovers, in the answer to `status`.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::view::SEAT_NAMES;
use crate::table::{FailoverReason, SupervisorBlock, TakeoverCell, TakeoverStage};

/// The end of the year 9999: no later time has a text.
const LAST_TIME_MS: u64 = 253_402_300_799_000;

/// Numbers by protocol and then by what they are about.
type ByProtocol = BTreeMap<String, BTreeMap<String, u64>>;

/// A takeover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TakeoverStatus {
    /// Counted from 1.
    pub number: u64,
    /// When the pool was seen dead.
    pub seconds_ago: f64,
    /// The same, RFC 3339.
    pub time: String,
    /// The dead pool's.
    pub seat: String,
    /// The dead pool's.
    pub epoch: u64,
    /// `killed`, or `hung` if it was killed for that.
    pub reason: String,
    /// Such as `signal 9` or `exit code 1`, once it was collected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
    /// By stage, as in the metric `proxy_takeover_duration_seconds`; what is not there was not
    /// needed, or is not over.
    pub stages_ms: BTreeMap<String, f64>,
    /// Flows carried on, by protocol and state. Of takeovers that overlap one may show the other's.
    pub adopted: ByProtocol,
    /// Flows lost, by protocol and reason.
    pub lost: ByProtocol,
}

/// The newest first.
pub(super) fn recent(block: &SupervisorBlock, now_ns: u64) -> Vec<TakeoverStatus> {
    let mut all: Vec<_> = block.recent_takeovers.iter().filter_map(|cell| read(cell, now_ns)).collect();
    all.sort_by_key(|takeover| std::cmp::Reverse(takeover.number));
    all
}

/// `None` if there is none, or if it is being overwritten.
fn read(cell: &TakeoverCell, now_ns: u64) -> Option<TakeoverStatus> {
    let number = Some(cell.number()).filter(|number| *number > 0)?;
    let time = UNIX_EPOCH + Duration::from_millis(cell.time_ms.get().min(LAST_TIME_MS));
    let stage =
        |(stage, name): (TakeoverStage, &str)| Some((name.to_owned(), cell.stage_us(stage)? as f64 / 1000.0));
    let takeover = TakeoverStatus {
        number,
        seconds_ago: now_ns.saturating_sub(cell.died_at_ns.get()) as f64 / 1e9,
        time: humantime::format_rfc3339_millis(time).to_string(),
        seat: SEAT_NAMES.get(cell.seat.get() as usize)?.1.into(),
        epoch: cell.epoch.get(),
        reason: FailoverReason::ALL.get(cell.reason.get() as usize)?.1.into(),
        ending: ending(cell.ending.get()),
        stages_ms: TakeoverStage::ALL.into_iter().filter_map(stage).collect(),
        adopted: by_protocol(cell.adopted_by_kind()),
        lost: by_protocol(cell.lost_by_kind()),
    };
    (cell.number() == number).then_some(takeover)
}

fn ending(code: u64) -> Option<String> {
    match code {
        0 => None,
        signal @ ..256 => Some(format!("signal {signal}")),
        code => Some(format!("exit code {}", code - 256)),
    }
}

fn by_protocol(kinds: impl Iterator<Item = (&'static str, &'static str, u64)>) -> ByProtocol {
    let mut counts = ByProtocol::new();
    for (protocol, what, count) in kinds {
        counts.entry(protocol.into()).or_default().insert(what.into(), count);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{AdoptedState, LostReason};
    use zerocopy::FromZeros;

    #[test]
    fn the_newest_is_first_and_says_what_it_knows() {
        let block = SupervisorBlock::new_zeroed();
        assert_eq!(recent(&block, 0), []);
        for number in [7, 8, 9] {
            block.recent_takeovers[number as usize % 8].begin(number, |cell| {
                cell.seat.set(1);
                cell.reason.set(FailoverReason::Hung as u64);
                cell.died_at_ns.set(1_000_000_000);
                cell.time_ms.set(1_700_000_000_123);
            });
        }
        let newest = &block.recent_takeovers[1];
        newest.set_stage_us(TakeoverStage::Adopt, 1500);
        newest.adopted[AdoptedState::Idle as usize].add(12);
        newest.lost.udp[LostReason::Corrupt as usize].add(1);
        newest.ending.set(9);
        let all = recent(&block, 3_500_000_000);
        assert_eq!(all.iter().map(|takeover| takeover.number).collect::<Vec<_>>(), [9, 8, 7]);
        let expected = r#"{"number":9,"seconds_ago":2.5,"time":"2023-11-14T22:13:20.123Z","seat":"standby","epoch":0,"reason":"hung","ending":"signal 9","stages_ms":{"adopt":1.5},"adopted":{"tcp":{"idle":12}},"lost":{"udp":{"corrupt":1}}}"#;
        assert_eq!(serde_json::to_string(&all[0]).unwrap(), expected);
    }

    #[test]
    fn garbage_is_no_takeover_and_no_panic() {
        let block = SupervisorBlock::new_zeroed();
        for (index, cell) in block.recent_takeovers.iter().enumerate() {
            cell.begin(u64::MAX - index as u64, |cell| {
                [&cell.seat, &cell.reason]
                    .into_iter()
                    .for_each(|gauge| gauge.set(u64::MAX * (index as u64 % 2)));
                [&cell.time_ms, &cell.died_at_ns, &cell.epoch]
                    .into_iter()
                    .for_each(|gauge| gauge.set(u64::MAX));
            });
            cell.ending.set(u64::MAX);
        }
        assert_eq!(recent(&block, 5).len(), 4);
    }
}
