//! The measurement of a takeover's gap does its work. What it measures is for `cargo xtask gap`: how long
//! things take on a machine that runs tests says nothing.

use std::process::Command;

use proxy_tests::builder::binary;

#[test]
fn every_kill_is_measured() {
    let mut gap = Command::new(env!("CARGO_BIN_EXE_gap"));
    gap.args(["--connections", "300", "--active", "20", "--kills", "2"]).env("PROXY_BIN", binary());
    let output = gap.output().expect("start the measurement");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // With all connections, and with a tenth of them.
    assert_eq!(said.matches("(20 values)").count(), 4, "{said}");
    assert_eq!(said.matches("(40 values)").count(), 2, "{said}");
}
