//! TCP listeners.

use super::{super::view::View, family::Family};
use crate::{
    sys::socket::Protocol,
    table::{Counter, EXPIRIES, Ending, ListenerCounters, Rejection},
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let open = |counters: &ListenerCounters| counters.open.get();
    let gauge = Family::gauge("proxy_listener_connections", "TCP connections open now.");
    let waiting = Family::gauge(
        "proxy_listener_connections_waiting",
        "TCP connections that wait for an upstream server with room, or with an address.",
    );
    let mut families =
        vec![summed(view, gauge, open), summed(view, waiting, |counters| counters.waiting.get())];
    type Quantity = fn(&ListenerCounters) -> u64;
    let counters: [(&str, &str, Quantity); 4] = [
        ("proxy_listener_connections_total", "TCP connections accepted.", |counters| counters.accepted.get()),
        (
            "proxy_listener_connections_waited_total",
            "TCP connections that have waited for an upstream server, or do.",
            |counters| counters.waited.get(),
        ),
        ("proxy_listener_received_bytes_total", "Bytes received from clients.", |counters| {
            counters.received_bytes.get()
        }),
        ("proxy_listener_sent_bytes_total", "Bytes sent to clients.", |counters| counters.sent_bytes.get()),
    ];
    families
        .extend(counters.map(|(name, help, quantity)| summed(view, Family::counter(name, help), quantity)));
    families.extend([rejected(view), expired(view), queue(view)]);
    families
}

fn summed(view: &View<'_>, mut family: Family, quantity: impl Fn(&ListenerCounters) -> u64) -> Family {
    for (number, listener) in view.listeners(Protocol::Tcp) {
        family.add(&[("listener", &listener)], view.sum_listener(number, &quantity) as f64);
    }
    family
}

fn rejected(view: &View<'_>) -> Family {
    let mut family = Family::counter(
        "proxy_listener_connections_rejected_total",
        "TCP connections closed right after they were accepted, by reason.",
    );
    for (number, listener) in view.listeners(Protocol::Tcp) {
        for (reason, label) in Rejection::ALL {
            let count = view.sum_listener(number, |counters| counters.rejected[reason as usize].get());
            family.add(&[("listener", &listener), ("reason", label)], count as f64);
        }
    }
    family
}

fn expired(view: &View<'_>) -> Family {
    let help = "TCP connections that were reset because a limit on their time was reached, by reason.";
    let mut family = Family::counter("proxy_listener_connections_expired_total", help);
    for (number, listener) in view.listeners(Protocol::Tcp) {
        let is_of_tcp = |ending: &Ending| !matches!(ending, Ending::Responses | Ending::Evicted);
        for ending in EXPIRIES.into_iter().filter(is_of_tcp) {
            let count = |counters: &ListenerCounters| counters.of_expiry(ending).map_or(0, Counter::get);
            let labels = [("listener", listener.as_str()), ("reason", &ending.to_string())];
            family.add(&labels, view.sum_listener(number, count) as f64);
        }
    }
    family
}

fn queue(view: &View<'_>) -> Family {
    let help = "TCP connections that wait to be accepted, in the sockets of both pools.";
    let mut family = Family::gauge("proxy_listener_accept_queue_length", help);
    // Of a unix socket the kernel does not tell.
    let has_queue = |number: usize| view.config.listeners[number].address.path.is_none();
    for (number, listener) in view.listeners(Protocol::Tcp).filter(|(number, _)| has_queue(*number)) {
        family.add(&[("listener", &listener)], view.accept_queue(number) as f64);
    }
    family
}
