//! Handing over to a successor: an upgrade to another binary, or a reload of the settings.

use crate::{orders::Answer, table::HandoverKind};

use super::Supervisor;

impl Supervisor {
    /// Begins a handover, whose outcome is told by the flow table.
    pub(super) fn begin_handover(
        &mut self,
        _now: u64,
        kind: HandoverKind,
        _binary: Option<String>,
    ) -> Answer {
        Answer::Refused(format!("{} is not there yet; restart the proxy instead", kind.label()))
    }
}
