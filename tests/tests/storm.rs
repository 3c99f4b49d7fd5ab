//! A short storm of a fixed seed. `cargo xtask storm` runs longer ones.

use std::time::Duration;

use proxy_tests::net::isolate;
use proxy_tests::storm::{self, Settings};

#[test]
fn nothing_is_lost_in_a_storm() {
    isolate();
    let settings = Settings { seed: 1, lasts: Duration::from_secs(15), clients: 50, flows: 8 };
    let report = storm::run(&settings);
    assert_eq!(report.failures, 0, "see above; {settings:?}");
    assert!(report.takeovers >= 10.0 && report.adopted >= 100.0, "{report:?}");
    assert!(report.connections >= 100 && report.bytes > 10_000_000, "{report:?}");
    assert!(report.answers >= 100 && report.foreign >= 1.0, "{report:?}");
}
