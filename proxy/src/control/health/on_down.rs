//! `on_down = "close"`: what is open to a server that is down by its checks is closed. It is looked at again and
//! again, so that another control goes on with it, and what slipped in is closed too.

use std::time::Duration;

use super::super::{sessions, view::View};
use crate::{
    config::rules::OnDown,
    slots::{self, Slot},
    table::{Criteria, Health},
};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Closes for good.
pub async fn run(view: &View<'_>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let meant = |slot: &Slot<'_>| {
            slot.upstream.rules.on_down == OnDown::Close
                && slot.cell.health() == Health::Down
                && view.table.open_to(slot.number) > 0
        };
        let down = slots::all(view.config, &view.table).filter(meant);
        let criteria: Vec<Criteria> =
            down.map(|slot| Criteria { server: Some(slot.number as u32), ..Criteria::default() }).collect();
        if !criteria.is_empty() {
            let outcome = sessions::close(view, &criteria).await;
            let (closed, silent) = (outcome.closed, outcome.silent.len());
            tracing::info!(closed, silent, "connections to servers that are down were closed");
        }
    }
}
