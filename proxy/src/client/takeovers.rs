//! The last takeovers, for people.

use std::collections::BTreeMap;

use super::columns::{Cell, Colour, number, word};
use crate::control::takeovers::TakeoverStatus;

/// A headline and a row each; nothing at all before the first takeover.
pub fn rows(takeovers: &[TakeoverStatus]) -> Vec<Vec<Cell>> {
    if takeovers.is_empty() {
        return Vec::new();
    }
    let head = ["TAKEN OVER", "AGO", "WHY"].map(word).into_iter();
    let head = head.chain([number("EPOCH"), number("ADOPT"), number("RESEAT")]);
    let head = head.chain(["ADOPTED", "LOST"].map(word)).collect();
    [head].into_iter().chain(takeovers.iter().map(row)).collect()
}

fn row(takeover: &TakeoverStatus) -> Vec<Cell> {
    let stage =
        |name: &str| number(takeover.stages_ms.get(name).map_or("-".into(), |ms| format!("{ms:.1} ms")));
    let ending = takeover.ending.as_ref().map_or(String::new(), |ending| format!(", {ending}"));
    let lost = word(in_words(&takeover.lost));
    vec![
        word(&takeover.seat),
        word(ago(takeover.seconds_ago)),
        word(format!("{}{ending}", takeover.reason)),
        number(takeover.epoch),
        stage("adopt"),
        stage("reseat"),
        word(in_words(&takeover.adopted)),
        if takeover.lost.is_empty() { lost } else { lost.coloured(Colour::Red) },
    ]
}

/// Such as `3 s`, `12 min`, `5 h`, `2 d`: nobody wants it more exactly.
fn ago(seconds: f64) -> String {
    let (unit, name) = match seconds {
        ..120.0 => (1.0, "s"),
        ..7200.0 => (60.0, "min"),
        ..172_800.0 => (3600.0, "h"),
        _ => (86_400.0, "d"),
    };
    format!("{:.0} {name}", (seconds / unit).floor())
}

fn in_words(counts: &BTreeMap<String, BTreeMap<String, u64>>) -> String {
    let all = counts.iter().flat_map(|(protocol, counts)| counts.iter().map(move |count| (protocol, count)));
    let words: Vec<_> = all.map(|(protocol, (what, count))| format!("{count} {protocol} {what}")).collect();
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{super::columns::lay_out, *};

    #[test]
    fn a_takeover_is_one_line() {
        let count = |protocol: &str, what: &str, count| {
            (protocol.to_owned(), BTreeMap::from([(what.to_owned(), count)]))
        };
        let takeover = TakeoverStatus {
            number: 1,
            seconds_ago: 754.3,
            time: "2026-01-02T03:04:05.678Z".into(),
            seat: "primary".into(),
            epoch: 3,
            reason: "hung".into(),
            ending: Some("signal 9".into()),
            stages_ms: [("adopt".into(), 2.34), ("fence".into(), 0.2)].into(),
            adopted: [count("tcp", "idle", 12), count("udp", "established", 3)].into(),
            lost: BTreeMap::new(),
        };
        let expected = "\
TAKEN OVER  AGO     WHY             EPOCH   ADOPT  RESEAT  ADOPTED                         LOST
primary     12 min  hung, signal 9      3  2.3 ms       -  12 tcp idle, 3 udp established  -
";
        assert_eq!(lay_out(&rows(&[takeover]), false), expected);
        assert_eq!(lay_out(&rows(&[]), false), "");
    }
}
