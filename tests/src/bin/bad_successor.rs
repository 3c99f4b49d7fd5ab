//! What an upgrade may be given instead of a proxy: its file's name says what is wrong with it.

use std::env;
use std::process::{abort, exit};
use std::thread;
use std::time::Duration;

use proxy::handover::line::{Line, Word};

fn main() {
    let path = env::current_exe().expect("own path");
    let line = Line::from_environment();
    let line = || line.expect("to be started by a proxy");
    match path.file_name().and_then(|name| name.to_str()).expect("a name") {
        "ends" => exit(0),
        "fails" => exit(7),
        "crashes" => abort(),
        "refuses" => line().say(&Word::Refused("the moon is wrong".into())).expect("say"),
        "says-ready" => line().say(&Word::Ready).expect("say"),
        "says-taken" => line().say(&Word::Taken).expect("say"),
        "says-nonsense" => line().send(b"nonsense", &[]).expect("send"),
        "says-nothing-more" => line().close(),
        "hangs" => {}
        other => panic!("{other} is nothing"),
    }
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}
