//! UDP listeners.

use super::{super::view::View, family::Family};
use crate::{
    sys::socket::Protocol,
    table::{Counter, DropReason, EXPIRIES, Ending, ListenerCounters},
};

pub fn families(view: &View<'_>) -> Vec<Family> {
    let gauge = Family::gauge("proxy_udp_flows", "UDP flows open now.");
    let mut families = vec![summed(view, gauge, |counters| counters.open.get())];
    type Quantity = fn(&ListenerCounters) -> u64;
    let counters: [(&str, &str, Quantity); 6] = [
        ("proxy_udp_flows_total", "UDP flows begun.", |counters| counters.accepted.get()),
        ("proxy_udp_datagrams_received_total", "Datagrams received from clients.", |counters| {
            counters.datagrams_received.get()
        }),
        ("proxy_udp_datagrams_sent_total", "Datagrams sent to clients.", |counters| {
            counters.datagrams_sent.get()
        }),
        (
            "proxy_udp_foreign_datagrams_total",
            "Datagrams from clients that a worker sent on by a flow of another worker: that was silent or dead, or new \
             traffic goes to another pool than the flow's.",
            |counters| counters.foreign_datagrams.get(),
        ),
        ("proxy_udp_received_bytes_total", "Bytes received from clients in datagrams.", |counters| {
            counters.received_bytes.get()
        }),
        ("proxy_udp_sent_bytes_total", "Bytes sent to clients in datagrams.", |counters| {
            counters.sent_bytes.get()
        }),
    ];
    families
        .extend(counters.map(|(name, help, quantity)| summed(view, Family::counter(name, help), quantity)));
    families.extend([dropped(view), expired(view), queue(view)]);
    families
}

fn summed(view: &View<'_>, mut family: Family, quantity: impl Fn(&ListenerCounters) -> u64) -> Family {
    for (number, listener) in view.listeners(Protocol::Udp) {
        family.add(&[("listener", &listener)], view.sum_listener(number, &quantity) as f64);
    }
    family
}

fn dropped(view: &View<'_>) -> Family {
    let mut family = Family::counter(
        "proxy_udp_datagrams_dropped_total",
        "Datagrams dropped either way, by reason; receive_buffer: by the kernel, because too many waited in the \
         listening sockets.",
    );
    for (number, listener) in view.listeners(Protocol::Udp) {
        for (reason, label) in DropReason::ALL {
            let count =
                view.sum_listener(number, |counters| counters.datagrams_dropped[reason as usize].get());
            family.add(&[("listener", &listener), ("reason", label)], count as f64);
        }
        // Control has no sockets of a retired listener, and a counter is better missing than taken back.
        if !view.config.listeners[number].is_retired {
            let (_, drops) = view.receive_queue(number);
            family.add(&[("listener", &listener), ("reason", "receive_buffer")], drops as f64);
        }
    }
    family
}

fn expired(view: &View<'_>) -> Family {
    let help = "UDP flows that were ended because nothing more was awaited of them, or a limit on their time was \
                reached, by reason; evicted: a silent one made room where hardly any more may be open.";
    let mut family = Family::counter("proxy_udp_flows_expired_total", help);
    for (number, listener) in view.listeners(Protocol::Udp) {
        for ending in EXPIRIES.into_iter().filter(|ending| *ending != Ending::HalfClosed) {
            let count = |counters: &ListenerCounters| counters.of_expiry(ending).map_or(0, Counter::get);
            let labels = [("listener", listener.as_str()), ("reason", &ending.to_string())];
            family.add(&labels, view.sum_listener(number, count) as f64);
        }
    }
    family
}

fn queue(view: &View<'_>) -> Family {
    let help = "Memory of the datagrams that wait in the listening sockets of both pools, in bytes.";
    let mut family = Family::gauge("proxy_udp_receive_queue_bytes", help);
    for (number, listener) in view.listeners(Protocol::Udp) {
        let (bytes, _) = view.receive_queue(number);
        family.add(&[("listener", &listener)], bytes as f64);
    }
    family
}
