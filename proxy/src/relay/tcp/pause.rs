//! While the sink of a half takes no more, that its source has more is no news: with every segment its worker would wake
//! for nothing (16 streams to one reader: 9,200 of 15,900 waits). So it is not told until the sink has taken all.

use crate::{
    fault::{self, Point},
    relay::{Lane, token::Token},
    sys::{Fd, epoll},
    table::{Direction, Holder, Record, mark},
};

use super::BEYOND_DATA;

/// Whether an event of a half's source tells of bytes only, and the sink has no room for those before them. It tells
/// when it has.
pub(super) fn is_early(mask: u32, holder: Holder) -> bool {
    matches!(holder, Holder::Pipe(_)) && mask & epoll::IN != 0 && mask & BEYOND_DATA == 0
}

/// Has no event tell of bytes from the source of a half that has a rest.
pub(super) fn begin(lane: &Lane, (client, record, direction): (Fd, &Record, Direction)) {
    let Some((source, token)) = source(client, record, direction) else { return };
    // First, so that an heir knows of it.
    record.mark(mark::PAUSED[direction as usize], true);
    fault::point(Point::PauseMarked);
    // An adopted one may be in a dead worker's set still: that one goes on telling.
    epoll::modify(lane.set, source, epoll::FLOW_BUT_IN, token.encode());
    fault::point(Point::PauseBegun);
}

/// Has events tell of bytes again, and of those that have come meanwhile.
pub(super) fn end(lane: &Lane, (client, record, direction): (Fd, &Record, Direction)) {
    let paused = mark::PAUSED[direction as usize];
    if !record.is_marked(paused) {
        return;
    }
    if let Some((source, token)) = source(client, record, direction)
        && !epoll::modify(lane.set, source, epoll::FLOW, token.encode())
    {
        // A dead worker has paused it, in a set of its own.
        let _ = epoll::add(lane.set, source, epoll::FLOW, token.encode());
    }
    fault::point(Point::PauseEnded);
    record.mark(paused, false);
}

fn source(client: Fd, record: &Record, direction: Direction) -> Option<(Fd, Token)> {
    let generation = record.generation();
    match direction {
        Direction::Up => Some((client, Token::Client { fd: client, generation })),
        Direction::Down => {
            record.upstream().map(|upstream| (upstream, Token::Upstream { client, generation }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_behind_a_rest_are_early() {
        let rest = Holder::Pipe(Fd::from_raw(9));
        assert!(is_early(epoll::IN, rest) && is_early(epoll::IN | epoll::OUT, rest));
        assert!(!is_early(epoll::IN, Holder::None), "there is no rest");
        assert!(!is_early(epoll::IN, Holder::Buffer(1)), "a dead worker's, for which no sink was asked");
        for more in [epoll::RDHUP, epoll::HUP, epoll::PRI, epoll::ERR] {
            assert!(!is_early(epoll::IN | more, rest) && !is_early(more, rest), "{more:#x}");
        }
    }
}
