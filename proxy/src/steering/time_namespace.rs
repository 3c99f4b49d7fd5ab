//! In a time namespace `CLOCK_MONOTONIC`, which leases are written in, is shifted against the
//! kernel's own clock, which the program compares them with (time_namespaces(7)).

use std::{fs, io};

use super::SteeringError;

const OFFSETS: &str = "/proc/self/timens_offsets";

/// Refuses to go on where leases would mean another time to the kernel than to us.
pub(super) fn check() -> Result<(), SteeringError> {
    match monotonic_offset_ns()? {
        0 => Ok(()),
        offset_ns => Err(SteeringError::TimeNamespace { offset_ns }),
    }
}

/// By how much `CLOCK_MONOTONIC` of this process and its children is ahead of the kernel's clock.
fn monotonic_offset_ns() -> Result<i128, SteeringError> {
    let offsets = match fs::read_to_string(OFFSETS) {
        Ok(offsets) => offsets,
        // The kernel knows no time namespaces (CONFIG_TIME_NS).
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(SteeringError::Io { what: format!("read {OFFSETS}"), error }),
    };
    parse(&offsets).ok_or(SteeringError::Offsets { offsets })
}

/// The offset of the line `monotonic SECONDS NANOSECONDS`. Seconds may be negative.
fn parse(offsets: &str) -> Option<i128> {
    let line = offsets.lines().find_map(|line| line.strip_prefix("monotonic"))?;
    let mut fields = line.split_whitespace().map(str::parse::<i64>);
    let (seconds, nanoseconds) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_offset() {
        assert_eq!(parse("monotonic           0         0\nboottime            0         0\n"), Some(0));
    }

    #[test]
    fn monotonic_and_not_boottime() {
        assert_eq!(parse("boottime 7 0\nmonotonic -86400 500000000\n"), Some(-86_399_500_000_000));
    }

    #[test]
    fn garbage_is_no_offset() {
        for garbage in ["", "boottime 0 0", "monotonic", "monotonic 1", "monotonic x 0"] {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn this_machine_tells() {
        assert!(monotonic_offset_ns().is_ok());
    }
}
