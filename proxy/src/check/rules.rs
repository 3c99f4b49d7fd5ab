//! Settings that say more than can be done.

use super::Finding;
use crate::{config::Config, sys::socket::Protocol};

/// Settings that do nothing for a part of what they are about.
pub fn ignored(config: &Config) -> Vec<Finding> {
    let is_unlimited = |number: u32| {
        let mut of_group = config.listeners.iter().filter(|listener| listener.group == number);
        of_group
            .any(|listener| listener.rules.bandwidth.is_some() && listener.address.protocol == Protocol::Udp)
    };
    let groups = (0..).zip(&config.listeners).filter(|(number, listener)| listener.group == *number);
    groups
        .filter(|(number, _)| is_unlimited(*number))
        .map(|(_, listener)| {
            let what = format!("listener {}: bandwidth", listener.name);
            let remedy = "give UDP a listener of its own, or limit it elsewhere (tc-tbf(8))";
            Finding::warn(what, "it limits TCP connections, and not UDP flows", remedy)
        })
        .collect()
}
