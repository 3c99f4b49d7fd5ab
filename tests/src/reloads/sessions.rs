//! Sessions of real programs, open from the first reload to the last one: a WebSocket, an ssh connection, and a
//! transaction of PostgreSQL. Each goes on by small steps, and checks every answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tungstenite::{Message, client};

use super::{ECHO, POSTGRES, SSH, WEBSOCKET};
use crate::clients::connect;
use crate::net::at;
use crate::pattern;
use crate::process::{Guard, wait_for};
use crate::programs::{Server, host_and_port, postgres, program, run, ssh};
use crate::servers;
use crate::wait::{DEADLINE, until_true};

/// Between two steps.
const PAUSE: Duration = Duration::from_millis(20);

/// How far a session is.
#[derive(Default)]
struct Progress {
    steps: AtomicU64,
    is_over: AtomicBool,
}

impl Progress {
    /// A step is done; answers whether another one is to follow.
    fn step(&self) -> bool {
        self.steps.fetch_add(1, SeqCst);
        thread::sleep(PAUSE);
        !self.is_over.load(SeqCst)
    }

    fn steps(&self) -> u64 {
        self.steps.load(SeqCst)
    }
}

struct Session {
    name: &'static str,
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

impl Session {
    fn start(name: &'static str, run: impl FnOnce(&Progress) + Send + 'static) -> Self {
        let progress = Arc::new(Progress::default());
        let its = Arc::clone(&progress);
        Self { name, progress, thread: thread::spawn(move || run(&its)) }
    }
}

/// All of them, and their servers.
pub struct Sessions {
    all: Vec<Session>,
    websocket: servers::Tcp,
    sshd: Server,
    _postgres: Server,
}

impl Sessions {
    /// Begins them; their files are in this directory.
    #[track_caller]
    pub fn start(directory: &Path) -> Self {
        let [for_ssh, for_postgres] = ["ssh", "postgres"].map(|name| directory.join(name));
        for path in [&for_ssh, &for_postgres] {
            std::fs::create_dir(path).expect("create a directory");
        }
        let websocket = servers::Tcp::start(WEBSOCKET[1], servers::echo_messages);
        let sshd = ssh::start(&for_ssh, SSH[1]);
        let database = postgres::start(&for_postgres, POSTGRES[1]);
        let all = vec![
            Session::start("WebSocket", talk_by_messages),
            Session::start("ssh", move |progress| talk_by_ssh(progress, &for_ssh)),
            Session::start("PostgreSQL", move |progress| insert_rows(progress, &for_postgres)),
        ];
        let sessions = Self { all, websocket, sshd, _postgres: database };
        sessions.wait_steps(1);
        sessions
    }

    /// Waits until each has done so many steps more.
    #[track_caller]
    pub fn wait_steps(&self, more: u64) {
        let goals: Vec<u64> = self.all.iter().map(|session| session.progress.steps() + more).collect();
        for (session, goal) in self.all.iter().zip(goals) {
            until_true(&format!("the {} session goes on", session.name), || {
                assert!(!session.thread.is_finished(), "the {} session has ended", session.name);
                session.progress.steps() >= goal
            });
        }
    }

    /// Lets each come to its end; answers how many steps they were.
    #[track_caller]
    pub fn finish(self) -> String {
        self.all.iter().for_each(|session| session.progress.is_over.store(true, SeqCst));
        let end = |session: Session| {
            session.thread.join().expect("a session");
            format!("{} {} steps", session.name, session.progress.steps())
        };
        let ended: Vec<String> = self.all.into_iter().map(end).collect();
        assert_eq!(self.websocket.accepted(), 1, "one connection");
        assert_eq!(self.sshd.log().matches("Accepted publickey").count(), 1, "one session");
        ended.join(", ")
    }
}

fn talk_by_messages(progress: &Progress) {
    let url = format!("ws://{}/", WEBSOCKET[0]);
    let (mut socket, _) = client(url, connect(at(WEBSOCKET[0]))).expect("a handshake");
    loop {
        let number = progress.steps() as usize;
        let message = Message::binary(pattern::from(number * 1000, number * 7919 % 60_000));
        socket.send(message.clone()).expect("send");
        assert!(socket.read().expect("an answer") == message, "message {number}");
        if !progress.step() {
            return socket.close(None).expect("close");
        }
    }
}

/// Through sshd to the echo server: what goes in must come out.
fn talk_by_ssh(progress: &Progress, directory: &Path) {
    const SIZE: usize = 4096;
    let (host, port) = host_and_port(SSH[0]);
    let mut ssh = program("ssh", directory);
    ssh::client_options(&mut ssh);
    ssh.args(["-p", port, "-W", ECHO[1]]).arg(format!("nobody@{host}"));
    let mut ssh = Guard(ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start ssh"));
    let mut to = ssh.0.stdin.take().expect("piped");
    let mut from = ssh.0.stdout.take().expect("piped");
    let mut buffer = [0; SIZE];
    loop {
        let position = progress.steps() as usize * SIZE;
        let bytes = pattern::from(position, SIZE);
        to.write_all(bytes).expect("write to ssh");
        from.read_exact(&mut buffer).expect("read from ssh");
        assert!(buffer == *bytes, "wrong bytes from position {position}");
        if !progress.step() {
            break;
        }
    }
    drop(to);
    assert!(wait_for(&mut ssh.0, DEADLINE).expect("ssh ends").success());
}

/// One transaction, from the first row to the last; then another session looks at what it did.
fn insert_rows(progress: &Progress, directory: &Path) {
    let mut command = postgres::psql(directory, POSTGRES[0]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start psql");
    let mut psql = Guard(child);
    let mut to = psql.0.stdin.take().expect("piped");
    let mut answers = BufReader::new(psql.0.stdout.take().expect("piped")).lines();
    writeln!(to, "create table t (n int); begin;").expect("write");
    let mut session = None;
    loop {
        let row = progress.steps();
        writeln!(to, "insert into t values ({row}) returning n;").expect("write");
        writeln!(to, "select pg_backend_pid(), txid_current();").expect("write");
        let mut answer = || answers.next().expect("an answer").expect("read");
        assert_eq!(answer(), row.to_string());
        let now = answer();
        assert_eq!(session.get_or_insert_with(|| now.clone()), &now, "the same backend and transaction");
        if !progress.step() {
            break;
        }
    }
    writeln!(to, "commit;").expect("write");
    drop(to);
    assert!(wait_for(&mut psql.0, DEADLINE).expect("psql ends").success());
    let rows = progress.steps();
    let question = "--command=select count(*), sum(n) from t";
    let sum = rows * (rows - 1) / 2;
    assert_eq!(run(postgres::psql(directory, POSTGRES[1]).arg(question)), format!("{rows}|{sum}\n"));
}
