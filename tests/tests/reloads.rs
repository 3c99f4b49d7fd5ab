//! A short run of reloads under live sessions. `cargo xtask reloads` is the long one.

use std::time::Duration;

use proxy_tests::net::isolate;
use proxy_tests::reloads::{self, Settings};

#[test]
fn nothing_is_lost_and_nothing_grows() {
    isolate();
    reloads::run(&Settings { lasts: Duration::from_secs(15), count: 12, streams: 16, flows: 8 });
}
