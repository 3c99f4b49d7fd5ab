//! What is open: listed from the flow table, and closed by order. One request asks for either; which sessions are
//! meant is told by names and networks ([`Filter`]).

mod close;
mod list;

pub use close::{Closed, close};
pub use list::{Session, all};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::view::View;
use crate::{slots, table::Criteria};

/// Which sessions are meant: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Clients of this network.
    pub source: Option<IpNet>,
    /// The server: its name, its address, or UPSTREAM/ either of them.
    pub server: Option<String>,
    /// The listener: its name, or one of its addresses.
    pub listener: Option<String>,
}

impl Filter {
    /// What it means in numbers. Several, for a name may be that of several addresses.
    ///
    /// # Errors
    /// There is no such server or listener.
    pub fn criteria(&self, view: &View<'_>) -> Result<Vec<Criteria>, String> {
        let listeners = numbers("listener", &self.listener, |wanted| {
            let all = (0..).zip(&view.config.listeners);
            let own = all.filter(|(_, own)| own.name == wanted || own.address.to_string() == wanted);
            own.map(|(number, _)| number).collect()
        })?;
        let servers = numbers("server", &self.server, |wanted| {
            let all = slots::all(view.config, &view.table);
            all.filter(|slot| is_named(slot, wanted)).map(|slot| slot.number as u32).collect()
        })?;
        let source = self.source;
        let of_listener = |listener: Option<u32>| {
            servers.iter().map(move |server| Criteria { source, listener, server: *server })
        };
        Ok(listeners.into_iter().flat_map(of_listener).collect())
    }
}

fn is_named(slot: &slots::Slot<'_>, wanted: &str) -> bool {
    let names = [slot.name(), slot.identity.address.to_string()];
    let is_it = |name: &String| name == wanted || format!("{}/{name}", slot.upstream.name) == wanted;
    names.iter().any(is_it)
}

fn numbers(
    what: &str,
    wanted: &Option<String>,
    find: impl FnOnce(&str) -> Vec<u32>,
) -> Result<Vec<Option<u32>>, String> {
    let Some(wanted) = wanted else { return Ok(vec![None]) };
    match find(wanted) {
        none if none.is_empty() => Err(format!("there is no {what} {wanted}; `proxy status` lists them")),
        found => Ok(found.into_iter().map(Some).collect()),
    }
}
