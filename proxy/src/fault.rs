//! Fault points, for tests only: named places between two steps whose order a takeover relies on. With the
//! feature `fault-points` a test can make a pool die at any of them ([`VARIABLE`]); without it they
//! are nothing at all.

#[cfg(feature = "fault-points")]
mod armed;

#[cfg(feature = "fault-points")]
pub(crate) use armed::{arm, enter, point};

/// Environment variable: `SEAT:POINT:N` kills the first pool of that seat when it passes the point
/// for the N-th time (for a point that the supervisor passes: when the supervisor does);
/// `SEAT:POINT:N:stop` stops it there (the supervisor waits there until it has stopped). Several are
/// separated by commas.
pub const VARIABLE: &str = "PROXY_FAULT";

/// Environment variable: what [`VARIABLE`] is for a successor, which has none of its own otherwise.
pub const NEXT_VARIABLE: &str = "PROXY_FAULT_NEXT";

macro_rules! points {
    ($($point:ident = $name:literal,)+) => {
        /// Where a pool can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Point { $(#[doc = $name] $point,)+ }

        #[cfg(feature = "fault-points")]
        impl Point {
            /// All, with their names.
            const ALL: &[(Self, &str)] = &[$((Self::$point, $name),)+];
        }
    };
}

// A name says what has just been done. One that no code passes is a warning of the compiler.
points! {
    EventTold = "event.told",
    AcceptTaken = "accept.taken",
    AcceptRecorded = "accept.recorded",
    AcceptTagged = "accept.tagged",
    AcceptAdded = "accept.added",
    AcceptCounted = "accept.counted",
    AcceptAdmitted = "accept.admitted",
    HeaderDue = "header.due",
    HeaderTold = "header.told",
    HeaderTaken = "header.taken",
    HeaderSent = "header.sent",
    QueueEntered = "queue.entered",
    QueueLeft = "queue.left",
    ConnectChosen = "connect.chosen",
    ConnectOpened = "connect.opened",
    ConnectRecorded = "connect.recorded",
    ConnectTagged = "connect.tagged",
    ConnectBegun = "connect.begun",
    ConnectCalled = "connect.called",
    ConnectAdded = "connect.added",
    ConnectFailed = "connect.failed",
    ConnectForgotten = "connect.forgotten",
    ConnectEstablished = "connect.established",
    FillLent = "fill.lent",
    FillHeld = "fill.held",
    FillFilled = "fill.filled",
    CopyHeld = "copy.held",
    CopyFilled = "copy.filled",
    CopyNoted = "copy.noted",
    CopyPart = "copy.part",
    CopyAll = "copy.all",
    CopyPoured = "copy.poured",
    CopyPiped = "copy.piped",
    CopyPicked = "copy.picked",
    UrgentWritten = "urgent.written",
    UrgentTaken = "urgent.taken",
    DrainPart = "drain.part",
    DrainAll = "drain.all",
    DrainForgotten = "drain.forgotten",
    PauseMarked = "pause.marked",
    PauseBegun = "pause.begun",
    PauseEnded = "pause.ended",
    EndSeen = "end.seen",
    EndFlagged = "end.flagged",
    EndPassed = "end.passed",
    EndBoth = "end.both",
    ResetSeen = "reset.seen",
    ResetFlagged = "reset.flagged",
    ResetUpstream = "reset.upstream",
    ResetClient = "reset.client",
    CloseBegun = "close.begun",
    LogPushed = "log.pushed",
    CloseUnheld = "close.unheld",
    CloseForgotten = "close.forgotten",
    CloseTagged = "close.tagged",
    CloseClosed = "close.closed",
    CloseFreed = "close.freed",
    UdpTaken = "udp.taken",
    UdpOpened = "udp.opened",
    UdpRecorded = "udp.recorded",
    UdpAdded = "udp.added",
    UdpTagged = "udp.tagged",
    UdpEntered = "udp.entered",
    UdpSent = "udp.sent",
    UdpRemoved = "udp.removed",
    UdpFreed = "udp.freed",
    UdpAdopted = "udp.adopted",
    AdoptBegun = "adopt.begun",
    AdoptHolders = "adopt.holders",
    AdoptUpstream = "adopt.upstream",
    AdoptTagged = "adopt.tagged",
    AdoptCounted = "adopt.counted",
    AdoptFlagged = "adopt.flagged",
    AdoptUnaudited = "adopt.unaudited",
    AdoptWalked = "adopt.walked",
    AdoptReplaying = "adopt.replaying",
    AdoptReplayed = "adopt.replayed",
    AdoptDone = "adopt.done",
    ImportDone = "import.done",
    ClaimBegun = "claim.begun",
    ClaimWalked = "claim.walked",
    ClaimDone = "claim.done",
    ClaimGranted = "claim.granted",
    MoveAdded = "move.added",
    MoveRemoved = "move.removed",
    MoveEmpty = "move.empty",
    MoveDone = "move.done",
    EstateLeft = "estate.left",
    PlacesKept = "places.kept",
    SweepCutting = "sweep.cutting",
    SweepCut = "sweep.cut",
    SweepListed = "sweep.listed",
    SweepGated = "sweep.gated",
    SweepFound = "sweep.found",
    SweepUngated = "sweep.ungated",
}

/// Nothing: fault points are not compiled in.
#[cfg(not(feature = "fault-points"))]
pub(crate) fn arm(_: crate::table::Table) -> anyhow::Result<()> {
    Ok(())
}

/// Nothing: fault points are not compiled in.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn point(_: Point) {}
