//! Which server connections go to, and those that wait for one, with real servers; through deaths, hangs and reloads.

mod ejection;
mod queue;
mod shares;

use std::time::Duration;

use nix::sys::signal::Signal;
use proxy_tests::builder::Builder;
use proxy_tests::proxy::Proxy;
use proxy_tests::takeover::take_over;
use proxy_tests::{PRIMARY, STANDBY, handover};

const LISTEN: &str = "127.0.0.1:8080";
const A: &str = "127.0.0.1:9001";
const B: &str = "127.0.0.1:9002";
const C: &str = "127.0.0.1:9003";
const TIMEOUT: Duration = Duration::from_secs(15);

/// A listener, and its upstream with these settings and servers: an address, and more settings of it.
fn settings(upstream: &str, servers: &[(&str, &str)]) -> String {
    let server =
        |(address, more): &(&str, &str)| format!("[[upstream.u.server]]\naddress = \"{address}\"\n{more}\n");
    let servers: String = servers.iter().map(server).collect();
    format!(
        "[[listener]]\nname = \"l\"\nbind = [\"tcp://{LISTEN}\"]\nupstream = \"u\"\n[upstream.u]\n{upstream}\n{servers}"
    )
}

/// A proxy with such settings. Its ticks are short, for what other workers free is looked at by then.
fn with(upstream: &str, servers: &[(&str, &str)]) -> Builder {
    let builder = Proxy::builder().settings(&settings(upstream, servers)).flag("--lease", "400ms");
    builder.flag("--fence-after", "1s").flag("--failback-after", "never")
}

/// What connections have to come through unharmed.
#[derive(Clone, Copy, Debug)]
enum Upheaval {
    Kill,
    Stop,
    Reload,
}

impl Upheaval {
    const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::Reload];

    /// Lets it happen to the pool that serves, and waits until it is over.
    #[track_caller]
    fn strike(self, proxy: &Proxy) {
        let carrier = if proxy.status().serves(PRIMARY) { PRIMARY } else { STANDBY };
        match self {
            Self::Kill => take_over(proxy, carrier, Signal::SIGKILL),
            Self::Stop => take_over(proxy, carrier, Signal::SIGSTOP),
            Self::Reload => {
                handover::reload(proxy);
            }
        }
    }
}
