//! What is made of the command line's description: completions and manual pages.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

#[path = "../examples/man.rs"]
mod man;

fn completions(shell: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_proxy")).args(["completions", shell]).output();
    let output = output.expect("run proxy completions");
    assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a program with this as its standard input.
fn feed(program: &str, words: &[&str], input: &[u8]) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // Dropped at once, so that the program sees the end.
    child.stdin.take().expect("piped").write_all(input)?;
    child.wait_with_output()
}

#[test]
fn each_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = completions(shell);
        assert!(script.contains("failover") && script.contains("fence-after"), "{shell}: {script}");
    }
}

#[test]
fn bash_understands_its_completions() {
    let script = completions("bash");
    let output = feed("bash", &["-n"], script.as_bytes()).expect("bash");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let asked = "\nCOMP_WORDS=(proxy fail) COMP_CWORD=1\n_proxy proxy fail proxy\necho ${COMPREPLY[@]}\n";
    let output = feed("bash", &["--norc"], (script + asked).as_bytes()).expect("bash");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "failover failback", "{output:?}");
}

#[test]
fn proxy_and_each_verb_have_a_manual_page() {
    let directory = tempfile::tempdir().expect("temporary directory");
    man::write(directory.path()).expect("manual pages");
    let verbs =
        ["run", "check", "status", "sessions", "failover", "failback", "drain", "stop", "completions"];
    let names = verbs.map(|verb| format!("proxy-{verb}"));
    for name in names.into_iter().chain(["proxy".to_owned()]) {
        let page = fs::read(directory.path().join(format!("{name}.1"))).expect("a page");
        // Plain text, without letters printed over others (grotty(1)).
        let Ok(output) = feed("groff", &["-man", "-Tutf8", "-P-cbou", "-ww"], &page) else {
            println!("skipped: how pages look, since groff is not installed");
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}");
        assert!(text.contains("SYNOPSIS") && text.contains("OPTIONS"), "{name}: {text}");
    }
}
