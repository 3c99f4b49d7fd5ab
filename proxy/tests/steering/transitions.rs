//! The program's log: one line for a change of where new traffic goes, none for each packet.

use std::cell::RefCell;

use log::{Log, Metadata, Record};
use proxy_common::lease::{PRIMARY, STANDBY};

use crate::group::{Machine, in_namespace, now};

thread_local! {
    /// `SteeringLog::flush` logs on the thread that calls it, so tests do not see each other's.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        LINES.with_borrow_mut(|lines| lines.push(line));
    }
    fn flush(&self) {}
}

#[test]
fn each_change_is_logged_once() {
    in_namespace(|| {
        let mut machine = Machine::udp(2);
        let mut steering_log = machine.steering.logger(Capture).expect("logger");
        let mut knock_and_read = |machine: &Machine| {
            for _ in 0..50 {
                machine.listeners[0].knock_first().expect("let in");
            }
            steering_log.flush();
            LINES.take()
        };
        let none: [&str; 0] = [];
        assert_eq!(knock_and_read(&machine), none);

        machine.liveness().set_live(PRIMARY, false);
        let line = "INFO listener 0: new traffic goes from the primary to the standby (bit_clear)";
        assert_eq!(knock_and_read(&machine), [line]);
        assert_eq!(knock_and_read(&machine), none);

        machine.liveness().expire(STANDBY);
        let line = "INFO listener 0: new traffic goes from the standby to the standby (fail_open)";
        assert_eq!(knock_and_read(&machine), [line]);

        machine.liveness().set_live(PRIMARY, true);
        machine.liveness().renew(PRIMARY, 0, now());
        let line = "INFO listener 0: new traffic goes from the standby to the primary (worker_expired)";
        assert_eq!(knock_and_read(&machine), [line]);
    });
}
