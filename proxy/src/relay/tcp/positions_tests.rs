use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
};

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (connected, listener.accept().unwrap().0)
}

fn counters(stream: &TcpStream) -> StreamCounters {
    use std::os::fd::AsRawFd as _;
    stream::counters(Fd::from_raw(stream.as_raw_fd())).unwrap()
}

/// Waits until the other side has received so much (a FIN counts as one byte).
fn settle(stream: &TcpStream, received: u64) {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while counters(stream).received < received {
        assert!(std::time::Instant::now() < limit, "{:?}", counters(stream));
    }
}

#[test]
fn positions_are_exact_in_every_state() {
    let (mut connected, mut accepted) = pair();
    connected.write_all(&[7; 1000]).unwrap();
    settle(&accepted, 1000);
    assert_eq!((written(&counters(&connected), true), read(&counters(&accepted))), (1000, 0));
    accepted.read_exact(&mut [0; 300]).unwrap();
    assert_eq!(read(&counters(&accepted)), 300);
    accepted.write_all(&[7; 50]).unwrap();
    settle(&connected, 50);
    assert_eq!((written(&counters(&accepted), false), read(&counters(&connected))), (50, 0));

    connected.shutdown(Shutdown::Write).unwrap();
    settle(&accepted, 1001);
    // FIN_WAIT and CLOSE_WAIT: the FIN is no byte.
    assert_eq!((written(&counters(&connected), true), read(&counters(&accepted))), (1000, 300));
    let mut rest = Vec::new();
    accepted.read_to_end(&mut rest).unwrap();
    assert_eq!((rest.len(), read(&counters(&accepted))), (700, 1000));

    accepted.shutdown(Shutdown::Write).unwrap();
    settle(&connected, 51);
    assert_eq!((written(&counters(&accepted), false), read(&counters(&connected))), (50, 0));
}

#[test]
fn a_full_socket_counts_what_it_took() {
    let (connected, accepted) = pair();
    connected.set_nonblocking(true).unwrap();
    let mut total = 0;
    while let Ok(count) = (&connected).write(&[1; 65_536]) {
        total += count as u64;
    }
    assert_eq!(written(&counters(&connected), true), total);
    assert_eq!(read(&counters(&accepted)), 0);
}

#[test]
fn what_is_missing_or_double_is_seen() {
    assert_eq!(judge(100, 0, 100, false), Finding::Whole { written: 100 });
    assert_eq!(judge(100, 30, 70, true), Finding::Whole { written: 70 });
    assert_eq!(judge(100, 31, 70, true), Finding::UrgentTwice);
    let mismatch = |read, residue, written| Finding::Mismatch { read, residue, written };
    assert_eq!(judge(100, 31, 70, false), mismatch(100, 31, 70));
    assert_eq!(judge(100, 0, 99, true), mismatch(100, 0, 99));
    assert_eq!(judge(100, 0, 101, true), mismatch(100, 0, 101));
}

#[test]
fn what_is_left_in_a_buffer_is_its_end() {
    assert_eq!(in_buffer(0, 100, 100), Some(0..0), "nothing was read");
    assert_eq!(in_buffer(0, 107, 100), Some(0..7), "read, and not noted");
    assert_eq!(in_buffer(7, 107, 100), Some(0..7), "noted, and nothing sent");
    assert_eq!(in_buffer(7, 107, 105), Some(5..7), "a part was sent");
    assert_eq!(in_buffer(7, 107, 107), Some(7..7), "all was sent");
    assert_eq!(in_buffer(7, 108, 100), None, "more than was in it");
    assert_eq!(in_buffer(0, 99, 100), None, "more written than read");
    assert_eq!(in_buffer(0, 100 + 16_385, 100), None, "more than there is room for");
}
