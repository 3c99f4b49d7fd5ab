use super::*;
use crate::control::status::SupervisorStatus;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::JoinHandle,
};

const NO_END: Duration = Duration::from_secs(60);

fn status(number: u64, state: &str, pid: i32) -> String {
    let upgrade = UpgradeStatus {
        number,
        kind: "reload".into(),
        state: state.into(),
        error: (state == "failed").then(|| "it did not come up".into()),
        gap_us: 4249,
        ..UpgradeStatus::default()
    };
    let supervisor = SupervisorStatus { pid, version: "0.9.0".into(), ..SupervisorStatus::default() };
    serde_json::to_string(&Status { supervisor, upgrade, ..Status::default() }).unwrap()
}

/// Gives each client the next answer, and says what they asked. The socket is away for a moment before
/// the answer `away`; an empty answer is a connection that is closed without one.
fn serve(name: &str, answers: Vec<String>) -> (PathBuf, JoinHandle<Vec<String>>) {
    let path = std::env::temp_dir().join(format!("proxy-handover-{name}-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut listener = UnixListener::bind(&path).unwrap();
    let socket = path.clone();
    let server = thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            if answer == "away" {
                std::fs::remove_file(&socket).unwrap();
                drop(listener);
                listener = UnixListener::bind(&socket).unwrap();
                continue;
            }
            let (mut stream, _) = listener.accept().unwrap();
            asked.push(read_line(&stream));
            // Who is told nothing may be gone already.
            let _ = stream.write_all(answer.as_bytes());
        }
        std::fs::remove_file(&socket).unwrap();
        asked
    });
    (path, server)
}

fn read_line(stream: &UnixStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_reload_is_over_when_the_successor_says_so() {
    let answers = vec![
        status(2, "done", 7),
        r#"{"done":"reload"}"#.into(),
        status(2, "done", 7),
        status(3, "preparing", 7),
        String::new(),
        "away".into(),
        status(3, "moving", 7),
        status(3, "done", 8),
    ];
    let (path, server) = serve("reload", answers);
    assert_eq!(reload(&path).unwrap(), "reloaded: proxy 0.9.0, supervisor 8, gap 4.2 ms");
    let asked = server.join().unwrap();
    assert_eq!(asked.len(), 7);
    assert_eq!(asked[..3], ["status\n", "reload\n", "status\n"]);
}

#[test]
fn the_stage_is_that_of_the_one_ordered() {
    let of = |number| UpgradeStatus { number, state: "preparing".into(), ..UpgradeStatus::default() };
    assert_eq!((stage(&of(4), 4), stage(&of(5), 4)), ("ordered", "preparing"));
}

#[test]
fn an_upgrade_that_failed_says_why() {
    let answers = vec![status(0, "none", 7), r#"{"done":"upgrade"}"#.into(), status(1, "failed", 7)];
    let (path, server) = serve("failed", answers);
    let error = upgrade(&path, Some(Path::new("/bin/sh"))).unwrap_err().to_string();
    assert_eq!(error, "upgrade failed, supervisor 7 goes on: it did not come up");
    assert_eq!(server.join().unwrap()[1], "upgrade /bin/sh\n");
}

#[test]
fn an_order_that_is_refused_is_not_waited_for() {
    let answers = vec![status(5, "failed", 7), r#"{"error":"draining"}"#.into()];
    let (path, server) = serve("refused", answers);
    assert_eq!(upgrade(&path, None).unwrap_err().to_string(), "draining");
    assert_eq!(server.join().unwrap()[1], "upgrade\n");
}

#[test]
fn patience_ends() {
    let (path, server) = serve("slow", vec![status(1, "moving", 7)]);
    let error = wait_for_end(&path, &Order::Reload, 0, Duration::ZERO).unwrap_err().to_string();
    assert!(error.starts_with("the reload is not over after 0 s"), "{error}");
    server.join().unwrap();
    let error = wait_for_end(&path, &Order::Reload, 0, Duration::ZERO).unwrap_err().to_string();
    assert!(error.starts_with("no proxy answers"), "{error}");
    let (path, server) = serve("quick", vec![status(1, "done", 7)]);
    assert_eq!(wait_for_end(&path, &Order::Reload, 0, NO_END).unwrap().supervisor.pid, 7);
    server.join().unwrap();
}

#[test]
fn a_binary_is_found_from_here() {
    assert_eq!(find_binary(Path::new("/bin/../bin/sh")).unwrap(), "/bin/../bin/sh");
    let here = std::env::current_dir().unwrap();
    assert_eq!(find_binary(Path::new("Cargo.toml")).unwrap(), here.join("Cargo.toml").to_str().unwrap());
    for (wrong, why) in [("no/such/proxy", "cannot be found (No such file"), ("/", "is no file")] {
        let error = find_binary(Path::new(wrong)).unwrap_err();
        assert!(error.starts_with(&format!("--binary {wrong}: {why}")), "{error}");
    }
}

#[test]
fn the_last_one_is_told_in_a_line() {
    let of = |number, state| {
        let line = status(number, state, 7);
        describe(&serde_json::from_str::<Status>(&line).unwrap().upgrade)
    };
    assert_eq!(of(0, "none"), None);
    let line = |how: &str| Some(format!("upgrades and reloads 0, failed 0   last: reload {how}"));
    assert_eq!(of(3, "done"), line("done, gap 4.2 ms"));
    assert_eq!(of(3, "failed"), line("failed: it did not come up"));
    assert_eq!(of(3, "moving"), line("moving"));
}
