//! Real clients of real servers, in the middle of their work when the pool that carries them is killed
//! or hangs, and again when its heir does: each goes on as if nothing had happened.
//!
//! The programs are Debian's; `cargo xtask test` fetches those that are not installed. [`course`] tells
//! when a pool is to die; each other file is one client and its server.

mod course;
mod dns;
mod http;
mod postgres;
mod redis;
mod sftp;
mod websocket;

use nix::sys::signal::Signal;
use proxy_tests::proxy::Proxy;

/// Where clients connect to.
const LISTEN: &str = "127.0.0.1:8080";
/// Where their servers listen.
const SERVER: &str = "127.0.0.1:9001";
const DEATHS: [Signal; 2] = [Signal::SIGKILL, Signal::SIGSTOP];

/// A proxy that fences a pool soon. It never fails back: after each takeover the heir carries everything.
#[track_caller]
fn start_proxy(protocol: &str) -> Proxy {
    let builder = Proxy::builder().listen(&format!("{protocol}://{LISTEN}")).upstream(SERVER);
    let builder = builder.flag("--workers", "2").flag("--failback-after", "never");
    builder.flag("--fence-after", "400ms").start()
}
